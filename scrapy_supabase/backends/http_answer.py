"""HTTP answers: an empty 2xx is recognized by its bytes, any other answer is read by `http.client`."""

from __future__ import annotations

import http.client
import io
import socket
from contextlib import closing
from typing import Any

import msgspec

_LONGEST_ANSWER = 64 * 1024 * 1024  # bytes; the OpenAPI document of a thousand tables is about 3 MB
_NO_HEADERS = http.client.HTTPMessage()


class Answer(msgspec.Struct, frozen=True):
    """An HTTP response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def without_body(status: int) -> Answer:
    """Return an answer with this status, without headers and body."""
    return Answer(status, _NO_HEADERS, b"")


def status_of_empty(answer: bytes) -> int:
    """Return the status of a complete 2xx answer without a body, on a connection that stays open; else 0.

    That is the answer to a stored chunk; `http.client` takes ten times as long to read it. Other answers have headers
    that matter.
    """
    head = answer.lower()
    # 1 µs, and 89 µs by `http.client`: 1 % of the CPU of a crawl without downloads, 16 % of that of a script with 100
    # rows per request (docs/benchmarks/README.md).
    empty = (head.endswith(b"\r\n\r\n") and b"\r\ncontent-length: 0\r\n" in head) or (
        head.endswith(b"\r\n\r\n0\r\n\r\n") and b"\r\ntransfer-encoding: chunked\r\n" in head
    )
    if not empty or not head.startswith(b"http/1.1 2") or b"\r\nconnection: close\r\n" in head:
        return 0
    return int(head[9:12])


def parse(connection: http.client.HTTPConnection, read: bytes, sock: socket.socket | None) -> Answer:
    """Return the answer that begins with `read` and continues in `sock`; close a `connection` that cannot be reused.

    Raises `NotAllError` if there is no socket and `read` is only a part of the answer.
    """
    with closing(http.client.HTTPResponse(_Continued(read, sock))) as response:  # type: ignore[arg-type]
        response.begin()
        answer = Answer(response.status, response.headers, response.read(_LONGEST_ANSWER))
        if response.will_close or not response.isclosed():  # not closed: longer than any answer we ask for
            connection.close()
    return answer


class NotAllError(Exception):
    """The answer is not complete yet."""


class _Continued(io.RawIOBase):
    """A stand-in for a socket in `http.client`: the bytes already read, then those that the socket receives."""

    def __init__(self, read: bytes, sock: socket.socket | None) -> None:
        self._before = read
        self._sock = sock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._before:
            if self._sock is None:
                raise NotAllError
            return self._sock.recv_into(buffer)
        number = min(len(buffer), len(self._before))
        buffer[:number], self._before = self._before[:number], self._before[number:]
        return number
