"""Blocking wait for the engine, for scripts and commands. A crawl never blocks."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future
from contextlib import suppress

from scrapy_supabase.backends.readiness import wait_until_ready
from scrapy_supabase.delivery.engine import Delivery


class OwnerWait:
    """Blocks the owner's thread until a future of its engine is done, and drives the engine meanwhile."""

    def __init__(self) -> None:
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._closing = threading.Lock()

    def wake(self) -> None:
        """Make the owner collect outcomes soon. Thread-safe."""
        with self._closing, suppress(OSError):  # the pipe is full: the owner wakes up anyway; closed: nobody waits
            self._waker.send(b"w")

    def wait(self, future: Future[None], delivery: Delivery) -> None:
        """Block until `delivery` completes `future`."""
        ticked = time.monotonic()
        while not future.done():
            wait_until_ready((self._woken.fileno(), *(pending.fileno() for pending in delivery.pending)), 1.0)
            with suppress(BlockingIOError):
                self._woken.recv(4096)
            if time.monotonic() - ticked < 1.0:
                delivery.collect()
            else:
                ticked = time.monotonic()
                delivery.tick()

    def close(self) -> None:
        """Close the sockets."""
        with self._closing:
            self._woken.close()
            self._waker.close()
