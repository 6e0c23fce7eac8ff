"""Supabase's REST API (PostgREST) as a backend: bytes in, nothing or a classified error out.

supabase-py's `execute()` decodes, re-encodes and validates every row, asks for the rows back and loses the answer's
status and headers; this backend posts the encoded bytes unchanged, with the URL and headers that supabase-py would
send (a test compares them). Importing supabase-py costs 0.6 s of CPU, more than the upload of 50,000 rows: only tests
and the script API do so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
from msgspec.structs import replace

from scrapy_supabase.backends import openapi
from scrapy_supabase.backends.answers import classify
from scrapy_supabase.backends.base import Merged, PendingWrite, Select, ServerFacts, TableInfo, View, Write
from scrapy_supabase.backends.bounded_cache import BoundedCache
from scrapy_supabase.backends.error_body import parse_body
from scrapy_supabase.backends.filters import query_name, query_names, to_query
from scrapy_supabase.backends.http import HttpPool
from scrapy_supabase.backends.http_answer import Answer
from scrapy_supabase.backends.http_request import STORED, PendingRequest
from scrapy_supabase.backends.merge_sql import FUNCTION, VERSION, merged, options_of
from scrapy_supabase.backends.stored_rows import RestRows
from scrapy_supabase.backends.wide import LONGEST_TARGET, keep_columns, split_columns
from scrapy_supabase.errors import (
    FatalError,
    ServerError,
    TooLargeError,
    TransientError,
    TrialStoredError,
    UnknownError,
    fatal,
)
from scrapy_supabase.models import Mode

_RESOLUTION = {  # by mode and `fills`
    (Mode.UPSERT, False): "return=minimal,resolution=merge-duplicates",
    (Mode.UPSERT, True): "return=minimal,resolution=merge-duplicates",
    (Mode.UPDATE, False): "return=minimal,resolution=merge-duplicates",  # only requests without rows
    (Mode.IGNORE, False): "return=minimal,resolution=ignore-duplicates",
    (Mode.IGNORE, True): "return=minimal,resolution=ignore-duplicates",
    (Mode.INSERT, False): "return=minimal,missing=default",
    (Mode.INSERT, True): "return=minimal",
}
_NO_OPERATOR = re.compile(r"([^:]+?) @> unknown")  # "operator does not exist: text @> unknown"
_WRONG_URL = "Set SUPABASE_URL to the project's URL itself, such as https://abcdefgh.supabase.co."


class PostgrestBackend:
    """The REST API of one project, for one key and one database schema.

    `url` is the project's (without `/rest/v1`), `timeout` the number of seconds the server may be silent, `connections`
    the number of idle connections to keep, `proxy` an HTTP proxy's URL. The key is only in the headers, never in a
    message.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        schema: str = "public",
        timeout: float = 65.0,
        connections: int = 4,
        proxy: str | None = None,
    ) -> None:
        self._prefix = urlsplit(url).path.rstrip("/") + "/rest/v1/"
        self._host = urlsplit(url).netloc.rpartition("@")[2]
        self._schema = schema
        self._headers = {
            "apikey": key,
            "Authorization": f"Bearer {key}",
            "User-Agent": "scrapy-supabase",
            "Accept-Profile": schema,
        }
        self._write_headers = {
            key: {
                **self._headers,
                "Content-Type": "application/json",
                "Content-Profile": schema,
                "Prefer": prefer,
            }
            for key, prefer in _RESOLUTION.items()
        }
        self._heads = BoundedCache[tuple[object, ...], bytes]()
        self._wide: set[tuple[object, ...]] = set()
        self._http = HttpPool(url, timeout=timeout, size=connections, proxy=proxy)
        rows = RestRows(self._http, self._prefix, self._headers, self._error)
        self.count, self.update, self.delete = rows.count, rows.update, rows.delete
        self.lacks_function = rows.lacks_function

    def __repr__(self) -> str:
        return f"<PostgrestBackend {self._host}>"

    def send(self, write: Write) -> PendingWrite | None:
        """Send a plain write without waiting; return None if no connection is idle."""
        if write.merge:
            return None
        head = self._head(write)
        sent = self._http.send(head, self._body(write))
        return PendingRequest(sent, partial(self._judge, write.table)) if sent else None

    def write(self, write: Write) -> Merged | None:
        """Store the rows, all or none; see `base.Backend`. Raises `ServerError`."""
        if write.merge:
            start = b'{"target":%b,"options":%b,"rows":' % (msgspec.json.encode(write.table), options_of(write))
            return merged(self._call(FUNCTION, start + write.body + b"}", write.table))
        head = self._head(write)
        if write.body == b"[]" and write.shape in self._wide:  # a probe checks every column's name
            for columns in split_columns(write.columns, lambda some: self._fits(replace(write, columns=some))):
                part = replace(write, columns=columns)
                self._judge(write.table, self._http.request(self._head(part), part.body))
            return None
        self._judge(write.table, self._http.request(head, self._body(write)))
        return None

    def merges(self) -> bool:
        """Ask the function for its version. Raises `ServerError`."""
        try:
            found = self._call(FUNCTION, b'{"target":"","options":{},"rows":[]}')
        except FatalError as error:
            if error.code in ("PGRST202", "42501"):  # it does not exist, or must not be called
                return False
            raise
        return bool(msgspec.json.decode(found) == {"version": VERSION})

    def insert_new(self, write: Write, returning: Sequence[str]) -> bytes:
        """Insert the rows whose key is not stored yet; see `base.Backend`. The server reads them as jsonb."""
        prefer = f"return={'representation' if returning else 'minimal'},missing=default"
        if write.mode is not Mode.INSERT:
            prefer += ",resolution=ignore-duplicates"
        headers = {**self._write_headers[write.mode, False], "Prefer": prefer}
        target = self._target(write) + (f"&select={query_names(returning)}" if returning else "")
        answer = self._http.request(self._http.head("POST", target, headers), write.body)
        self._judge(write.table, answer)
        return answer.body

    def select(self, select: Select) -> bytes:
        """Return rows of a table; see `base.Backend`. The server's own limit of rows applies, too."""
        names = query_names(select.columns) if select.columns else "*"
        order = ",".join(query_name(each.column) + (".desc" if each.descending else "") for each in select.order)
        query = [f"select={names}", to_query(select.where), f"order={quote(order, safe='')}" if order else ""]
        target = f"{self._prefix}{quote(select.table, safe='')}?{'&'.join(filter(None, query))}&limit={select.limit}"
        answer = self._http.request(self._http.head("GET", target, self._headers), None)
        if answer.status not in (200, 206) or not answer.body.startswith(b"["):
            raise self._error(answer, select.table)
        if not answer.body.endswith(b"]"):
            raise TooLargeError(f"the answer with {select.limit} rows is too long", code="http_413")
        return answer.body

    def _judge(self, table: str, answer: Answer) -> None:
        if answer.status not in STORED:
            raise self._error(answer, table)
        # `return=minimal` has no body. An error raised as PT200 has one and stored nothing; a web page comes from a
        # captive portal or a parked domain.
        if "message" in parse_body(answer.body):
            raise self._error(answer, table)
        if _is_page(answer):
            raise self._error(answer, table)

    def _error(self, answer: Answer, table: str = "") -> ServerError:
        """Return the error for an unsuccessful answer. The key is removed, in case the server or a proxy repeats it."""
        if 300 <= answer.status < 400:
            to = urlsplit(answer.headers.get("Location", ""))
            host = to.netloc.rpartition("@")[2]
            moved = f"{to.scheme}://{host}{to.path}" if host else to.path or "another URL"
            redirect = ServerError(f"the server redirects to {moved}", code=f"http_{answer.status}")
            return fatal(redirect, "supabase_not_found", _WRONG_URL)
        if _is_page(answer):
            page = ServerError("the server is no Supabase project: it sent a web page", code=f"http_{answer.status}")
            return fatal(page, "supabase_not_found", _WRONG_URL)
        body = answer.body.replace(self._headers["apikey"].encode(), b"(the key)")
        return classify(answer.status, body, answer.headers.get("Retry-After"), table=table)

    def _head(self, write: Write) -> bytes:
        shape = write.shape
        head = self._heads.get(shape)
        if head is None:
            headers = self._write_headers[write.mode, write.fills]
            if not self._fits(write):
                self._wide.add(shape)
                write = replace(write, columns=())  # PostgREST then takes the keys of the first object: all rows' keys
            head = self._heads[shape] = self._http.head("POST", self._target(write), headers)
        return head

    def _fits(self, write: Write) -> bool:
        return len(self._target(write)) <= LONGEST_TARGET

    def _body(self, write: Write) -> bytes:
        """Return the body to send. Call `_head` first: it finds out which writes are wide."""
        return keep_columns(write.columns, write.body) if self._wide and write.shape in self._wide else write.body

    def _target(self, write: Write) -> str:
        query = "columns=" + query_names(write.columns) if write.columns else ""
        if write.on_conflict and write.mode is not Mode.INSERT:
            query += "&on_conflict=" + query_names(write.on_conflict)
        return f"{self._prefix}{quote(write.table, safe='')}?{query}"

    def describe(self) -> Mapping[str, TableInfo] | None:
        """Read the OpenAPI document; return None if the key may not (on hosted Supabase, all but secret keys)."""
        answer = self._openapi()
        if answer.status == 200:
            return openapi.tables(answer.body)
        error = self._error(answer)
        # Probes check the tables then. They also find out about a key that is refused altogether.
        if isinstance(error, FatalError) and answer.status in (401, 403, 404):
            return None
        raise error

    def view(self, table: str) -> View | None:
        """Tell a view from a table by a column that only tables have. Its triggers and columns remain unknown."""
        target = f"{self._prefix}{quote(table, safe='')}?select=tableoid&limit=0"
        answer = self._http.request(self._http.head("GET", target, self._headers), None)
        return View() if parse_body(answer.body).get("code") == "42703" else None

    def type_of(self, table: str, column: str) -> str:
        """Use an operator that most types lack: the refusal names the type. It comes before any check of rights."""
        name = query_names((column,))
        target = f"{self._prefix}{quote(table, safe='')}?select={name}&{name}=cs.x&limit=0"
        answer = self._http.request(self._http.head("GET", target, self._headers), None)
        if answer.status < 300:
            return ""
        error = self._error(answer)
        if isinstance(error, TransientError):
            raise error
        found = _NO_OPERATOR.search(error.message) if error.code == "42883" else None
        return found[1].strip() if found else ""

    def facts(self) -> ServerFacts:
        """Read version and clock from the answer for the OpenAPI document, even a refusal. Raises `ServerError`."""
        answer = self._openapi()
        if answer.status in (401, 429) or answer.status >= 500 or 300 <= answer.status < 400 or _is_page(answer):
            raise self._error(answer)
        version = openapi.version(answer.body)
        name = f"PostgREST {version}" if version else answer.headers.get("Server", "")
        date = answer.headers.get("Date")
        clock = None
        with suppress(TypeError, ValueError):
            clock = parsedate_to_datetime(date) if date else None
        return ServerFacts(name, clock)

    def dry_run(self, write: Write) -> None:
        """Ask for one object back: PostgREST refuses that for two stored rows, and rolls back.

        (PostgREST docs, references/api/resource_representation, "Singular or Plural": PGRST116.) The request also asks
        for a rollback, for servers that allow it (`db-tx-end`). See `base.Backend`.
        """
        headers = {**self._write_headers[write.mode, False], "Accept": "application/vnd.pgrst.object+json"}
        headers["Prefer"] += ",tx=rollback"
        answer = self._http.request(self._http.head("POST", self._target(write), headers), write.body)
        if answer.status in STORED and "tx=rollback" not in answer.headers.get("Preference-Applied", ""):
            raise TrialStoredError("stored", code=f"http_{answer.status}")
        error = self._error(answer, write.table)
        # PGRST116, or a gateway's version of it. A schema that is not exposed is a 406 as well.
        if answer.status != 406 or not isinstance(error, UnknownError):
            raise error

    def _openapi(self) -> Answer:
        headers = {**self._headers, "Accept": "application/openapi+json"}
        return self._http.request(self._http.head("GET", self._prefix, headers), None)

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function with named arguments. Raises `ServerError`."""
        found = self._call(function, msgspec.json.encode(arguments))
        return msgspec.json.decode(found) if found else None

    def _call(self, function: str, arguments: bytes, table: str = "") -> bytes:
        """Call a function with a JSON object of arguments and return the body of the answer. Raises `ServerError`."""
        target = f"{self._prefix}rpc/{quote(function, safe='')}"
        headers = {**self._headers, "Content-Type": "application/json", "Content-Profile": self._schema}
        answer = self._http.request(self._http.head("POST", target, headers), arguments)
        if answer.status not in (200, 204):
            raise self._error(answer, table)
        return answer.body

    def close(self) -> None:
        """Close idle connections."""
        self._http.close()


def _is_page(answer: Answer) -> bool:
    """Return whether a web server sent a page: no REST API is there, or none that knows the method."""
    served = answer.status < 300 or answer.status in (404, 405, 501)
    return served and answer.body.lstrip()[:1] not in (b"", b"{", b"[")
