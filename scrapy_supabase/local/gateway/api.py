"""Routes: parses requests and passes them to the module that answers them."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import unquote

import psycopg

from scrapy_supabase.local.gateway.auth import ANYBODY, NO_KEY, Caller, Keys
from scrapy_supabase.local.gateway.catalog import Catalog, Snapshot
from scrapy_supabase.local.gateway.database import Context, Database
from scrapy_supabase.local.gateway.errors import ApiError, Response, from_database
from scrapy_supabase.local.gateway.info import info
from scrapy_supabase.local.gateway.openapi import openapi
from scrapy_supabase.local.gateway.parse import parse_query
from scrapy_supabase.local.gateway.payload import Payload, content_type, read_payload
from scrapy_supabase.local.gateway.prefer import parse_prefer
from scrapy_supabase.local.gateway.ranges import top_range
from scrapy_supabase.local.gateway.read import read
from scrapy_supabase.local.gateway.request import Request
from scrapy_supabase.local.gateway.rpc import call
from scrapy_supabase.local.gateway.write import delete, insert, put, update

logger = logging.getLogger(__name__)

PREFIX = "/rest/v1"
# Errors of a catalog that is older than the database: read it again and retry once.
_STALE = frozenset({"PGRST202", "PGRST204", "PGRST205", "42P01", "42703", "42883", "42804", "42846", "42704", "0A000"})

Handler = Callable[[Database, Snapshot, Context, Request], Response]
_READING = ("GET", "HEAD", "OPTIONS")
_TABLE: dict[str, Handler] = {
    "GET": read, "HEAD": read, "POST": insert, "PUT": put, "PATCH": update, "DELETE": delete,
}  # fmt: skip


class Api:
    """Router of requests. Thread-safe."""

    def __init__(self, database: Database, catalog: Catalog, keys: Keys, schemas: tuple[str, ...]) -> None:
        self._database = database
        self._catalog = catalog
        self._keys = keys
        self._schemas = schemas

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Response:
        """Answer any request; errors are responses, too."""
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
        path, _, query = target.partition("?")
        if not (path + "/").startswith(PREFIX + "/"):
            raise _no_such_path()
        caller = self._keys.caller(headers, time.time())
        if caller is None and method != "OPTIONS":
            return NO_KEY
        for attempt in (1, 2):
            try:
                return self._route(method, path[len(PREFIX) :] or "/", query, headers, body, caller or ANYBODY)
            except ApiError as error:
                if attempt == 2 or error.code not in _STALE or not self._catalog.changed():
                    raise
        raise AssertionError("unreachable")

    def _route(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, caller: Caller
    ) -> Response:
        resource, name = _resource([unquote(part, errors="replace") for part in path.split("/")[1:]])
        schema, profiled = self._schema(method, headers)
        handler = _handler(resource, method)
        called = resource == "function" and method != "POST"
        parsed = parse_query(query, arguments=called, rows=method in _READING or resource == "function")
        rows = top_range(method, parsed.range, headers.get("range"))
        kind, payload = content_type(headers), Payload(b"")
        if method in ("POST", "PUT", "PATCH"):
            columns = parsed.columns if method != "PUT" else None
            payload = read_payload(body, kind, columns, function=handler is call)
        prefer = parse_prefer(headers.get("prefer"), self._catalog.timezones)
        request = Request(method, schema, name, parsed, rows, prefer, headers, kind, payload)
        # An outdated catalog causes no error in this document, so it is always read again.
        snapshot = self._catalog.reload() if handler is openapi else self._catalog.snapshot
        if method == "OPTIONS":
            return info(snapshot, request, resource)
        context = Context(
            caller,
            schema,
            method,
            path,
            json.dumps({n: v for n, v in headers.items() if n != "cookie"}),
            json.dumps(_cookies(headers.get("cookie"))),
            snapshot.settings.get(caller.role, ()),
            prefer.get("timezone"),
            snapshot.deferrable,
        )
        response = handler(self._database, snapshot, context, request)
        if profiled and "content-type" in response.headers:
            response.headers.setdefault("content-profile", schema)
        return response

    def _schema(self, method: str, headers: dict[str, str]) -> tuple[str, bool]:
        """Return the requested schema, and whether the response names it."""
        profile = headers.get("accept-profile" if method in _READING else "content-profile")
        if profile is None:
            return self._schemas[0], len(self._schemas) > 1
        if profile not in self._schemas:
            hint = f"Only the following schemas are exposed: {', '.join(self._schemas)}"
            raise ApiError(406, "PGRST106", f"Invalid schema: {profile}", hint=hint)
        return profile, True


def _resource(path: list[str]) -> tuple[str, str]:
    if path in ([], [""]):
        return "root", ""
    if len(path) == 1:
        return "table", path[0]
    if len(path) == 2 and path[0] == "rpc":
        return "function", path[1]
    raise _no_such_path()


def _handler(resource: str, method: str) -> Handler:
    if method == "OPTIONS":
        return read  # answered by `info`
    if resource == "function":
        if method not in ("GET", "HEAD", "POST"):
            raise ApiError(405, "PGRST101", f"Cannot use the {method} method on RPC")
        return call
    handler = (openapi if method in _READING else None) if resource == "root" else _TABLE.get(method)
    if handler is None:
        raise ApiError(405, "PGRST117", f"Unsupported HTTP method: {method}")
    return handler


def _no_such_path() -> ApiError:
    return ApiError(404, "PGRST125", "Invalid path specified in request URL")


def _cookies(header: str | None) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header or "").items()}
    except CookieError:
        return {}
