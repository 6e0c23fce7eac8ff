"""HTTP server: reads requests and sends responses, never a traceback."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scrapy_supabase.local.gateway.errors import ApiError, Response

logger = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024 * 1024  # of a body; hosted Supabase's limit is far lower
_TOO_LARGE = f"The body is larger than {MOST_BYTES} bytes: send fewer rows at once."
_SOFTWARE = 70  # exit code: an internal error


def end_process(name: str, error: BaseException | None) -> None:
    """Log a thread's exception and end the gateway, which cannot answer correctly without that thread."""
    logger.critical("%s failed: the gateway ends.", name, exc_info=error)
    logging.shutdown()
    os._exit(_SOFTWARE)


class GatewayServer(ThreadingHTTPServer):
    """HTTP server that calls `answer` in one thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], answer: Callable[[str, str, dict[str, str], bytes], Response]) -> None:
        self.answer = answer
        super().__init__(address, _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Ignore clients that disconnect, and log other errors."""
        error = sys.exception()
        hung_up = isinstance(error, OSError) or (isinstance(error, ValueError) and "closed file" in str(error))
        if not hung_up:
            end_process("The thread of a connection", error)
        logger.debug("connection from %s ended", client_address, exc_info=True)


class _Connection(BaseHTTPRequestHandler):
    """Handler of a kept-alive connection."""

    server: GatewayServer
    _headers_buffer: list[bytes]
    protocol_version = "HTTP/1.1"
    server_version = "scrapy-supabase-gateway"
    sys_version = ""
    timeout = 300  # seconds a client may be silent
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):  # all methods are routed; unknown ones get PostgREST's error
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        body = self._read_body()
        if body is None:
            return
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            if name.lower() == "prefer" and "prefer" in headers:
                headers["prefer"] += f", {_utf8(value)}"
            headers.setdefault(name.lower(), _utf8(value))
        self._send(self.server.answer(self.command, _utf8(self.path), headers, body))

    def _read_body(self) -> bytes | None:
        """Return the body, or None if the request was answered with an error and the connection must be closed."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return self._read_chunked()
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            self._refuse(400, "Content-Length must be a number.")
            return None
        if int(length) > MOST_BYTES:
            self._refuse(413, _TOO_LARGE)
            return None
        return self.rfile.read(int(length))

    def _read_chunked(self) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            line = self.rfile.readline(1000).split(b";")[0].strip()
            try:
                length = int(line, 16)
            except ValueError:
                self._refuse(400, "The chunked body is malformed.")
                return None
            size += length
            if length < 0 or size > MOST_BYTES:
                self._refuse(413, _TOO_LARGE)
                return None
            if length == 0:
                while self.rfile.readline(10_000).strip():
                    pass
                return b"".join(parts)
            parts.append(self.rfile.read(length))
            self.rfile.readline(10)

    def _refuse(self, status: int, message: str) -> None:
        self.close_connection = True
        self._send(ApiError(status, f"http_{status}", message).response())

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            line = value.replace("\r", " ").replace("\n", " ")
            self.send_header(name, line.encode("utf-8", "replace").decode("latin-1"))
        if response.status != 204:
            self.send_header("content-length", str(len(response.body)))
        if self.close_connection:
            self.send_header("connection", "close")
        # Send headers and body in one packet.
        self._headers_buffer.append(b"\r\n")
        data = b"".join(self._headers_buffer) + (b"" if self.command == "HEAD" else response.body)
        self._headers_buffer = []
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Answer in JSON a request that the standard library refuses."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        self.request_version = self.protocol_version  # the standard library would answer HTTP/0.9 without a status
        self._send(ApiError(code, f"http_{code}", message or "Bad request").response())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing, because requests contain data."""


def _utf8(text: str) -> str:
    """Decode as UTF-8 a text that the standard library decoded as Latin-1."""
    return text if text.isascii() else text.encode("latin-1", "replace").decode("utf-8", "replace")
