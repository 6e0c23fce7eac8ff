"""Assembly of the gateway, with its database or a real PostgREST."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any

import psycopg

from scrapy_supabase.local.gateway.api import Api
from scrapy_supabase.local.gateway.auth import Keys
from scrapy_supabase.local.gateway.catalog import Catalog
from scrapy_supabase.local.gateway.database import Database
from scrapy_supabase.local.gateway.errors import ApiError
from scrapy_supabase.local.gateway.forward import Forward
from scrapy_supabase.local.gateway.server import GatewayServer

logger = logging.getLogger(__name__)

_RECONNECT = 0.5  # seconds


def serve(orders: dict[str, Any]) -> tuple[GatewayServer, str]:
    """Listen; return the server, which does not serve yet, and the name of the backend. Raises `OSError`."""
    address = (orders["host"], orders["port"])
    if orders["postgrest"]:
        forward = Forward(orders)
        server = GatewayServer(address, forward.answer)
        forward.start()
        return server, f"PostgREST ({orders['postgrest']})"
    database, schemas = Database(orders["db_url"]), tuple(orders["schemas"])
    catalog = Catalog(schemas, database.connection)
    server = GatewayServer(address, Api(database, catalog, Keys(orders["jwt_secret"]), schemas).answer)
    threading.Thread(target=_listen, args=(database, catalog), name="schema listener", daemon=True).start()
    threading.Thread(target=_warm_up, args=(catalog,), name="warm-up", daemon=True).start()
    return server, "scrapy-supabase gateway"


def _warm_up(catalog: Catalog) -> None:
    """Do work for which the first request would wait."""
    import jwt  # noqa: F401

    with contextlib.suppress(ApiError, psycopg.Error):
        _ = catalog.snapshot


def _listen(database: Database, catalog: Catalog) -> None:
    """Reload the catalog on `NOTIFY pgrst, 'reload schema'`.

    A lost connection may miss notifications, so the catalog is read again after reconnecting.
    """
    missed = False
    while True:
        try:
            with database.connect() as connection:
                connection.execute("LISTEN pgrst")
                if missed:
                    catalog.reload()
                    missed = False
                for notice in connection.notifies():
                    if notice.payload in ("", "reload schema"):
                        missed = True
                        catalog.reload()
                        missed = False
        except (psycopg.Error, ApiError) as error:
            logger.warning("The schema cannot be read, trying again: %s", error)
            missed = True
            time.sleep(_RECONNECT)
