"""A request, as far as HTTP goes: what it asks for and in which form."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from scrapy_supabase.local.gateway.catalog import Snapshot, Table
from scrapy_supabase.local.gateway.errors import ApiError
from scrapy_supabase.local.gateway.parse import Query
from scrapy_supabase.local.gateway.prefer import Preferences

JSON = "application/json"
OBJECT = "application/vnd.pgrst.object+json"
ARRAY = "application/vnd.pgrst.array+json"
CSV = "text/csv"
OPENAPI = "application/openapi+json"
MAX_ROWS = 1000  # Supabase's `db-max-rows`


@dataclass(frozen=True, slots=True)
class Request:
    """`form` is the media type to answer with; `strip_nulls` leaves null fields out."""

    method: str
    schema: str
    target: str
    query: Query
    prefer: Preferences
    headers: dict[str, str]
    body: bytes
    form: str = JSON
    strip_nulls: bool = False

    @property
    def singular(self) -> bool:
        """Whether one object is asked for, instead of an array."""
        return self.form == OBJECT

    @property
    def content_type(self) -> dict[str, str]:
        """The answer's header."""
        suffix = ";nulls=stripped" if self.strip_nulls else ""
        return {"content-type": f"{self.form}{suffix}; charset=utf-8"}


def choose_form(accept: str, offered: tuple[str, ...]) -> tuple[str, bool]:
    """The first media type of an `Accept` header that is offered, and whether nulls are stripped."""
    wanted: list[tuple[float, str]] = []
    for part in (accept or "*/*").split(","):
        name, *options = (piece.strip() for piece in part.split(";"))
        quality = next((o[2:] for o in options if o.startswith("q=")), "1")
        weight = float(quality) if re.fullmatch(r"[01](\.\d{1,3})?", quality) else 1.0
        wanted.append((weight, ";".join([name.lower(), *(o for o in options if o == "nulls=stripped")])))
    for _, text in sorted(wanted, key=lambda each: -each[0]):
        name, _, option = text.partition(";")
        stripped = bool(option)
        if name in ("*/*", "application/*"):
            return offered[0], False
        if name in ("application/vnd.pgrst.object", "application/vnd.pgrst.array"):
            name += "+json"
        if name == ARRAY and JSON in offered:
            return (ARRAY, True) if stripped else (JSON, False)
        if name in offered and (not stripped or name == OBJECT):
            return name, stripped
    types = ", ".join(part.strip() for part in accept.split(","))
    raise ApiError(406, "PGRST107", f"None of these media types are available: {types}")


def find_table(snapshot: Snapshot, schema: str, name: str) -> Table:
    """The table, or PGRST205 with the nearest name as a hint."""
    table = snapshot.tables.get((schema, name))
    if table is None:
        close = nearest(name, [other for where, other in snapshot.tables if where == schema], 0.75)
        hint = f"Perhaps you meant the table '{schema}.{close}'" if close else None
        message = f"Could not find the table '{schema}.{name}' in the schema cache"
        raise ApiError(404, "PGRST205", message, hint=hint)
    return table


def nearest(word: str, candidates: list[str], least: float) -> str | None:
    """The candidate most like `word`: 1 - (edits / length of the longer), if that is at least `least`."""
    scored = [(1 - _edits(word.lower(), other.lower()) / max(len(word), len(other), 1), other) for other in candidates]
    best = max(scored, default=(0.0, ""))
    return best[1] if best[0] >= least else None


def _edits(one: str, other: str) -> int:
    if abs(len(one) - len(other)) > 20 or len(one) > 200:
        return max(len(one), len(other))
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]


@dataclass(frozen=True, slots=True)
class Payload:
    """A body as JSON text. `keys` is None where it was not looked into (`columns=` said what to take)."""

    json: bytes
    keys: tuple[str, ...] | None
    single: bool


def read_payload(request: Request) -> Payload:
    """Turn the body into JSON, as PostgREST does. Raises `ApiError` PGRST102."""
    kind = request.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    if kind == CSV:
        rows = _csv_rows(request.body)
        return Payload(json.dumps(rows).encode(), tuple(rows[0]) if rows else (), single=False)
    if kind == "application/x-www-form-urlencoded":
        pairs = dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
        return Payload(json.dumps(pairs).encode(), tuple(pairs), single=True)
    if kind not in (JSON, OBJECT, ARRAY, ""):
        raise ApiError(400, "PGRST102", f"Content-Type not acceptable: {kind}")
    if request.query.columns is not None:
        return Payload(request.body, None, request.body.lstrip()[:1] == b"{")
    found = parse_json(request.body)
    if isinstance(found, dict):
        return Payload(request.body, tuple(found), single=True)
    if not isinstance(found, list) or not found:
        return Payload(b"[]", (), single=False)  # PostgREST takes any other value for an empty array
    keys = set(found[0]) if isinstance(found[0], dict) else None
    if keys is None or not all(isinstance(row, dict) and row.keys() == keys for row in found):
        raise ApiError(400, "PGRST102", "All object keys must match")
    return Payload(request.body, tuple(found[0]), single=False)


def parse_json(body: bytes) -> Any:
    """Decode strict JSON: no NaN, no lone surrogates. Raises `ApiError` PGRST102."""
    import msgspec

    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(400, "PGRST102", "Empty or invalid json") from None


def _csv_rows(body: bytes) -> list[dict[str, str | None]]:
    try:
        lines = list(csv.reader(io.StringIO(body.decode()), strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ApiError(400, "PGRST102", f"Error parsing the CSV body: {error}") from None
    names, rows = (lines[0], [line for line in lines[1:] if line]) if lines else ([], [])
    if any(len(line) != len(names) for line in rows):
        raise ApiError(400, "PGRST102", "All lines must have same number of fields")
    return [{n: None if v == "NULL" else v for n, v in zip(names, line, strict=True)} for line in rows]


def content_range(lower: int, upper: int, total: int | None) -> dict[str, str]:
    """The header `content-range`: `0-9/*`, or `*/3` where there are no rows."""
    shown = "*" if total is None else str(total)
    return {"content-range": f"{lower}-{upper}/{shown}" if total != 0 and lower <= upper else f"*/{shown}"}


def body_sql(request: Request, *, scalar: str = "") -> str:
    """The expression that makes the answer's body of the rows `_rows` (or of one column of theirs)."""
    rows = f"_rows.{scalar}" if scalar else "_rows"
    if request.form == CSV:
        header = (
            "(SELECT coalesce(string_agg(quote_ident(k), ','), '') FROM (SELECT json_object_keys(r)::text AS k FROM "
            "(SELECT row_to_json(_rows) AS r FROM pgrst_source AS _rows LIMIT 1) s) keys)"
        )
        lines = "string_agg(substring(_rows::text, 2, length(_rows::text) - 2), E'\\n')"
        return f"{header} || E'\\n' || coalesce({lines}, '')"
    made = f"json_agg({rows})"
    if request.strip_nulls:
        made = f"json_strip_nulls({made})"
    return f"coalesce(({made}->0)::text, 'null')" if request.singular else f"coalesce({made}::text, '[]')"


def check_singular(request: Request, count: int) -> None:
    """One object was asked for: there must be one row."""
    if request.singular and count != 1:
        message = "Cannot coerce the result to a single JSON object"
        raise ApiError(406, "PGRST116", message, details=f"The result contains {count} rows")
