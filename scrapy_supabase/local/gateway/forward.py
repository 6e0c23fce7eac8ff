"""Forwarding to a real PostgREST behind the same prefix and key check; it starts and ends with the gateway."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from typing import Any

from scrapy_supabase.local.gateway.api import PREFIX
from scrapy_supabase.local.gateway.auth import NO_KEY
from scrapy_supabase.local.gateway.errors import ApiError, Response

_START_TIMEOUT = 20.0  # seconds
_PR_SET_PDEATHSIG = 1
_OF_THE_CONNECTION = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


class Forward:
    """Runner of the program `orders["postgrest"]` that forwards requests to it."""

    def __init__(self, orders: dict[str, Any]) -> None:
        self._orders = orders
        with socket.socket() as probe:
            probe.bind((orders["host"], 0))
            self._port = int(probe.getsockname()[1])
        self._local = threading.local()
        self._deadline = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start PostgREST; requests wait until it listens."""
        orders = self._orders
        environment = {
            **os.environ,
            "PGRST_DB_URI": orders["db_url"],
            "PGRST_DB_SCHEMAS": ",".join(orders["schemas"]),
            "PGRST_DB_ANON_ROLE": "anon",
            "PGRST_DB_EXTRA_SEARCH_PATH": "public,extensions",
            "PGRST_DB_MAX_ROWS": "1000",
            "PGRST_JWT_SECRET": orders["jwt_secret"],
            "PGRST_SERVER_HOST": orders["host"],
            "PGRST_SERVER_PORT": str(self._port),
            "PGRST_LOG_LEVEL": "error",
        }
        self._deadline = time.monotonic() + _START_TIMEOUT
        self._process = subprocess.Popen(
            [orders["postgrest"]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """Forward a request without the prefix."""
        path = target.partition("?")[0]
        if not (path + "/").startswith(PREFIX + "/"):
            return ApiError(404, "PGRST125", "Invalid path specified in request URL").response()
        key = headers.pop("apikey", None)
        if "authorization" not in headers and method != "OPTIONS":
            if not key:
                return NO_KEY
            headers["authorization"] = f"Bearer {key}"
        while True:
            try:
                return self._pass_on(method, target[len(PREFIX) :] or "/", headers, body)
            except ConnectionRefusedError:
                if time.monotonic() > self._deadline or self._process is None or self._process.poll() is not None:
                    message = "PostgREST does not answer: see gateway.log."
                    return ApiError(503, "PGRST000", message).response()
                time.sleep(0.02)

    def _pass_on(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._orders["host"], self._port, timeout=70)
            self._local.connection = connection
        sent = {name: value for name, value in headers.items() if name not in _OF_THE_CONNECTION}
        try:
            connection.request(method, target, body or None, sent)
            answer = connection.getresponse()
            kept = {n.lower(): v for n, v in answer.getheaders() if n.lower() not in _OF_THE_CONNECTION}
            return Response(answer.status, answer.read(), kept)
        except BaseException:
            connection.close()
            self._local.connection = None
            raise


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
