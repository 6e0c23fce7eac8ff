"""Stands in for the PostgREST program: heeds the same variables, serves without the `/rest/v1` prefix.

No real PostgREST can be had on the machines that run these tests; how it is found, started, forwarded to and ended is
what can be tested with a program of our own. Its answers are the gateway's.
"""

from __future__ import annotations

import os

from scrapy_supabase.local.gateway.api import PREFIX, Api
from scrapy_supabase.local.gateway.auth import Keys
from scrapy_supabase.local.gateway.catalog import Catalog
from scrapy_supabase.local.gateway.database import Database
from scrapy_supabase.local.gateway.errors import Response
from scrapy_supabase.local.gateway.server import GatewayServer

if __name__ == "__main__":
    schemas = tuple(os.environ["PGRST_DB_SCHEMAS"].split(","))
    database = Database(os.environ["PGRST_DB_URI"])
    api = Api(database, Catalog(schemas, database.connection), Keys(os.environ["PGRST_JWT_SECRET"]), schemas)

    def answer(method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """Answer, and say that it was us."""
        found = api.answer(method, PREFIX + target, headers, body)
        return Response(found.status, found.body, {**found.headers, "x-answered-by": "stand-in"})

    address = (os.environ["PGRST_SERVER_HOST"], int(os.environ["PGRST_SERVER_PORT"]))
    GatewayServer(address, answer).serve_forever()
