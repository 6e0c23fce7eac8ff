"""Kept-alive HTTP/1.1 connections for threads, from the standard library's `http.client`.

A request of 100 rows costs 0.25 ms of interpreter time here, 0.60 ms in urllib3 and 1 ms in httpx: time taken from
the crawl, which shares the interpreter. What those libraries add (redirects, cookies, retries) must not happen to an
upload anyway. Each system call that may block hands the interpreter lock to another thread and back, which costs a busy
crawl more than the call itself: so head and body leave in one send, and a connection that was in use a moment ago is
not asked whether it still lives. `HttpPool.send` goes further: the caller's own thread does what needs no waiting.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from urllib.parse import SplitResult, unquote, urlsplit

from scrapy_supabase.backends.http_answer import Answer
from scrapy_supabase.backends.http_request import SentRequest, send_now
from scrapy_supabase.backends.idle import IdleConnections
from scrapy_supabase.errors import TransientError

_CONNECT_TIMEOUT = 15.0  # seconds; a server that takes longer to accept is as good as down


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
                in_time = f"no connection to {self._host} within {_CONNECT_TIMEOUT:g} s"
                raise self._failure(error, in_time, ambiguous=False) from error
        return self._sent(connection, memoryview(_start(head, body) + (body or b""))).answer()

    def send(self, head: bytes, body: bytes) -> SentRequest | None:
        """Send a request, as far as that needs no waiting; None where no connection is idle. Never raises."""
        connection = self._idle.take()
        if connection is None:
            return None
        start = _start(head, body)
        try:
            sent = send_now(connection.sock, start, body)
        except OSError:
            connection.close()  # nothing was sent that a server could have acted on
            return None
        unsent = start + body if sent < len(start) + len(body) else b""
        return self._sent(connection, memoryview(unsent)[sent:])

    def close(self) -> None:
        """Close the idle connections."""
        self._idle.close()

    def _sent(self, connection: http.client.HTTPConnection, unsent: memoryview) -> SentRequest:
        return SentRequest(self._idle, connection, unsent, self._no_answer)

    def _no_answer(self, error: Exception) -> TransientError:
        in_time = f"no answer from {self._host} for {self._timeout:g} s (SUPABASE_TIMEOUT)"
        return self._failure(error, in_time, ambiguous=True)

    def _failure(self, error: Exception, in_time: str, *, ambiguous: bool) -> TransientError:
        """Return what to say of `error`; `in_time` is what did not happen where it is a timeout."""
        text = (isinstance(error, OSError) and error.strerror) or str(error) or "the connection was closed"
        through = f" by proxy {self._proxy.hostname}" if self._proxy else ""
        said = f"{text} ({self._host}{through})"
        made = TransientError(in_time if isinstance(error, TimeoutError) else said, code=type(error).__name__)
        made.unanswered, made.ambiguous = True, ambiguous
        return made

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


def _start(head: bytes, body: bytes | None) -> bytes:
    """What a request is before its body."""
    return head + b"\r\n" if body is None else b"%bContent-Length: %d\r\n\r\n" % (head, len(body))


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
