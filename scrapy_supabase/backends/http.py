"""Kept-alive HTTP/1.1 connections for threads, from the standard library's `http.client`.

A request of 100 rows costs 0.25 ms of interpreter time here, 0.60 ms in urllib3 and 1 ms in httpx: time taken from
the crawl, which shares the interpreter. What those libraries add (redirects, cookies, retries) must not happen to an
upload anyway. Each system call that may block hands the interpreter lock to another thread and back, which costs a busy
crawl more than the call itself: so head and body leave in one send, and a connection that was in use a moment ago is
not asked whether it still lives. `HttpPool.send` goes further: the caller's own thread does what needs no waiting.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any, NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from scrapy_supabase.backends.idle import IdleConnections, silence
from scrapy_supabase.errors import TransientError

_CONNECT_TIMEOUT = 15.0  # seconds; a server that takes longer to accept is as good as down
_LONGEST_ANSWER = 64 * 1024 * 1024  # bytes; the OpenAPI document of a thousand tables is about 3 MB
_NO_HEADERS = http.client.HTTPMessage()
_WOULD_WAIT = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Answer(msgspec.Struct, frozen=True):
    """An HTTP response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class HttpPool:
    """Connections to the one server of `url`, at most `size` of them idle. All methods are thread-safe.

    `timeout` is the seconds the server may be silent while a request is under way; `proxy` the URL of an HTTP proxy.
    """

    def __init__(self, url: str, *, timeout: float, size: int, proxy: str | None = None) -> None:
        self._url = urlsplit(url)
        self._proxy = urlsplit(proxy) if proxy else None
        self._timeout = timeout
        self._idle = IdleConnections[http.client.HTTPConnection](size, lambda connection: connection.sock)
        self._tls = _tls_context() if self._url.scheme == "https" else None
        self._host = self._url.netloc.rpartition("@")[2]
        # A plain-HTTP proxy is asked for the whole URL; anything else for the path.
        self._target = "" if self._tls or not self._proxy else f"http://{self._url.netloc}"

    def head(self, method: str, target: str, headers: Mapping[str, str]) -> bytes:
        """The head of a request to `target` (path and query), to be made once for many requests."""
        lines = [f"{method} {self._target}{target} HTTP/1.1", f"Host: {self._host}", *map(": ".join, headers.items())]
        return "\r\n".join([*lines, ""]).encode("latin-1")

    def request(self, head: bytes, body: bytes | None) -> Answer:
        """Send one request and read the answer.

        Raises `TransientError` where there is no answer; `ambiguous` is set once the request was on its way.
        """
        connection = self._idle.take() or self._new()
        if connection.sock is None:
            try:
                connection.connect()
                connection.sock.settimeout(self._timeout)  # type: ignore[attr-defined]
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._raise(error, f"no connection to {self._host} within {_CONNECT_TIMEOUT:g} s", ambiguous=False)
        return self._finish(connection, memoryview(_start(head, body) + (body or b"")), b"")

    def send(self, head: bytes, body: bytes) -> SentRequest | None:
        """Send a request, as far as that needs no waiting; None where no connection is idle. Never raises."""
        connection = self._idle.take()
        if connection is None:
            return None
        start = _start(head, body)
        try:
            sent = _send_now(connection.sock, start, body)
        except OSError:
            connection.close()  # nothing was sent that a server could have acted on
            return None
        unsent = start + body if sent < len(start) + len(body) else b""
        return SentRequest(self, connection, memoryview(unsent)[sent:])

    def _finish(
        self,
        connection: http.client.HTTPConnection,
        unsent: memoryview,
        read: bytes,
    ) -> Answer:
        """Send the rest and read the answer, of which `read` has come already."""
        try:
            # A server that refuses the size answers and hangs up before it has read it all; the answer says more.
            with suppress(BrokenPipeError, ConnectionResetError):
                if unsent:
                    connection.sock.sendall(unsent)
            read = read or connection.sock.recv(65536)
            status = _status_of_empty(read)
            if status:
                self._give_back(connection)
                return Answer(status, _NO_HEADERS, b"")
            answer = self._parse(connection, _Continued(read, connection.sock))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._raise(
                error, f"no answer from {self._host} for {self._timeout:g} s (SUPABASE_TIMEOUT)", ambiguous=True
            )
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)
        return answer

    def _parse(self, connection: http.client.HTTPConnection, source: _Continued) -> Answer:
        """Read an answer from `source`; close a `connection` that cannot be used again."""
        with closing(http.client.HTTPResponse(source)) as response:  # type: ignore[arg-type]
            response.begin()
            answer = Answer(response.status, response.headers, response.read(_LONGEST_ANSWER))
            if response.will_close or not response.isclosed():  # or longer than anything we ask for
                connection.close()
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        self._idle.close()

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        if connection.sock is not None:  # else the server asked to close it
            self._idle.put(connection)

    def _raise(self, error: Exception, in_time: str, *, ambiguous: bool) -> NoReturn:
        """Raise what to say of `error`; `in_time` is what did not happen where it is a timeout."""
        text = (isinstance(error, OSError) and error.strerror) or str(error) or "the connection was closed"
        through = f" by proxy {self._proxy.hostname}" if self._proxy else ""
        said = f"{text} ({self._host}{through})"
        made = TransientError(in_time if isinstance(error, TimeoutError) else said, code=type(error).__name__)
        made.unanswered, made.ambiguous = True, ambiguous
        raise made from error

    def _new(self) -> http.client.HTTPConnection:
        at: SplitResult = self._proxy or self._url
        host = at.hostname or ""
        if self._tls is None:
            return http.client.HTTPConnection(host, at.port or 80, timeout=_CONNECT_TIMEOUT)
        port = at.port or (80 if self._proxy else 443)
        connection = http.client.HTTPSConnection(host, port, timeout=_CONNECT_TIMEOUT, context=self._tls)
        if self._proxy:
            connection.set_tunnel(self._url.hostname or "", self._url.port or 443, _proxy_headers(self._proxy))
        return connection


class SentRequest:
    """A request that is on its way, with its answer as far as that has come. For one thread at a time."""

    def __init__(self, pool: HttpPool, connection: http.client.HTTPConnection, unsent: memoryview) -> None:
        self._pool = pool
        self._connection = connection
        self._unsent = unsent
        self._read = b""
        self._answer: Answer | None = None
        self.silence = 0.0  # seconds for which an answer that `status` told had been there, as far as the system tells

    def status(self) -> int | None:
        """The status of a yes without a body; None: nothing has come; 0: only `answer` can tell. Never waits."""
        if self._unsent:
            return 0
        sock = self._connection.sock
        try:
            self._read += _read_now(sock)
        except _WOULD_WAIT:
            return None
        except OSError:
            return 0
        status = _status_of_empty(self._read)
        if status:
            self.silence = silence(sock)  # before another thread may have the connection
            self._pool._give_back(self._connection)  # noqa: SLF001 (two halves of one thing)
        return status

    def fileno(self) -> int:
        """The socket's descriptor."""
        return int(self._connection.sock.fileno())

    def received(self) -> bool:
        """Return whether the whole answer has come. Never waits; to be called when `status` returned 0."""
        if self._unsent:
            return False
        with suppress(_NotAllError, OSError, http.client.HTTPException):  # `answer` raises the last two again
            self._answer = self._pool._parse(self._connection, _Continued(self._read, None))  # noqa: SLF001
            self._pool._give_back(self._connection)  # noqa: SLF001
        return self._answer is not None

    def answer(self) -> Answer:
        """Wait for the answer. Raises `TransientError`, ambiguous, where there is none."""
        if self._answer is not None:
            return self._answer
        return self._pool._finish(self._connection, self._unsent, self._read)  # noqa: SLF001

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _start(head: bytes, body: bytes | None) -> bytes:
    """What a request is before its body."""
    return head + b"\r\n" if body is None else b"%bContent-Length: %d\r\n\r\n" % (head, len(body))


def _send_now(sock: socket.socket, start: bytes, body: bytes) -> int:
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


def _status_of_empty(answer: bytes) -> int:
    """The status of a complete yes without a body on a connection that is kept; else 0.

    That is what a stored chunk gets; `http.client` takes ten times as long to read it. Of a no the headers matter.
    """
    head = answer.lower()
    empty = (head.endswith(b"\r\n\r\n") and b"\r\ncontent-length: 0\r\n" in head) or (
        head.endswith(b"\r\n\r\n0\r\n\r\n") and b"\r\ntransfer-encoding: chunked\r\n" in head
    )
    if not empty or not head.startswith(b"http/1.1 2") or b"\r\nconnection: close\r\n" in head:
        return 0
    return int(head[9:12])


class _NotAllError(Exception):
    """The answer has not come to its end."""


class _Continued(io.RawIOBase):
    """What was read from a socket, then what it still sends; `http.client` takes it for the socket.

    Without a socket, raises `_NotAllError` where the answer is longer than what was read.
    """

    def __init__(self, read: bytes, sock: socket.socket | None) -> None:
        self._before = read
        self._sock = sock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._before:
            if self._sock is None:
                raise _NotAllError
            return self._sock.recv_into(buffer)
        number = min(len(buffer), len(self._before))
        buffer[:number], self._before = self._before[:number], self._before[number:]
        return number


def _tls_context() -> ssl.SSLContext:
    # The certificates supabase-py (httpx) trusts; SSL_CERT_FILE and SSL_CERT_DIR add to them.
    import certifi  # plain http, as on the local stack, needs none of this

    context = ssl.create_default_context(cafile=certifi.where())
    context.set_default_verify_paths()
    return context


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    from base64 import b64encode

    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
