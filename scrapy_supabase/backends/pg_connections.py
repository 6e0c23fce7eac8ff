"""Connections to one database, the statements that are prepared on them, and how one is sent.

Where the server process that answers is the one that was connected to, a statement is prepared (a third of the time of
100 rows is planning), and all are dropped when there are many; behind a pooler none is prepared, and nothing is left
behind in a session that may be another's with the next statement. No `psycopg_pool`: it tells a wrong password only as
a timeout (measured), and a connection for each upload is all there is to pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import psycopg
from psycopg import pq

from scrapy_supabase.backends.answers import classify_connection
from scrapy_supabase.backends.idle import IdleConnections
from scrapy_supabase.backends.pg_link import Link
from scrapy_supabase.backends.pg_statement import SentStatement, connection_lost
from scrapy_supabase.errors import ServerError, TransientError

# Each takes the server some 40 KB in each of its processes, and items with 30 optional fields make thousands.
_MOST_PREPARED = 50
# The row type of each stays in the process all the same (3 KB, for 30 columns): a new connection is a new process.
_MOST_ON_A_CONNECTION = 1000


class PgConnections:
    """At most `size` idle connections to `conninfo`; a statement may take `timeout` seconds. Thread-safe.

    `judge(table, result)` tells what an error means that answers a statement for `table`.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        timeout: float,
        size: int,
        judge: Callable[[str, pq.abc.PGresult], ServerError],
    ) -> None:
        self._conninfo = conninfo
        self._timeout = timeout
        self._judge = judge
        self._idle = IdleConnections[Link](size, lambda link: link.pgconn.socket)

    def send(self, sql: bytes, body: bytes, table: str) -> SentStatement | None:
        """Send a statement, as far as that needs no waiting; None where no idle connection is ready for it."""
        link = self._idle.take()
        if link is None:
            return None
        if link.direct and sql not in link.prepared:  # by a thread, that may wait
            self._idle.put(link)
            return None
        try:
            return SentStatement(self._idle, link, self._timeout, sql, [body], judge=partial(self._judge, table))
        except psycopg.Error:
            link.close()  # nothing was sent that a server could have acted on
            return None

    def run(self, sql: bytes, parameters: Sequence[bytes] = (), *, table: str = "") -> bytes | None:
        """Send a statement and return the first value of its first row, as text. Raises `ServerError`."""
        sent = self._send(self._idle.take() or self._connect(), sql, parameters, table=table)
        sent.finish()
        return sent.value

    def run_prepared(self, sql: bytes, body: bytes, table: str) -> None:
        """Send a statement that will be sent again: prepared, where that can be. Raises `ServerError`."""
        link = self._idle.take() or self._connect()
        if link.direct and sql not in link.prepared:
            self._prepare(link, sql, table)
            link = self._idle.take() or self._connect()
        self._send(link, sql, [body], table=table).finish()

    def close(self) -> None:
        """Close idle connections."""
        self._idle.close()

    def _send(
        self, link: Link, sql: bytes, parameters: Sequence[bytes] = (), prepare: bytes | None = None, table: str = ""
    ) -> SentStatement:
        try:
            return SentStatement(
                self._idle, link, self._timeout, sql, parameters, prepare, judge=partial(self._judge, table)
            )
        except psycopg.Error as error:
            link.close()
            raise connection_lost(error, ambiguous=False) from error

    def _prepare(self, link: Link, sql: bytes, table: str) -> None:
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

    def _connect(self) -> Link:
        try:
            link = Link(psycopg.Connection.connect(self._conninfo, autocommit=True))
        except psycopg.Error as error:
            raise classify_connection(str(error).strip()) from error
        # A pooler has numbers of its own for its clients.
        sent = self._send(link, b"SELECT pg_backend_pid()")
        sent.finish(keep=False)
        link.direct = sent.value == str(link.pgconn.backend_pid).encode()
        return link
