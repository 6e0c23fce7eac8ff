"""Kept-alive HTTP/1.1 connections for threads, from the standard library's `http.client`.

A request of 100 rows costs 0.25 ms of interpreter time here, 0.60 ms in urllib3 and 1 ms in httpx: time taken from
the crawl, which shares the interpreter. The features of those libraries (redirects, cookies, retries) are not wanted
for an upload. Each system call that may block hands the interpreter lock to another thread and back, which costs a busy
crawl more than the call itself: hence head and body are sent in one call, and a connection that was used a moment ago
is not polled before reuse. `HttpPool.send` sends in the caller's own thread, if that needs no waiting.
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

_CONNECT_TIMEOUT = 15.0  # seconds; a server that accepts no connection for longer counts as down


class HttpPool:
    """Connections to the server of `url`, at most `size` of them idle. All methods are thread-safe.

    `timeout` is the number of seconds the server may be silent during a request; `proxy` is the URL of an HTTP proxy.
    """

    def __init__(self, url: str, *, timeout: float, size: int, proxy: str | None = None) -> None:
        self._url = urlsplit(url)
        self._proxy = urlsplit(proxy) if proxy else None
        self._timeout = timeout
        self._idle = IdleConnections[http.client.HTTPConnection](size, lambda connection: connection.sock)
        self._tls = _tls_context() if self._url.scheme == "https" else None
        self._host = self._url.netloc.rpartition("@")[2]
        # A proxy for plain HTTP expects the whole URL; any other server expects the path.
        self._target = "" if self._tls or not self._proxy else f"http://{self._url.netloc}"

    def head(self, method: str, target: str, headers: Mapping[str, str]) -> bytes:
        """Return the head of a request to `target` (path and query); it can be reused for many requests."""
        lines = [f"{method} {self._target}{target} HTTP/1.1", f"Host: {self._host}", *map(": ".join, headers.items())]
        return "\r\n".join([*lines, ""]).encode("latin-1")

    def request(self, head: bytes, body: bytes | None) -> Answer:
        """Send one request and read the answer.

        Raises `TransientError` without an answer; it is `ambiguous` if the request may have been sent.
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
        """Send a request without waiting; return None if no connection is idle. Never raises."""
        connection = self._idle.take()
        if connection is None:
            return None
        start = _start(head, body)
        try:
            sent = send_now(connection.sock, start, body)
        except OSError:
            connection.close()  # the server got no complete request
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
        """Return the error for a failed request; `in_time` is the message for a timeout."""
        text = (isinstance(error, OSError) and error.strerror) or str(error) or "the connection was closed"
        through = f" by proxy {self._proxy.hostname}" if self._proxy else ""
        message = in_time if isinstance(error, TimeoutError) else f"{text} ({self._host}{through}){_tls_remedy(error)}"
        made = TransientError(message, code=type(error).__name__)
        made.unanswered, made.ambiguous = True, ambiguous
        return made

    def _new(self) -> http.client.HTTPConnection:
        peer: SplitResult = self._proxy or self._url
        host = peer.hostname or ""
        if self._tls is None:
            return http.client.HTTPConnection(host, peer.port or 80, timeout=_CONNECT_TIMEOUT)
        port = peer.port or (80 if self._proxy else 443)
        connection = http.client.HTTPSConnection(host, port, timeout=_CONNECT_TIMEOUT, context=self._tls)
        if self._proxy:
            connection.set_tunnel(self._url.hostname or "", self._url.port or 443, _proxy_headers(self._proxy))
        return connection


def _start(head: bytes, body: bytes | None) -> bytes:
    """Return the bytes of a request before its body."""
    return head + b"\r\n" if body is None else b"%bContent-Length: %d\r\n\r\n" % (head, len(body))


def _tls_remedy(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "; SSL_CERT_FILE can name the certificate of an authority of your network"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return "; the server does not use TLS: try http:// in SUPABASE_URL"
    return ""


def _tls_context() -> ssl.SSLContext:
    # The certificates that supabase-py (httpx) trusts; SSL_CERT_FILE and SSL_CERT_DIR add to them.
    import certifi  # not needed for plain HTTP, as on the local stack

    context = ssl.create_default_context(cafile=certifi.where())
    context.set_default_verify_paths()
    return context


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    from base64 import b64encode

    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
