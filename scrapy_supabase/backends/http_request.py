"""An HTTP request in flight, and the part of its answer that has arrived."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from scrapy_supabase.backends import http_answer
from scrapy_supabase.backends.base import WriteState
from scrapy_supabase.backends.http_answer import Answer, NotAllError, status_of_empty
from scrapy_supabase.backends.idle import IdleConnections, silence
from scrapy_supabase.errors import TransientError

STORED = (200, 201)  # PostgREST's statuses for a write that it stored
# Windows has no os.writev, and its os.read takes no sockets.
_READS_DESCRIPTORS = hasattr(os, "writev")
_WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class SentRequest:
    """A request in flight, except for its `unsent` bytes, and the part of its answer that has arrived.

    For one thread at a time. A connection that can be reused goes to `idle`; `failure` makes the error if no answer
    arrives.
    """

    def __init__(
        self,
        idle: IdleConnections[http.client.HTTPConnection],
        connection: http.client.HTTPConnection,
        unsent: memoryview,
        failure: Callable[[Exception], TransientError],
    ) -> None:
        self._idle = idle
        self._connection = connection
        self._unsent = unsent
        self._failure = failure
        self._read = b""
        self._answer: Answer | None = None
        self.silence = 0.0  # seconds between the arrival of the answer and the `poll` that returned STORED

    def poll(self) -> WriteState:
        """Implement `base.PendingWrite`."""
        if self._unsent:
            return WriteState.UNCLEAR
        sock = self._connection.sock
        try:
            self._read += _read_now(sock)
        except _WOULD_WAIT:
            return WriteState.NO_ANSWER
        except OSError:
            return WriteState.UNCLEAR
        if status_of_empty(self._read) not in STORED:
            return WriteState.UNCLEAR
        self.silence = silence(sock)  # before another thread may take the connection
        self._keep_connection()
        return WriteState.STORED

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return int(self._connection.sock.fileno())

    def has_answer(self) -> bool:
        """Implement `base.PendingWrite`."""
        if self._unsent:
            return False
        with suppress(NotAllError, OSError, http.client.HTTPException):  # `answer` raises the last two again
            self._answer = http_answer.parse(self._connection, self._read, None)
            self._keep_connection()
        return self._answer is not None

    def answer(self) -> Answer:
        """Send the unsent bytes and wait for the answer. Raises an ambiguous `TransientError` if none arrives."""
        if self._answer is not None:
            return self._answer
        try:
            answer = self._exchange()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise self._failure(error) from error
        except BaseException:
            self._connection.close()
            raise
        self._keep_connection()
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _exchange(self) -> Answer:
        sock = self._connection.sock
        # A server that refuses the size answers and hangs up before it has read it all: its answer is more useful.
        with suppress(BrokenPipeError, ConnectionResetError):
            if self._unsent:
                sock.sendall(self._unsent)
        read = self._read or sock.recv(65536)
        status = status_of_empty(read)
        if status in STORED:  # any other answer may have headers that matter, such as the number of changed rows
            return http_answer.without_body(status)
        return http_answer.parse(self._connection, read, sock)

    def _keep_connection(self) -> None:
        if self._connection.sock is not None:  # None: the server asked to close it
            self._idle.put(self._connection)


class PendingRequest:
    """A write over HTTP (`base.PendingWrite`). `judge` raises the error for an answer that does not confirm it."""

    def __init__(self, sent: SentRequest, judge: Callable[[Answer], None]) -> None:
        self._sent = sent
        self._judge = judge
        self.abandon = sent.close
        self.fileno = sent.fileno

    def poll(self) -> WriteState:
        """Implement `base.PendingWrite`."""
        return self._sent.poll()

    def has_answer(self) -> bool:
        """Implement `base.PendingWrite`."""
        return self._sent.has_answer()

    def silence(self) -> float:
        """Implement `base.PendingWrite`."""
        return self._sent.silence

    def finish(self) -> None:
        """Implement `base.PendingWrite`."""
        self._judge(self._sent.answer())


def send_now(sock: socket.socket, start: bytes, body: bytes) -> int:
    """Send as many bytes as possible without waiting; return their number. Raises `OSError`."""
    with suppress(*_WOULD_WAIT):
        if isinstance(sock, ssl.SSLSocket) or not _READS_DESCRIPTORS:
            with _never_waiting(sock):
                return sock.send(start + body)
        # Python polls a socket with a timeout before it writes, one more system call; its descriptor is non-blocking.
        return os.writev(sock.fileno(), (start, body))
    return 0


def _read_now(sock: socket.socket) -> bytes:
    """Return the bytes that can be read without waiting. Raises `OSError`, also if there are none."""
    if isinstance(sock, ssl.SSLSocket) or not _READS_DESCRIPTORS:
        with _never_waiting(sock):
            return sock.recv(65536)
    return os.read(sock.fileno(), 65536)


@contextmanager
def _never_waiting(sock: socket.socket) -> Iterator[None]:
    timeout = sock.gettimeout()
    sock.settimeout(0)
    try:
        yield
    finally:
        sock.settimeout(timeout)
