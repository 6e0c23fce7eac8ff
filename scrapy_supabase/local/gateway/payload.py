"""Body of a request as JSON text, with the keys of its rows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from scrapy_supabase.local.gateway.errors import ApiError
from scrapy_supabase.local.gateway.media import BYTES, CSV, FORM, JSON, TEXT, XML, decode
from scrapy_supabase.local.gateway.parsec import haskell_show

_WHITE_SPACE = b" \t\n\r"
_NESTING = re.compile(rb'"(?:[^"\\]|\\.)*"|([\[{])|[\]}]', re.DOTALL)
_CSV_FIELD = re.compile(r'"((?:[^"]|"")*)"|([^",\r\n]*)')
_CSV_END = re.compile(r"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Payload:
    """Body of a request. `keys` are sorted by name; `single` is true for one object.

    `pairs` are those of a form for a function call; `raw` is true if the whole body is one argument.
    """

    body: bytes
    keys: tuple[str, ...] = ()
    single: bool = False
    pairs: tuple[tuple[str, str], ...] | None = None
    raw: bool = False


def content_type(headers: dict[str, str]) -> str:
    """Return the media type of the body."""
    return decode(headers.get("content-type", JSON))


def read_payload(body: bytes, kind: str, columns: tuple[str, ...] | None, *, function: bool = False) -> Payload:
    """Convert the body into JSON, as PostgREST does; with `columns` it is not parsed. Raises `ApiError` PGRST102."""
    if kind == JSON:
        if columns is not None:
            return Payload(body, columns, _is_object(body))
        return _parsed(body) if body or not function else Payload(body, single=True)
    if kind == CSV:
        rows = csv_rows(body)
        if any(row.keys() != rows[0].keys() for row in rows):
            raise ApiError(400, "PGRST102", "All lines must have same number of fields")
        return Payload(json.dumps(rows).encode(), tuple(sorted(rows[0])) if rows else ())
    if kind == FORM:
        pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
        fields = dict(pairs)
        return Payload(
            json.dumps(fields).encode(), tuple(sorted(fields)), single=True, pairs=tuple(pairs) if function else None
        )
    if function and kind in (TEXT, XML, BYTES):
        return Payload(body, raw=True)
    raise ApiError(400, "PGRST102", f"Content-Type not acceptable: {kind}")


def _is_object(body: bytes) -> bool:
    return body.lstrip(_WHITE_SPACE)[:1] == b"{"


def _parsed(body: bytes) -> Payload:
    """Parse only the keys: PostgreSQL parses the values, however deep or long they are."""
    if _is_object(body):
        return Payload(body, tuple(sorted(_decoded(body, dict))), single=True)
    if body.lstrip(_WHITE_SPACE)[:1] != b"[":
        _decoded(body, None)
        return Payload(b"[]")  # any other value counts as an empty array
    rows = _decoded(body, list)
    if not rows:
        return Payload(b"[]")
    keys = rows[0].keys()
    if any(row.keys() != keys for row in rows):
        raise _different_keys()
    return Payload(body, tuple(sorted(keys)))


def _decoded(body: bytes, kind: type | None) -> Any:
    import msgspec

    shapes: dict[type | None, Any] = {
        None: msgspec.Raw,
        dict: dict[str, msgspec.Raw],
        list: list[dict[str, msgspec.Raw]],
    }
    try:
        body.decode()
        try:
            return msgspec.json.decode(body, type=shapes[kind])
        except msgspec.ValidationError:  # a row is not an object
            msgspec.json.decode(body, type=msgspec.Raw)
            raise _different_keys() from None
        except RecursionError:
            return msgspec.json.decode(_shallow(body, 2 if kind is list else 1), type=shapes[kind])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "PGRST102", "Empty or invalid json") from None


def _shallow(body: bytes, most: int) -> bytes:
    """Return the JSON text with 0 in place of everything that is nested deeper than `most`."""
    kept, depth, start = [], 0, 0
    for found in _NESTING.finditer(body):
        if found[1]:
            depth += 1
            if depth == most + 1:
                kept.append(body[start : found.start()] + b"0")
        elif found[0][:1] in b"]}":
            if depth == most + 1:
                start = found.end()
            depth -= 1
    return b"".join([*kept, body[start:]]) if depth == 0 else b""


def _different_keys() -> ApiError:
    return ApiError(400, "PGRST102", "All object keys must match")


def csv_rows(body: bytes) -> list[dict[str, str | None]]:
    """Return the rows of a CSV body: the first line names the fields; a shorter line has only the first of them."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "PGRST102", "The CSV body is not UTF-8.") from None
    if not text:
        raise ApiError(400, "PGRST102", 'parse error (not enough input) at ""')
    lines: list[list[str]] = []
    at = 0
    while at < len(text):
        fields: list[str] = []
        while True:
            found = _CSV_FIELD.match(text, at)
            if found is None:  # the pattern also matches the empty text
                raise AssertionError("unreachable")
            fields.append(found[2] if found[1] is None else found[1].replace('""', '"'))
            at = found.end()
            if not text.startswith(",", at):
                break
            at += 1
        end = _CSV_END.match(text, at)
        if end is None and at < len(text):
            raise ApiError(400, "PGRST102", f"parse error (endOfInput) at {_rest(text[at:])}")
        lines.append(fields)
        at = end.end() if end else at
    names, rows = lines[0], [line for line in lines[1:] if line != [""]]
    return [{n: None if v == "NULL" else v for n, v in zip(names, line, strict=False)} for line in rows]


def _rest(text: str) -> str:
    """Return the text that could not be parsed, as PostgREST's CSV parser shows it."""
    raw = text.encode().decode("latin-1")
    return haskell_show(raw) if len(raw) <= 100 else f"{haskell_show(raw[:100])} (truncated)"
