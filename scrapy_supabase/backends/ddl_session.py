"""One transaction that creates what a database lacks, seen and changed under a lock (`SUPABASE_CREATE_TABLES`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import psycopg

from scrapy_supabase.backends.answers import classify_connection, classify_sql
from scrapy_supabase.backends.catalog import CATALOG_SQL, CatalogTable
from scrapy_supabase.backends.statements import execute_all
from scrapy_supabase.errors import ServerError

logger = logging.getLogger(__name__)

_LOCK = "select pg_advisory_xact_lock(hashtextextended($1, 0))"
_LOCK_TIMEOUT = "set local lock_timeout = '15s'"

Tables = Mapping[str, CatalogTable]


def change_tables(url: str, schema: str, sql_of: Callable[[Tables], str]) -> Tables:
    """Execute the SQL that `sql_of` returns for the tables of a database schema, and return the tables after that.

    Without SQL, nothing is locked. Two runs that do so at once wait for each other, so that the second finds what the
    first has created. Each statement is logged. Blocks. Raises `ServerError`; nothing is changed then.
    """
    try:
        with psycopg.Connection.connect(
            url, autocommit=True, connect_timeout=15, prepare_threshold=None, cursor_factory=psycopg.RawCursor
        ) as connection:
            tables = _tables(connection, schema)
            if not sql_of(tables):
                return tables
            with connection.transaction():
                connection.execute(_LOCK_TIMEOUT)
                connection.execute(_LOCK, [f"scrapy-supabase {schema}"])
                if sql := sql_of(_tables(connection, schema)):
                    execute_all(connection, sql, _log)
            return _tables(connection, schema)
    except psycopg.Error as error:
        raise _classified(error) from error


def _log(statement: str) -> None:
    logger.info("SUPABASE_CREATE_TABLES: %s", statement)


def _tables(connection: psycopg.Connection[Any], schema: str) -> Tables:
    row = connection.execute(CATALOG_SQL, [schema]).fetchone()
    return msgspec.convert(row[0] if row else {}, type=dict[str, CatalogTable])


def _classified(error: psycopg.Error) -> ServerError:
    diag = error.diag
    if error.sqlstate is None:
        return classify_connection(str(error).strip())
    return classify_sql(error.sqlstate, diag.message_primary or "", diag.message_detail, diag.message_hint)
