"""Idle connections, kept for reuse."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

from scrapy_supabase.backends.readiness import wait_until_ready

_SURELY_ALIVE = 1.0  # seconds after its last use in which no server closes an idle connection


class Closable(Protocol):
    """A connection."""

    def close(self) -> object:
        """Close the connection."""


C = TypeVar("C", bound=Closable)


class IdleConnections(Generic[C]):
    """At most `size` kept-alive connections; the one used last is reused first. Thread-safe.

    `socket_of` returns a connection's socket or its descriptor.
    """

    def __init__(self, size: int, socket_of: Callable[[C], socket.socket | int]) -> None:
        self._size = size
        self._idle: deque[tuple[C, float]] = deque()
        self._socket_of = socket_of

    def take(self) -> C | None:
        """Return a connection that is still open, or None."""
        with suppress(IndexError):
            while True:
                connection, since = self._idle.pop()
                if time.monotonic() - since < _SURELY_ALIVE or not self._dropped(connection):
                    return connection
                connection.close()
        return None

    def put(self, connection: C) -> None:
        """Keep a connection for reuse, or close it if `size` others are idle."""
        if len(self._idle) < self._size:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        with suppress(IndexError):
            while True:
                self._idle.pop()[0].close()

    def _dropped(self, connection: C) -> bool:
        """Return whether the server has closed an idle connection: it is readable then."""
        try:
            return wait_until_ready((self._socket_of(connection),), 0)
        except (OSError, ValueError):
            return True


def silence(sock: socket.socket) -> float:
    """Return the seconds since a socket last received data; 0 on systems that do not report it."""
    if not sys.platform.startswith("linux"):
        return 0.0
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
    except OSError:  # not a TCP socket
        return 0.0
    milliseconds: int = struct.unpack_from("I", info, 52)[0]  # tcpi_last_data_recv
    return milliseconds / 1000
