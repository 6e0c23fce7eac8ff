"""A server that refuses each database connection with given words, as PostgreSQL and the poolers do."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

_SSL_REQUEST = struct.pack("!II", 8, 80877103)
_GSS_REQUEST = struct.pack("!II", 8, 80877104)


class RefusingServer:
    """Listens on 127.0.0.1:`port` and answers `words` with severity FATAL and code `sqlstate`."""

    def __init__(self, words: str, sqlstate: str = "XX000") -> None:
        fields = f"SFATAL\0C{sqlstate}\0M{words}\0\0".encode()
        self._answer = b"E" + struct.pack("!I", len(fields) + 4) + fields
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> RefusingServer:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                with client:
                    while client.recv(4096) in (_SSL_REQUEST, _GSS_REQUEST):
                        client.sendall(b"N")
                    client.sendall(self._answer)
