"""A TCP proxy in front of a database that fails on purpose when it sees what it was told to look for."""

from __future__ import annotations

import selectors
import socket
import ssl
import struct
import threading
from collections import deque
from contextlib import suppress
from typing import Literal

Fault = Literal["cut before", "cut after", "hang"]
_BIND = b"\0scrapy_supabase_"  # to a prepared statement
_BACKEND_KEY = b"K\0\0\0\x0c"  # then the process number
_LINGER = struct.pack("ii", 1, 0)


class TcpProxy:
    """Listens on 127.0.0.1:`port`. Each `faults` is used for one message with `trigger` in it: a statement.

    `cut before`: the server never sees it. `cut after`: the server does the work, and the client never hears of it.
    `hang`: the server does it, and nothing comes back any more. With `tls` there are no faults: TLS is given in
    PostgreSQL's way, and what the client sends is passed on in the clear. A `pooler` gives process numbers of its own.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        trigger: bytes = _BIND,
        tls: ssl.SSLContext | None = None,
        pooler: bool = False,
    ) -> None:
        self.faults: deque[Fault] = deque()
        self._upstream = (host, port)
        self._trigger = trigger
        self._tls = tls
        self._pooler = pooler
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def __enter__(self) -> TcpProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in self._open:
            _cut(one)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                self._open += [client, server]
                pump = self._pump if self._tls is None else self._pump_tls
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, silent: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20, socket.MSG_PEEK):
                if silent.is_set():
                    return
                answer = source.recv(len(data))
                if self._pooler and (at := answer.find(_BACKEND_KEY)) >= 0:
                    number = at + len(_BACKEND_KEY)
                    answer = answer[:number] + b"\0\0\0\x07" + answer[number + 4 :]
                target.sendall(answer)
        _cut(target)

    def _pump_tls(self, client: socket.socket, server: socket.socket) -> None:
        assert self._tls is not None
        with suppress(OSError):
            client.recv(8)  # SSLRequest
            client.sendall(b"S")
            client = self._tls.wrap_socket(client, server_side=True)
            client.setblocking(False)
            with client, server, selectors.DefaultSelector() as selector:
                selector.register(client, selectors.EVENT_READ)
                selector.register(server, selectors.EVENT_READ)
                while True:
                    selector.select()
                    with suppress(ssl.SSLWantReadError):
                        while data := client.recv(1 << 16):
                            server.sendall(data)
                        return
                    with suppress(BlockingIOError):
                        if not (answer := server.recv(1 << 16, socket.MSG_DONTWAIT)):
                            return
                        client.sendall(answer)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on what the client sends, with the faults; a second thread brings what the server says."""
        silent = threading.Event()
        threading.Thread(target=self._copy, args=(server, client, silent), daemon=True).start()
        with suppress(OSError):
            while data := client.recv(1 << 20):
                fault = self.faults.popleft() if self.faults and self._trigger in data else None
                if fault == "cut before":
                    break
                if fault:
                    silent.set()
                server.sendall(data)
                if fault == "cut after":
                    while not server.recv(1, socket.MSG_PEEK):
                        pass
                    break
        _cut(client)
        _cut(server)


def _cut(one: socket.socket) -> None:
    """The hard way: the other side sees ECONNRESET."""
    with suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        one.shutdown(socket.SHUT_RD)
    one.close()
