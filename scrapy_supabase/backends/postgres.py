"""The database as a backend: the statement PostgREST would run, with the same bytes, without the HTTP hop.

psycopg makes the connections; statements go through its `pq` (libpq itself), which alone can send a chunk without
waiting and give up a server that does not answer. A statement is one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import psycopg
from psycopg import conninfo, pq

from scrapy_supabase.backends.answers import classify_connection, classify_sql
from scrapy_supabase.backends.base import Merged, PendingWrite, Select, ServerFacts, TableInfo, View, Write
from scrapy_supabase.backends.bounded_cache import BoundedCache
from scrapy_supabase.backends.bulk_sql import BulkInsert, array_literal, quote, returning_json, select_json
from scrapy_supabase.backends.catalog import CATALOG_SQL, CatalogTable
from scrapy_supabase.backends.filters import Filter, to_sql
from scrapy_supabase.backends.merge_sql import STATEMENT_SQL, merged, options_of
from scrapy_supabase.backends.pg_connections import PgConnections
from scrapy_supabase.backends.pg_statement import error_of
from scrapy_supabase.backends.stored_rows import count_sql, delete_sql, update_sql
from scrapy_supabase.errors import ServerError
from scrapy_supabase.models import Mode

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 15,
    "fallback_application_name": "scrapy-supabase",
    # A connection that a router has dropped is detected within a minute instead of two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}


class PostgresBackend:
    """The tables of one database schema, over connections to `url` (any connection string that libpq accepts).

    `timeout` is the number of seconds a statement may take, `connections` the number of idle connections to keep. The
    password is only in the connection string, never in a message.
    """

    def __init__(self, url: str, *, schema: str = "public", timeout: float = 65.0, connections: int = 4) -> None:
        parameters = conninfo.conninfo_to_dict(url)
        self._conninfo = conninfo.make_conninfo(**{**_DEFAULTS, **parameters, "client_encoding": "utf8"})
        self._host = f"{parameters.get('host', 'localhost')}:{parameters.get('port', 5432)}"
        self._schema = schema
        self._connections = PgConnections(self._conninfo, timeout=timeout, size=connections, judge=self._judge)
        self._tables: dict[str, CatalogTable] | None = None
        self._statements = BoundedCache[tuple[object, ...], bytes]()

    def __repr__(self) -> str:
        return f"<PostgresBackend {self._host}>"

    def send(self, write: Write) -> PendingWrite | None:
        """Send a write without waiting; return None if no connection is ready for it."""
        sql = None if write.merge else self._statements.get(write.shape)
        return self._connections.send(sql, write.body, write.table) if sql else None

    def write(self, write: Write) -> Merged | None:
        """Store the rows, all or none; see `base.Backend`. Raises `ServerError`."""
        sql = self._statements.get(write.shape)
        if sql is None:
            sql = self._statements[write.shape] = self._merge(write) if write.merge else self._statement(write)
        found = self._connections.run_prepared(sql, write.body, write.table)
        return merged(found or b"") if write.merge else None

    def merges(self) -> bool:
        """Return True: the statement needs no function here."""
        return True

    def insert_new(self, write: Write, returning: Sequence[str]) -> bytes:
        """Insert the rows whose key is not stored yet; see `base.Backend`."""
        table = self._table(write)
        defaults = {column: table.defaults[column] for column in write.columns if column in table.defaults}
        sql = returning_json(self._insert(write, table, merge=False, defaults=defaults or None), returning)
        return self._connections.run(sql.encode(), [write.body], table=write.table) or b"[]"

    def select(self, select: Select) -> bytes:
        """Return rows of a table; see `base.Backend`."""
        parameters: list[bytes] = []
        where, order = to_sql(select.where, parameters), [(each.column, each.descending) for each in select.order]
        sql = select_json(self._schema, select.table, select.columns, where, order, select.limit)
        return self._connections.run(sql.encode(), parameters, table=select.table) or b"[]"

    def count(self, table: str, where: Sequence[Filter]) -> int:
        """Return the number of rows that meet all conditions; see `base.Backend`."""
        parameters: list[bytes] = []
        return self._number(table, count_sql(self._qualified(table), where, parameters), parameters)

    def update(self, table: str, where: Sequence[Filter], columns: Sequence[str], values: bytes) -> int:
        """Set columns of rows; see `base.Backend`."""
        types = self._table(Write(table, tuple(columns), b"", Mode.UPDATE)).types
        parameters = [values]
        sql = update_sql(self._qualified(table), {name: types[name] for name in columns}, where, parameters)
        return self._number(table, sql, parameters)

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        """Delete rows; see `base.Backend`."""
        parameters: list[bytes] = []
        return self._number(table, delete_sql(self._qualified(table), where, parameters), parameters)

    def describe(self) -> Mapping[str, TableInfo]:
        """Describe all tables of the schema, from the catalog. Raises `ServerError`."""
        return {name: table.info for name, table in self._read_catalog().items()}

    def view(self, table: str) -> View | None:
        """Describe a view, from the catalog; see `base.Backend`."""
        found = (self._tables or self._read_catalog()).get(table)
        return found.view if found else None

    def type_of(self, table: str, column: str) -> str:
        """Return the type by which a column's keys are compared, from the catalog; see `base.Backend`."""
        found = (self._tables or {}).get(table) or self._read_catalog().get(table)
        return found.key_types.get(column, "") if found else ""

    def facts(self) -> ServerFacts:
        """Ask for version, time and role. Raises `ServerError`."""
        found = self._connections.run(
            b"SELECT json_build_array(current_setting('server_version'), date_trunc('second', now()), rolname, "
            b"rolsuper OR rolbypassrls) FROM pg_roles WHERE rolname = current_user"
        )
        version, clock, role, bypasses = msgspec.json.decode(found or b"[]", type=tuple[str, datetime, str, bool])
        return ServerFacts(f"PostgreSQL {version.partition(' ')[0]}", clock, role, bypasses)

    def dry_run(self, write: Write) -> None:
        """Run the write in a transaction and roll it back; see `base.Backend`."""
        statement = self._statement(write)
        try:
            with psycopg.Connection.connect(self._conninfo, cursor_factory=psycopg.RawCursor) as connection:
                connection.execute(statement, [write.body.decode()])
                connection.rollback()
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise classify_connection(str(error).strip()) from error
            diag = error.diag
            raise classify_sql(
                error.sqlstate,
                diag.message_primary or "",
                diag.message_detail,
                diag.message_hint,
                table=write.table,
            ) from error

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function with named arguments: texts, lists of texts, and dicts as JSON. Raises `ServerError`."""
        named = ", ".join(f"{quote(name)} => ${n}" for n, name in enumerate(arguments, 1))
        called = f"{self._qualified(function)}({named})"
        sql = f"SELECT to_json(pgrst_scalar) FROM {called} AS pgrst_scalar"  # noqa: S608 (quoted names, no values)
        found = self._connections.run(sql.encode(), [_argument(value) for value in arguments.values()])
        return msgspec.json.decode(found) if found else None

    def lacks_function(self, function: str, arguments: Sequence[str]) -> bool:
        """Look the function up in the catalog; see `base.Backend`."""
        values = [self._schema, function, array_literal(arguments), str(len(arguments))]
        found = self._connections.run(
            b"SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident($1)) AND proname = $2 "
            b"AND proargnames[:pronargs] @> $3::text[] AND pronargs - pronargdefaults <= $4::int",
            [value.encode() for value in values],
        )
        return found == b"0"

    def close(self) -> None:
        """Close idle connections."""
        self._connections.close()

    def _qualified(self, table: str) -> str:
        return f"{quote(self._schema)}.{quote(table)}"

    def _number(self, table: str, sql: str, parameters: Sequence[bytes]) -> int:
        return int(self._connections.run(sql.encode(), parameters, table=table) or b"0")

    def _read_catalog(self) -> dict[str, CatalogTable]:
        found = self._connections.run(CATALOG_SQL, [self._schema.encode()])
        tables = self._tables = msgspec.json.decode(found or b"{}", type=dict[str, CatalogTable])
        return tables

    def _statement(self, write: Write) -> bytes:
        return self._insert(write, self._table(write)).encode()

    def _merge(self, write: Write) -> bytes:
        """Return the statement that `merge_sql` builds for a write."""
        table = self._table(write)
        write = msgspec.structs.replace(write, on_conflict=write.on_conflict or tuple(table.primary_key))
        parameters = [self._schema.encode(), write.table.encode(), options_of(write)]
        return self._connections.run(STATEMENT_SQL, parameters, table=write.table) or b""

    def _insert(
        self, write: Write, table: CatalogTable, *, merge: bool = True, defaults: Mapping[str, str] | None = None
    ) -> str:
        insert = BulkInsert(
            self._schema,
            write.table,
            {column: table.types[column] for column in write.columns},
            on_conflict=() if write.mode is Mode.INSERT else write.on_conflict or table.primary_key,
            merge=merge and write.mode.updates,
            defaults=defaults,
        )
        return insert.sql()

    def _table(self, write: Write) -> CatalogTable:
        """Return the catalog's entry for the table of `write`. Raises `ServerError` if it or a column is missing."""
        table = self._tables.get(write.table) if self._tables else None
        table = table or self._read_catalog().get(write.table)
        if table is None:
            raise classify_sql("42P01", f"Could not find the table '{self._schema}.{write.table}'", table=write.table)
        if any(column not in table.types for column in write.columns):  # the table may have changed since
            table = self._read_catalog().get(write.table, table)
        for column in write.columns:
            if column not in table.types:
                raise classify_sql("42703", f"column {quote(column)} of relation {quote(write.table)} does not exist")
        return table

    def _judge(self, table: str, result: pq.abc.PGresult) -> ServerError:
        """Return the error for a failed statement about `table`; forget the catalog if it may be out of date."""
        error = error_of(result, table)
        if error.stale_schema:
            self._tables = None
            self._statements.clear()
        return error


def _argument(value: Any) -> bytes:
    """Return a function's argument as text."""
    if isinstance(value, Mapping):
        return msgspec.json.encode(value)
    return (array_literal(value) if isinstance(value, list) else str(value)).encode()
