"""A proxy between client and server that fails on purpose: real connections, real resets.

Faults are taken one a request from `faults`; when none is left, requests pass. Each is a function that is given the
`Exchange` and does to it what it likes.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any
from urllib.parse import urlsplit

Fault = Callable[["Exchange"], None]


@dataclass(slots=True)
class Exchange:
    """One request on its way."""

    handler: _Handler
    body: bytes

    def forward(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """Pass the request on; the server's answer."""
        handler = self.handler
        connection = http.client.HTTPConnection(handler.server.upstream, timeout=30)
        try:
            headers = {name: value for name, value in handler.headers.items() if name.lower() != "host"}
            connection.request(handler.command, handler.path, self.body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def reply(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Answer the client."""
        handler = self.handler
        handler.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "date", "server"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def reset(self) -> None:
        """Cut the connection the hard way: the client sees ECONNRESET."""
        handler = self.handler
        handler.close_connection = True
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.shutdown(socket.SHUT_RD)
        handler.connection.close()


def passes(exchange: Exchange) -> None:
    """No fault."""
    exchange.reply(*exchange.forward())


def resets_before(exchange: Exchange) -> None:
    """The server never sees the request."""
    exchange.reset()


def resets_after(exchange: Exchange) -> None:
    """The server does the work; the client never hears of it."""
    exchange.forward()
    exchange.reset()


def truncates(exchange: Exchange) -> None:
    """The answer ends in its headers."""
    exchange.forward()
    exchange.handler.wfile.write(b"HTTP/1.1 201 Created\r\nContent-Len")
    exchange.reset()


def hangs(exchange: Exchange) -> None:
    """Neither answer nor end, until the proxy is closed."""
    exchange.handler.close_connection = True
    exchange.handler.server.released.wait()


def delays(seconds: float) -> Fault:
    """The answer comes late."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.forward()
        exchange.handler.server.released.wait(seconds)
        with suppress(OSError):
            exchange.reply(*answer)

    return fault


def stalls(seconds: float) -> Fault:
    """The server gets the request late."""

    def fault(exchange: Exchange) -> None:
        exchange.handler.server.released.wait(seconds)
        exchange.reply(*exchange.forward())

    return fault


def answers(status: int, body: object = None, *, stored: bool = False, **headers: str) -> Fault:
    """Something between client and server answers instead: JSON if `body` is not text, else HTML."""

    def fault(exchange: Exchange) -> None:
        if stored:
            exchange.forward()
        text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        kind = "text/html" if isinstance(body, str) else "application/json"
        given = [("Content-Type", kind), *((name.replace("_", "-"), value) for name, value in headers.items())]
        exchange.reply(status, given, text)

    return fault


def above(most: int, seconds: float) -> Fault:
    """A gateway's limit: 429 while `most` requests are being answered, each for `seconds` at least."""
    room = threading.Semaphore(most)
    refuse = answers(429, {"message": "slow down"})

    def fault(exchange: Exchange) -> None:
        if not room.acquire(blocking=False):
            refuse(exchange)
            return
        try:
            exchange.handler.server.released.wait(seconds)
            exchange.reply(*exchange.forward())
        finally:
            room.release()

    return fault


def at_random(share: float, weights: Mapping[Fault, float], seed: int) -> Fault:
    """One of `weights`' faults for a `share` of the requests, the same ones for each `seed`; the others pass."""
    random, lock = Random(seed), threading.Lock()
    kinds = list(weights)

    def fault(exchange: Exchange) -> None:
        with lock:
            (kind,) = random.choices(kinds, list(weights.values())) if random.random() < share else (passes,)
        kind(exchange)

    return fault


class FaultProxy(ThreadingHTTPServer):
    """Listens on 127.0.0.1; `url` is what the client is given, `upstream` (host:port) where requests go."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = urlsplit(url).netloc
        self.faults: deque[Fault] = deque()
        self.always: Fault = passes
        self.seen: list[tuple[str, str, bytes]] = []
        self.released = threading.Event()
        self._open: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection: it ends with the proxy."""
        self._open.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        server.seen.append((self.command, self.path, body))
        try:
            fault = server.faults.popleft()
        except IndexError:
            fault = server.always
        fault(Exchange(self, body))

    do_GET = do_HEAD = do_PATCH = do_DELETE = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Silent."""
