"""Connections that wait for work."""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

_SURELY_ALIVE = 1.0  # seconds since its last use in which no server closes an idle connection


class Closable(Protocol):
    """A connection."""

    def close(self) -> object:
        """Hang up."""


C = TypeVar("C", bound=Closable)


class IdleConnections(Generic[C]):
    """At most `size` kept-alive connections; the one used last is the first to be used again. Thread-safe.

    `socket_of` gives a connection's socket, or the number of its descriptor.
    """

    def __init__(self, size: int, socket_of: Callable[[C], socket.socket | int]) -> None:
        self._size = size
        self._idle: deque[tuple[C, float]] = deque()
        self._socket_of = socket_of

    def take(self) -> C | None:
        """One that lives, or None."""
        with suppress(IndexError):
            while True:
                connection, since = self._idle.pop()
                if time.monotonic() - since < _SURELY_ALIVE or not self._dropped(connection):
                    return connection
                connection.close()
        return None

    def put(self, connection: C) -> None:
        """Keep it for later."""
        if len(self._idle) < self._size:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()

    def close(self) -> None:
        """Close them all."""
        with suppress(IndexError):
            while True:
                self._idle.pop()[0].close()

    def _dropped(self, connection: C) -> bool:
        """Whether the server has closed it: it is readable, and should not be."""
        try:
            poll = select.poll()
            poll.register(self._socket_of(connection), select.POLLIN)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True


def silence(sock: socket.socket) -> float:
    """For how many seconds nothing has come; 0 where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
    except OSError:  # no TCP
        return 0.0
    milliseconds: int = struct.unpack_from("I", info, 52)[0]  # tcpi_last_data_recv
    return milliseconds / 1000
