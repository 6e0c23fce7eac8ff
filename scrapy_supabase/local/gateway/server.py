"""HTTP in, `Response` out: connections, routes, and the promise that no caller ever sees a traceback."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg

from scrapy_supabase.local.gateway.auth import NO_KEY, Caller, Keys
from scrapy_supabase.local.gateway.catalog import Catalog, Snapshot
from scrapy_supabase.local.gateway.database import Context, Database
from scrapy_supabase.local.gateway.errors import ApiError, Response, from_database, not_built
from scrapy_supabase.local.gateway.openapi import openapi
from scrapy_supabase.local.gateway.parse import parse_query
from scrapy_supabase.local.gateway.prefer import parse_prefer
from scrapy_supabase.local.gateway.read import read
from scrapy_supabase.local.gateway.request import CSV, JSON, OBJECT, OPENAPI, Request, choose_form
from scrapy_supabase.local.gateway.rpc import call
from scrapy_supabase.local.gateway.write import delete, insert, update

logger = logging.getLogger(__name__)

PREFIX = "/rest/v1"
MOST_BYTES = 64 * 1024 * 1024  # of a body; hosted Supabase refuses far less
_TOO_LARGE = f"The body is larger than {MOST_BYTES} bytes: send fewer rows at once."
_ALLOW = "OPTIONS,GET,HEAD,POST,PUT,PATCH,DELETE"
# What a catalog that is behind the database looks like: read it again and try once more.
_STALE = frozenset({"PGRST202", "PGRST204", "PGRST205", "42P01", "42703", "42883", "42804", "42846", "42704", "0A000"})

Handler = Callable[[Database, Snapshot, Context, Request], Response]


class Api:
    """Answers requests. Thread-safe."""

    def __init__(self, database: Database, catalog: Catalog, keys: Keys, schemas: tuple[str, ...]) -> None:
        self._database = database
        self._catalog = catalog
        self._keys = keys
        self._schemas = schemas

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """Answer any request; what goes wrong is an answer, too."""
        try:
            return self._answer(method, target, headers, body)
        except ApiError as error:
            return error.response()
        except psycopg.Error as error:  # of the catalog: a lock, a statement timeout
            return from_database(error, anonymous=False).response()
        except Exception:
            logger.exception("%s %s", method, target.partition("?")[0])
            return ApiError(500, "PGRSTX00", "The local gateway failed: see gateway.log in its data folder.").response()

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        parts = urlsplit(target)
        if not (parts.path + "/").startswith(PREFIX + "/"):
            raise ApiError(404, "PGRST125", "Invalid path specified in request URL")
        if method == "OPTIONS":
            return Response(200, b"", {"allow": _ALLOW, "access-control-allow-origin": "*"})
        caller = self._keys.caller(headers, time.time())
        if caller is None:
            return NO_KEY
        path = [unquote(part, errors="replace") for part in parts.path[len(PREFIX) :].split("/")[1:]]
        for attempt in (1, 2):
            try:
                return self._route(method, path, parts.query, headers, body, caller)
            except ApiError as error:
                if attempt == 2 or error.code not in _STALE or not self._catalog.changed():
                    raise
        raise AssertionError("unreachable")

    def _route(
        self, method: str, path: list[str], query: str, headers: dict[str, str], body: bytes, caller: Caller
    ) -> Response:
        handler, name, offered = _find(method, path)
        profile = headers.get("accept-profile" if method in ("GET", "HEAD") else "content-profile")
        schema = profile or self._schemas[0]
        if schema not in self._schemas:
            hint = f"Only the following schemas are exposed: {', '.join(self._schemas)}"
            raise ApiError(406, "PGRST106", f"Invalid schema: {schema}", hint=hint)
        form, strip = choose_form(headers.get("accept", "*/*"), offered)
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=1000)
        request = Request(
            method,
            schema,
            name,
            parse_query([p for p in pairs if p[0] != "apikey"], function=handler is call),
            parse_prefer(headers.get("prefer")),
            headers,
            body,
            form,
            strip,
        )
        # Nothing in the document could be missed, so it could not be told that the catalog is behind: read it again.
        snapshot = self._catalog.reload() if handler is openapi else self._catalog.snapshot
        shown = {n: v for n, v in headers.items() if n not in ("authorization", "apikey")}
        settings = snapshot.settings.get(caller.role, ())
        where = "/" + "/".join(path)
        context = Context(caller, schema, method, where, json.dumps(shown), settings, snapshot.deferrable)
        return handler(self._database, snapshot, context, request)


_ROWS = (JSON, OBJECT, CSV)
_TABLE: dict[str, Handler] = {"GET": read, "HEAD": read, "POST": insert, "PATCH": update, "DELETE": delete}


def _find(method: str, path: list[str]) -> tuple[Handler, str, tuple[str, ...]]:
    if method not in _ALLOW.split(","):
        raise ApiError(405, "PGRST117", f"Unsupported HTTP method: {method}")
    if path in ([], [""]):
        if method not in ("GET", "HEAD"):
            raise ApiError(405, "PGRST117", f"Unsupported HTTP method: {method}")
        return openapi, "", (OPENAPI, JSON)
    if path[0] == "rpc" and len(path) == 2:
        if method not in ("GET", "HEAD", "POST"):
            raise ApiError(405, "PGRST101", f"Cannot use the {method} method on RPC")
        return call, path[1], _ROWS
    if len(path) != 1:
        raise ApiError(404, "PGRST125", "Invalid path specified in request URL")
    if method == "PUT":
        raise not_built("PUT: use POST with `Prefer: resolution=merge-duplicates`")
    return _TABLE[method], path[0], _ROWS


class GatewayServer(ThreadingHTTPServer):
    """The listening socket. `answer` is called in a thread a connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], answer: Callable[[str, str, dict[str, str], bytes], Response]) -> None:
        self.answer = answer
        super().__init__(address, _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A client that hangs up is none of our business."""
        logger.debug("connection from %s ended", client_address, exc_info=True)


class _Connection(BaseHTTPRequestHandler):
    """One kept-alive connection."""

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
        if name.startswith("do_"):  # every method is ours to answer, with PostgREST's error if need be
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        body = self._read_body()
        if body is None:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._send(self.server.answer(self.command, self.path, headers, body))

    def _read_body(self) -> bytes | None:
        """The body; None where the request was answered and the connection is to be closed."""
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
            self.send_header(name, value.encode("latin-1", "replace").decode("latin-1").replace("\n", " "))
        if response.status != 204:
            self.send_header("content-length", str(len(response.body)))
        if self.close_connection:
            self.send_header("connection", "close")
        # Headers and body in one packet.
        self._headers_buffer.append(b"\r\n")
        data = b"".join(self._headers_buffer) + (b"" if self.command == "HEAD" else response.body)
        self._headers_buffer = []
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the standard library refuses: in JSON, like everything else."""
        self.close_connection = True
        self.command = getattr(self, "command", None) or "GET"
        self.request_version = self.protocol_version  # HTTP/0.9 would be answered without a status
        self._send(ApiError(code, f"http_{code}", message or "Bad request").response())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """No log of requests: they would carry data."""
