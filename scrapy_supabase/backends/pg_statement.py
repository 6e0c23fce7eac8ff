"""A statement in flight to a database, and the part of its answer that has arrived."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psycopg
from psycopg import pq

from scrapy_supabase.backends.answers import classify_sql
from scrapy_supabase.backends.base import WriteState
from scrapy_supabase.backends.idle import IdleConnections, silence
from scrapy_supabase.backends.pg_link import Link
from scrapy_supabase.backends.readiness import wait_until_ready
from scrapy_supabase.errors import ServerError, TransientError

_CANCEL_TIMEOUT = 2.0  # seconds
_GOOD = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK)


class SentStatement:
    """A statement in flight (`base.PendingWrite`). Raises `psycopg.Error` if it cannot be sent.

    If `prepare` is a name, the statement is only prepared under it. `judge` returns the error for a failed result.
    """

    def __init__(
        self,
        idle: IdleConnections[Link],
        link: Link,
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
        self.value: bytes | None = None  # first column of the first row, as text
        self._lost: psycopg.Error | None = None
        self._silence = 0.0
        if prepare is not None:
            self._pgconn.send_prepare(prepare, sql)
        elif (name := link.prepared.get(sql)) is not None:
            self._pgconn.send_query_prepared(name, list(parameters))
        else:
            self._pgconn.send_query_params(sql, list(parameters))
        self._unsent = self._pgconn.flush() == 1

    def poll(self) -> WriteState:
        """Implement `base.PendingWrite`."""
        if self._unsent:
            return WriteState.UNCLEAR
        if not self._is_over():
            return WriteState.NO_ANSWER
        if self._lost or self._failed:
            return WriteState.UNCLEAR
        self._silence = _silence(self._pgconn.socket)
        self._idle.put(self._link)
        return WriteState.STORED

    def has_answer(self) -> bool:
        """Implement `base.PendingWrite`."""
        return not self._unsent and self._is_over()

    def silence(self) -> float:
        """Implement `base.PendingWrite`."""
        return self._silence

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._pgconn.socket

    def finish(self, *, keep: bool = True) -> None:
        """Wait for the answer; `keep` the connection for reuse, unless it is lost. Raises `ServerError`."""
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
            raise connection_lost(self._lost, ambiguous=True) from self._lost

    def abandon(self) -> None:
        """Close the connection without waiting for the answer."""
        self._link.close()

    def _wait(self) -> None:
        until = time.monotonic() + self._timeout
        while True:
            if self._unsent:
                try:
                    self._unsent = self._pgconn.flush() == 1
                except psycopg.Error as error:  # the server may have sent the reason before it hung up
                    self._unsent, self._lost = False, error
            if self._is_over():
                return
            sock = (self._pgconn.socket,)
            rest = until - time.monotonic()
            if rest <= 0 or not wait_until_ready(sock, rest, sock if self._unsent else ()):
                self._cancel()
                silent = TransientError(f"no answer for {self._timeout:g} s (SUPABASE_TIMEOUT)", code="TimeoutError")
                silent.ambiguous = True
                raise silent

    def _is_over(self) -> bool:
        """Read what has arrived; return whether the answer is complete. Never waits."""
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
                # For a lost connection, libpq makes a result of its own, without a code.
                if result.error_field(pq.DiagnosticField.SQLSTATE) is None:
                    self._lost = self._lost or psycopg.OperationalError(_text(result.error_message))
                else:
                    self._failed = self._failed or result
            elif result.ntuples and result.nfields:
                self.value = result.get_value(0, 0)
        return self._lost is not None

    def _cancel(self) -> None:
        """Cancel the statement on the server: a second try would wait for the locks of the first."""
        if psycopg.capabilities.has_cancel_safe():
            with suppress(psycopg.Error):
                self._link.connection.cancel_safe(timeout=_CANCEL_TIMEOUT)


def error_of(result: pq.abc.PGresult, table: str) -> ServerError:
    """Return the error for a failed statement about `table`."""
    field = pq.DiagnosticField
    code, message, details, hint = (
        _text(value) if (value := result.error_field(each)) else None
        for each in (field.SQLSTATE, field.MESSAGE_PRIMARY, field.MESSAGE_DETAIL, field.MESSAGE_HINT)
    )
    return classify_sql(code or "", message or "the answer has no message", details, hint, table=table)


def connection_lost(error: psycopg.Error, *, ambiguous: bool) -> TransientError:
    """Return the error for a lost connection; it is `ambiguous` if a statement was in flight."""
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
