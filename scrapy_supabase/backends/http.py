"""Kept-alive HTTP/1.1 connections for threads, from the standard library's `http.client`.

A request of 100 rows costs 0.25 ms of interpreter time here, 0.60 ms in urllib3 and 1 ms in httpx: time taken from
the crawl, which shares the interpreter. What those libraries add (redirects, cookies, retries) must not happen to an
upload anyway. Each system call that may block hands the interpreter lock to another thread and back, which costs a busy
crawl more than the call itself: so head and body leave in one send, and a connection that was in use a moment ago is
not asked whether it still lives.
"""

from __future__ import annotations

import http.client
import select
import ssl
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from queue import Empty, Full, LifoQueue
from typing import NoReturn
from urllib.parse import SplitResult, unquote, urlsplit

from scrapy_supabase.errors import TransientError

_CONNECT_TIMEOUT = 15.0  # seconds; a server that takes longer to accept is as good as down
_SURELY_ALIVE = 1.0  # seconds since its last use in which no server closes an idle connection
_LONGEST_ANSWER = 64 * 1024 * 1024  # bytes; the OpenAPI document of a thousand tables is about 3 MB


@dataclass(frozen=True, slots=True)
class Answer:
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
        self._idle: LifoQueue[tuple[http.client.HTTPConnection, float]] = LifoQueue(size)
        self._tls = _tls_context() if self._url.scheme == "https" else None
        self._host = self._url.netloc.rpartition("@")[2]
        # A plain-HTTP proxy is asked for the whole URL; anything else for the path.
        self._target = "" if self._tls or not self._proxy else f"http://{self._url.netloc}"

    def request(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        """Send one request to `target` (path and query) and read the answer.

        Raises `TransientError` where there is no answer; `ambiguous` is set once the request was on its way.
        """
        lines = [f"{method} {self._target}{target} HTTP/1.1", f"Host: {self._host}", *map(": ".join, headers.items())]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        message = "\r\n".join([*lines, "\r\n"]).encode("latin-1") + (body or b"")
        connection = self._take()
        sent = False
        try:
            if connection.sock is None:
                connection.connect()
                if connection.sock is not None:
                    connection.sock.settimeout(self._timeout)
            sent = True
            # A server that refuses the size answers and hangs up before it has read it all; the answer says more.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.sock.sendall(message)
            with closing(http.client.HTTPResponse(connection.sock, method=method)) as response:
                response.begin()
                answer = Answer(response.status, response.headers, response.read(_LONGEST_ANSWER))
                if response.will_close or not response.isclosed():  # or longer than anything we ask for
                    connection.close()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            _raise(error, ambiguous=sent)
        except BaseException:
            connection.close()
            raise
        self._give_back(connection)
        return answer

    def close(self) -> None:
        """Close the idle connections."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait()[0].close()

    def _take(self) -> http.client.HTTPConnection:
        with suppress(Empty):
            while True:
                connection, since = self._idle.get_nowait()
                if time.monotonic() - since < _SURELY_ALIVE or not _dropped(connection):
                    return connection
                connection.close()
        return self._new()

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        if connection.sock is None:  # the server asked to close it
            return
        try:
            self._idle.put_nowait((connection, time.monotonic()))
        except Full:
            connection.close()

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


def _dropped(connection: http.client.HTTPConnection) -> bool:
    """Whether an idle connection was closed by the server: it is readable, and should not be."""
    try:
        poll = select.poll()
        poll.register(connection.sock, select.POLLIN)
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


def _raise(error: Exception, *, ambiguous: bool) -> NoReturn:
    text = str(error) or "the connection was closed without an answer"
    made = TransientError(text, code=type(error).__name__)
    made.ambiguous = ambiguous
    raise made from error
