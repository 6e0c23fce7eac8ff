"""A request on its way to a server, and its answer as far as that has come."""

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

STORED = (200, 201)  # what PostgREST answers to a write that it stored
_WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class SentRequest:
    """A request that is on its way, but for what is `unsent`, with its answer as far as that has come.

    For one thread at a time. A connection that can be used again goes to `idle`; `failure` makes the error of an answer
    that did not come.
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
        self.silence = 0.0  # seconds for which the answer had been there when `poll` returned STORED

    def poll(self) -> WriteState:
        """See `base.PendingWrite`."""
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
        self.silence = silence(sock)  # before another thread may have the connection
        self._give_back()
        return WriteState.STORED

    def fileno(self) -> int:
        """The socket's descriptor."""
        return int(self._connection.sock.fileno())

    def has_answer(self) -> bool:
        """See `base.PendingWrite`."""
        if self._unsent:
            return False
        with suppress(NotAllError, OSError, http.client.HTTPException):  # `answer` raises the last two again
            self._answer = http_answer.parse(self._connection, self._read, None)
            self._give_back()
        return self._answer is not None

    def answer(self) -> Answer:
        """Send the rest and wait for the answer. Raises `TransientError`, ambiguous, where there is none."""
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
        self._give_back()
        return answer

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _exchange(self) -> Answer:
        sock = self._connection.sock
        # A server that refuses the size answers and hangs up before it has read it all; the answer says more.
        with suppress(BrokenPipeError, ConnectionResetError):
            if self._unsent:
                sock.sendall(self._unsent)
        read = self._read or sock.recv(65536)
        status = status_of_empty(read)
        return http_answer.without_body(status) if status else http_answer.parse(self._connection, read, sock)

    def _give_back(self) -> None:
        if self._connection.sock is not None:  # else the server asked to close it
            self._idle.put(self._connection)


def send_now(sock: socket.socket, start: bytes, body: bytes) -> int:
    """Send as much as goes without waiting; return how many bytes that was. Raises `OSError`."""
    with suppress(*_WOULD_WAIT):
        if isinstance(sock, ssl.SSLSocket):
            with _never_waiting(sock):
                return sock.send(start + body)
        # A socket with a timeout is asked whether it would wait before it is written to. Its descriptor never waits.
        return os.writev(sock.fileno(), (start, body))
    return 0


def _read_now(sock: socket.socket) -> bytes:
    """What can be read without waiting. Raises `OSError`, where that is nothing too."""
    if isinstance(sock, ssl.SSLSocket):
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
