"""Connections to one database, and the statements prepared on them.

On a direct connection, statements are prepared (planning takes a third of the time of 100 rows), and all are dropped
when there are too many. Behind a pooler, whose sessions pass from client to client, none is prepared. `psycopg_pool` is
not used: it reports a wrong password only as a timeout (measured), and one connection per upload is all there is to
pool.
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

# Each takes about 40 KB in each server process, and items with 30 optional fields make thousands of statements.
_MOST_PREPARED = 50
# A dropped statement's row type stays in the process (3 KB for 30 columns); a new connection has a new process.
_MOST_ON_A_CONNECTION = 1000


class PgConnections:
    """At most `size` idle connections to `conninfo`; a statement may take `timeout` seconds. Thread-safe.

    `judge(table, result)` returns the error for a failed statement about `table`.
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
        """Send a statement without waiting; return None if no idle connection is ready for it."""
        link = self._idle.take()
        if link is None:
            return None
        if link.direct and sql not in link.prepared:  # a worker thread prepares it, because that waits
            self._idle.put(link)
            return None
        try:
            return SentStatement(self._idle, link, self._timeout, sql, [body], judge=partial(self._judge, table))
        except psycopg.Error:
            link.close()  # the server got no complete statement
            return None

    def run(self, sql: bytes, parameters: Sequence[bytes] = (), *, table: str = "") -> bytes | None:
        """Send a statement and return the first value of its first row, as text. Raises `ServerError`."""
        sent = self._send(self._idle.take() or self._connect(), sql, parameters, table=table)
        sent.finish()
        return sent.value

    def run_prepared(self, sql: bytes, body: bytes, table: str) -> bytes | None:
        """Do as `run` for a statement that will be sent again: prepare it if the connection allows that."""
        link = self._idle.take() or self._connect()
        if link.direct and sql not in link.prepared:
            self._prepare(link, sql, table)
            link = self._idle.take() or self._connect()
        sent = self._send(link, sql, [body], table=table)
        sent.finish()
        return sent.value

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
        # A pooler gives its clients process numbers of its own.
        sent = self._send(link, b"SELECT pg_backend_pid()")
        sent.finish(keep=False)
        link.direct = sent.value == str(link.pgconn.backend_pid).encode()
        return link
