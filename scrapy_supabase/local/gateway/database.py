"""Connections, and the transaction of a request: role, settings as PostgREST makes them, and statement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, LifoQueue
from typing import Any

import psycopg
from psycopg import RawCursor
from psycopg.adapt import Dumper
from psycopg.pq import Format

from scrapy_supabase.local.gateway.auth import Caller
from scrapy_supabase.local.gateway.errors import ApiError, from_database

_POOL_SIZE = 10
_POOL_TIMEOUT = 10.0  # seconds, as PostgREST
_START_TIMEOUT = 10.0  # seconds to wait for a database that is starting
_TRIES = 10  # retries of a transaction that conflicts with another one
_RETRY_TIME = 5.0  # seconds after which no retry starts

Row = tuple[Any, ...]


class JsonBody(bytes):
    """Body of a request, sent as `json` without parsing."""


class _JsonBodyDumper(Dumper):
    oid = 114
    # Binary, because libpq would end a text at its first NUL and store less than was sent.
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


@dataclass(frozen=True, slots=True)
class Context:
    """Context of a request that its SQL can read: caller, route, and the settings of the role."""

    # Nine fields: the sources of a transaction's settings.
    caller: Caller
    schema: str
    method: str
    path: str
    headers: str  # JSON
    cookies: str  # JSON
    role_settings: Sequence[tuple[str, str]] = ()
    timezone: str = ""
    deferrable: bool = False

    def settings(self) -> list[tuple[str, str]]:
        """Return the settings of the transaction; the role follows those that the login role makes for it."""
        schema = '"' + self.schema.replace('"', '""') + '"'
        return [
            ("search_path", f'{schema}, "public", "extensions"'),
            *self.role_settings,
            ("role", self.caller.role),
            ("request.jwt.claims", self.caller.claims),
            ("request.method", self.method),
            ("request.path", self.path),
            ("request.headers", self.headers),
            ("request.cookies", self.cookies),
            *([("timezone", self.timezone)] if self.timezone else []),
        ]


@dataclass(slots=True)
class Plan:
    """Statement that returns one row. `check(row)` may raise `ApiError`, which rolls back the transaction.

    `absent` is the row to use if the statement returns none.
    """

    sql: str
    parameters: Sequence[Any]
    read_only: bool = False
    check: Callable[[Row], None] | None = None
    explain: tuple[str, Sequence[Any]] | None = None  # query whose row count is to be estimated
    settings: Sequence[tuple[str, str]] = ()
    absent: Row | None = None
    estimate: int | None = field(default=None)


class Database:
    """Pool of connections as `authenticator`. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: LifoQueue[psycopg.Connection[Any]] = LifoQueue()
        self._places = threading.BoundedSemaphore(_POOL_SIZE)
        self._starting_until = time.monotonic() + _START_TIMEOUT

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Borrow a connection in autocommit mode. Raises `ApiError` if none can be opened."""
        if not self._places.acquire(timeout=_POOL_TIMEOUT):
            raise ApiError(504, "PGRST003", "Timed out acquiring connection from connection pool.")
        connection = None
        try:
            with suppress(Empty):
                connection = self._idle.get_nowait()
            if connection is None or connection.closed:
                connection = self.connect()
            yield connection
        finally:
            if connection is not None and not connection.closed:
                self._idle.put(connection)
            self._places.release()

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection; wait if the database is starting."""
        while True:
            try:
                connection = psycopg.connect(
                    self._url,
                    autocommit=True,
                    cursor_factory=RawCursor,
                    connect_timeout=5,
                    prepare_threshold=None,  # psycopg loses track of prepared statements when a pipeline fails
                )
                break
            except psycopg.OperationalError as error:
                if time.monotonic() > self._starting_until:
                    message = "Database connection error."
                    raise ApiError(503, "PGRST000", message, details=str(error).strip()) from error
                time.sleep(0.01)
        self._starting_until = 0.0
        connection.adapters.register_dumper(JsonBody, _JsonBodyDumper)
        return connection

    def run(self, context: Context, plan: Plan) -> Row:
        """Run a plan as its caller, in one transaction, and in one round trip unless it has a `check`.

        A statement that conflicts with another transaction is retried, as PostgREST 14 does, but not forever: a
        trigger may raise 40001 each time. Raises `ApiError`.
        """
        until = time.monotonic() + _RETRY_TIME
        with self.connection() as connection:
            for left in reversed(range(_TRIES)):
                try:
                    return self._transaction(connection, context, plan)
                except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected) as error:
                    _clean_up(connection)
                    if left == 0 or time.monotonic() > until:
                        raise from_database(error, anonymous=context.caller.anonymous) from error
                except psycopg.Error as error:
                    _clean_up(connection)
                    if error.sqlstate is None and isinstance(error, psycopg.DataError):  # NUL in a text
                        raise ApiError(400, "22021", 'invalid byte sequence for encoding "UTF8": 0x00') from error
                    raise from_database(error, anonymous=context.caller.anonymous) from error
                except BaseException:
                    _clean_up(connection)
                    raise
        raise AssertionError("unreachable")

    def _transaction(self, connection: psycopg.Connection[Any], context: Context, plan: Plan) -> Row:
        local = [*context.settings(), *plan.settings]
        if plan.read_only:
            local.append(("transaction_read_only", "on"))
        calls = (f"set_config(${n}, ${n + 1}, true)" for n in range(1, 2 * len(local), 2))
        values = [value for pair in local for value in pair]
        explained = None
        with connection.pipeline():
            # A pipeline is one transaction; BEGIN is needed only if `check` decides how it ends.
            if plan.check is not None:
                connection.execute("BEGIN")
            connection.execute(f"SELECT {', '.join(calls)}", values)
            if plan.explain is not None:
                explained = connection.execute(f"EXPLAIN (FORMAT JSON) {plan.explain[0]}", plan.explain[1])
            cursor = connection.execute(plan.sql, plan.parameters)
            if context.deferrable and plan.check is None and not plan.read_only:
                # Check deferred constraints now: psycopg cannot handle an error of the commit itself in a pipeline.
                connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        row: Row | None = cursor.fetchone() or plan.absent
        if row is None:
            raise ApiError(500, "PGRSTX00", "The statement returned no row.")
        if explained is not None:
            found = explained.fetchone()
            plan.estimate = int(found[0][0]["Plan"]["Plan Rows"]) if found else None
        if plan.check is not None:
            plan.check(row)
            connection.execute("COMMIT")
        return row


def _clean_up(connection: psycopg.Connection[Any]) -> None:
    with suppress(psycopg.Error):
        connection.execute("ROLLBACK")
        return
    connection.close()
