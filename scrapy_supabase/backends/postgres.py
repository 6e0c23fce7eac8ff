"""A database connection as a backend: the statement PostgREST would run, with the same bytes, without the HTTP hop.

Connections are made by psycopg; rows go through its `pq` (libpq itself), because only so the owner's thread can send a
chunk without waiting, and a server that does not answer can be given up. A statement is one transaction. Where the
server process that answers is the one that was connected to, it is prepared (a third of the time of 100 rows is
planning), and all are dropped when there are many; behind a pooler none is prepared, and nothing is left behind in a
session that may be another's with the next statement. No `psycopg_pool`: it tells a wrong password only as a timeout
(measured), and a connection for each upload is all there is to pool.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
import psycopg
from psycopg import conninfo, pq

from scrapy_supabase.backends.answers import classify_connection, classify_sql
from scrapy_supabase.backends.base import BegunWrite, ServerFacts, TableInfo, View, Write
from scrapy_supabase.backends.bounded_cache import BoundedCache
from scrapy_supabase.backends.bulk_sql import BulkInsert, array_literal, quote, returning_json
from scrapy_supabase.backends.catalog import CATALOG_SQL, CatalogTable
from scrapy_supabase.backends.idle import IdleConnections, silence
from scrapy_supabase.errors import ServerError, TransientError
from scrapy_supabase.models import Mode

_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 15,
    "fallback_application_name": "scrapy-supabase",
    # A connection that a router forgot is found out in a minute, not in two hours.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
_CANCEL_TIMEOUT = 2.0  # seconds
# Each takes the server some 40 KB in each of its processes, and items with 30 optional fields make thousands.
_MOST_PREPARED = 50
# The row type of each stays in the process all the same (3 KB, for 30 columns): a new connection is a new process.
_MOST_ON_A_CONNECTION = 1000
_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class _Link:
    """A connection, whether it is to the database itself, and the statements that are prepared on it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.pgconn = connection.pgconn
        self.direct = False
        self.prepared: dict[bytes, bytes] = {}  # statement → its name
        self.dropped = 0  # statements that were prepared

    def close(self) -> None:
        self.connection.close()


class PostgresBackend:
    """The tables of one database schema, over connections to `url` (any connection string that libpq takes).

    `timeout` is the seconds a statement may take, `connections` how many connections are kept. The password is in the
    connection string only and never in a message.
    """

    def __init__(self, url: str, *, schema: str = "public", timeout: float = 65.0, connections: int = 4) -> None:
        given = conninfo.conninfo_to_dict(url)
        self._conninfo = conninfo.make_conninfo(**{**_DEFAULTS, **given, "client_encoding": "utf8"})
        self._where = f"{given.get('host', 'localhost')}:{given.get('port', 5432)}"
        self._schema = schema
        self._timeout = timeout
        self._idle = IdleConnections[_Link](connections, lambda link: link.pgconn.socket)
        self._tables: dict[str, CatalogTable] | None = None
        self._statements = BoundedCache[tuple[object, ...], bytes]()

    def __repr__(self) -> str:
        return f"<PostgresBackend {self._where}>"

    def begin(self, write: Write) -> BegunWrite | None:
        """Send a write, as far as that needs no waiting; None where no connection is idle."""
        sql = self._statements.get(_shape(write))
        link = self._idle.take() if sql else None
        if sql is None or link is None:
            return None
        if link.direct and sql not in link.prepared:  # by a thread, that may wait
            self._idle.put(link)
            return None
        try:
            return _Sent(self._idle, link, self._timeout, sql, [write.body], judge=partial(self._judge, write.table))
        except psycopg.Error:
            link.close()  # nothing was sent that a server could have acted on
            return None

    def write(self, write: Write) -> None:
        """Store the rows, all or none. Raises `ServerError`."""
        shape = _shape(write)
        sql = self._statements.get(shape)
        if sql is None:
            sql = self._statements[shape] = self._statement(write)
        link = self._idle.take() or self._connect()
        if link.direct and sql not in link.prepared:
            self._prepare(link, sql, write.table)
            link = self._idle.take() or self._connect()
        self._send(link, sql, [write.body], table=write.table).finish()

    def insert_new(self, write: Write, returning: Sequence[str]) -> bytes:
        """Insert the rows whose key is not there; see `base.Backend`."""
        table = self._table(write)
        defaults = {column: table.defaults[column] for column in write.columns if column in table.defaults}
        sql = returning_json(self._insert(write, table, merge=False, defaults=defaults or None), returning)
        sent = self._send(self._idle.take() or self._connect(), sql.encode(), [write.body], table=write.table)
        sent.finish()
        return sent.value or b"[]"

    def describe(self) -> Mapping[str, TableInfo]:
        """Read the catalog."""
        tables = self._read_catalog()
        return {
            name: TableInfo(
                table.formats,
                tuple(table.primary_key),
                frozenset(table.required),
                partial_indexes=table.partial_indexes,
                made=table.made,
                deferrable=table.deferrable,
                key_types=table.key_types,
                newest=table.newest,
            )
            for name, table in tables.items()
        }

    def view(self, table: str) -> View | None:
        """See the catalog."""
        found = (self._tables or self._read_catalog()).get(table)
        return found.view if found else None

    def type_of(self, table: str, column: str) -> str:
        """See the catalog."""
        found = (self._tables or {}).get(table) or self._read_catalog().get(table)
        return found.key_types.get(column, "") if found else ""

    def facts(self) -> ServerFacts:
        """Ask for version, time and role."""
        found = self._ask(
            b"SELECT json_build_array(current_setting('server_version'), date_trunc('second', now()), rolname, "
            b"rolsuper OR rolbypassrls) FROM pg_roles WHERE rolname = current_user"
        )
        version, clock, role, bypasses = msgspec.json.decode(found or b"[]", type=tuple[str, datetime, str, bool])
        return ServerFacts(f"PostgreSQL {version.partition(' ')[0]}", clock, role, bypasses)

    def rehearse(self, write: Write) -> None:
        """Send it in a transaction, and roll that back."""
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
                *(error.sqlstate, diag.message_primary or "", diag.message_detail, diag.message_hint),
                table=write.table,
            ) from error

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function with named arguments: texts, and lists of them."""
        given = ", ".join(f"{quote(name)} => ${n}" for n, name in enumerate(arguments, 1))
        sql = f"SELECT to_json({quote(self._schema)}.{quote(function)}({given}))"
        values = [array_literal(v) if isinstance(v, list) else str(v) for v in arguments.values()]
        found = self._ask(sql.encode(), [value.encode() for value in values])
        return msgspec.json.decode(found) if found else None

    def close(self) -> None:
        """Close idle connections."""
        self._idle.close()

    def _read_catalog(self) -> dict[str, CatalogTable]:
        found = self._ask(CATALOG_SQL, [self._schema.encode()])
        tables = self._tables = msgspec.json.decode(found or b"{}", type=dict[str, CatalogTable])
        return tables

    def _statement(self, write: Write) -> bytes:
        return self._insert(write, self._table(write)).encode()

    def _insert(
        self, write: Write, table: CatalogTable, *, merge: bool = True, defaults: Mapping[str, str] | None = None
    ) -> str:
        insert = BulkInsert(
            self._schema,
            write.table,
            {column: table.types[column] for column in write.columns},
            on_conflict=() if write.mode is Mode.INSERT else write.on_conflict or table.primary_key,
            merge=merge and write.mode is Mode.UPSERT,
            defaults=defaults,
        )
        return insert.sql()

    def _table(self, write: Write) -> CatalogTable:
        """What the catalog tells of the table of `write`. Raises `ServerError` where it or a column is missing."""
        table = self._tables.get(write.table) if self._tables else None
        table = table or self._read_catalog().get(write.table)
        if table is None:
            raise classify_sql("42P01", f"Could not find the table '{self._schema}.{write.table}'", table=write.table)
        if any(column not in table.types for column in write.columns):  # one that is new may be in the catalog by now
            table = self._read_catalog().get(write.table, table)
        for column in write.columns:
            if column not in table.types:
                raise classify_sql("42703", f"column {quote(column)} of relation {quote(write.table)} does not exist")
        return table

    def _judge(self, table: str, result: pq.abc.PGresult) -> ServerError:
        """What an answer to a statement for `table` means."""
        error = _error(result, table)
        if error.stale_schema:  # of the table as it was when its statements were made
            self._tables = None
            self._statements.clear()
        return error

    def _ask(self, sql: bytes, parameters: Sequence[bytes] = ()) -> bytes | None:
        sent = self._send(self._idle.take() or self._connect(), sql, parameters)
        sent.finish()
        return sent.value

    def _send(
        self, link: _Link, sql: bytes, parameters: Sequence[bytes] = (), prepare: bytes | None = None, table: str = ""
    ) -> _Sent:
        try:
            return _Sent(self._idle, link, self._timeout, sql, parameters, prepare, judge=partial(self._judge, table))
        except psycopg.Error as error:
            link.close()
            raise _lost(error, ambiguous=False) from error

    def _prepare(self, link: _Link, sql: bytes, table: str) -> None:
        try:
            if len(link.prepared) >= _MOST_PREPARED:
                if link.dropped >= _MOST_ON_A_CONNECTION:
                    link.close()
                    link = self._connect()
                else:
                    self._send(link, b"DEALLOCATE ALL").finish(keep=False)
                    link.dropped += len(link.prepared)
                    link.prepared.clear()
            name = f"scrapy_supabase_{len(link.prepared)}".encode()
            self._send(link, sql, prepare=name, table=table).finish()
        except TransientError as error:
            error.ambiguous = False  # no row was sent
            raise
        link.prepared[sql] = name

    def _connect(self) -> _Link:
        try:
            link = _Link(psycopg.Connection.connect(self._conninfo, autocommit=True))
        except psycopg.Error as error:
            raise classify_connection(str(error).strip()) from error
        # A pooler has numbers of its own for its clients.
        sent = self._send(link, b"SELECT pg_backend_pid()")
        sent.finish(keep=False)
        link.direct = sent.value == str(link.pgconn.backend_pid).encode()
        return link


class _Sent:
    """A statement that is on its way. See `base.BegunWrite`. Raises `psycopg.Error` where it could not be sent.

    With a name to `prepare` it by, it is only prepared. `judge` tells what an error means.
    """

    def __init__(
        self,
        idle: IdleConnections[_Link],
        link: _Link,
        timeout: float,
        sql: bytes,
        parameters: Sequence[bytes] = (),
        prepare: bytes | None = None,
        *,
        judge: Callable[[pq.abc.PGresult], ServerError],
    ) -> None:
        self._judge = judge
        self._idle = idle
        self._link = link
        self._pgconn = link.pgconn
        self._timeout = timeout
        self._failed: pq.abc.PGresult | None = None
        self.value: bytes | None = None  # the first of the first row, as text
        self._lost: psycopg.Error | None = None
        self._silence = 0.0
        if prepare is not None:
            self._pgconn.send_prepare(prepare, sql)
        elif (name := link.prepared.get(sql)) is not None:
            self._pgconn.send_query_prepared(name, list(parameters))
        else:
            self._pgconn.send_query_params(sql, list(parameters))
        self._unsent = self._pgconn.flush() == 1

    def stored(self) -> bool | None:
        if self._unsent:
            return False
        if not self._is_over():
            return None
        if self._lost or self._failed:
            return False
        self._silence = _silence(self._pgconn.socket)
        self._idle.put(self._link)
        return True

    def received(self) -> bool:
        return not self._unsent and self._is_over()

    def silence(self) -> float:
        return self._silence

    def fileno(self) -> int:
        return self._pgconn.socket

    def finish(self, *, keep: bool = True) -> None:
        try:
            self._wait()
        except BaseException:
            self._link.close()
            raise
        if self._lost or self._pgconn.transaction_status != pq.TransactionStatus.IDLE:
            self._link.close()
        elif keep:
            self._idle.put(self._link)
        if self._failed is not None:
            raise self._judge(self._failed)
        if self._lost is not None:
            raise _lost(self._lost, ambiguous=True) from self._lost

    def abandon(self) -> None:
        self._link.close()

    def _wait(self) -> None:
        until = time.monotonic() + self._timeout
        poll = select.poll()
        while True:
            if self._unsent:
                try:
                    self._unsent = self._pgconn.flush() == 1
                except psycopg.Error as error:  # the server may have said why before it hung up
                    self._unsent, self._lost = False, error
            if self._is_over():
                return
            poll.register(self._pgconn.socket, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            rest = until - time.monotonic()
            if rest <= 0 or not poll.poll(rest * 1000):
                self._cancel()
                silent = TransientError(f"no answer for {self._timeout:g} s (SUPABASE_TIMEOUT)", code="TimeoutError")
                silent.ambiguous = True
                raise silent

    def _is_over(self) -> bool:
        """Take in what has come; whether that is all. Never waits."""
        if self._lost is None or self._failed is None:
            try:
                self._pgconn.consume_input()
            except psycopg.Error as error:
                self._lost = error
        while not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                return True
            if result.status not in _GOOD:
                # Of a connection that was lost, libpq makes a result of its own, which has no code.
                if result.error_field(pq.DiagnosticField.SQLSTATE) is None:
                    self._lost = self._lost or psycopg.OperationalError(_text(result.error_message))
                else:
                    self._failed = self._failed or result
            elif result.ntuples and result.nfields:
                self.value = result.get_value(0, 0)
        return self._lost is not None

    def _cancel(self) -> None:
        """Let the server end what nobody waits for any more: tried again, it would wait for its own locks."""
        if psycopg.capabilities.has_cancel_safe():
            with suppress(psycopg.Error):
                self._link.connection.cancel_safe(timeout=_CANCEL_TIMEOUT)


def _shape(write: Write) -> tuple[object, ...]:
    return write.table, write.columns, write.mode, write.on_conflict


def _error(result: pq.abc.PGresult, table: str) -> ServerError:
    field = pq.DiagnosticField
    code, message, details, hint = (
        _text(value) if (value := result.error_field(each)) else None
        for each in (field.SQLSTATE, field.MESSAGE_PRIMARY, field.MESSAGE_DETAIL, field.MESSAGE_HINT)
    )
    return classify_sql(code or "", message or "the answer has no message", details, hint, table=table)


def _lost(error: psycopg.Error, *, ambiguous: bool) -> TransientError:
    made = TransientError(" ".join(str(error).split()) or "the connection was lost", code="08006")
    made.unanswered, made.ambiguous = True, ambiguous
    return made


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _silence(number: int) -> float:
    sock = socket.socket(fileno=number)
    try:
        return silence(sock)
    finally:
        sock.detach()
