"""Conversion of a statement's single row into the response: body, and the status and headers that SQL may set."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from scrapy_supabase.local.gateway.errors import ApiError, Response
from scrapy_supabase.local.gateway.media import CSV, GEOJSON, Form
from scrapy_supabase.local.gateway.ranges import Range, content_range

_SETTING = "nullif(current_setting('{}', true), '')"
_CSV_HEADER = (
    "(SELECT coalesce(string_agg(k, ','), '') FROM (SELECT json_object_keys(r)::text AS k FROM "
    "(SELECT row_to_json(_rows) AS r FROM pgrst_source AS _rows LIMIT 1) s) keys)"
)
_FEATURES = (
    "json_build_object('type', 'FeatureCollection', 'features', "
    "coalesce(json_agg(ST_AsGeoJSON(_rows)::json), '[]'))::text"
)
_CSV_LINES = "coalesce(string_agg(substring(_rows::text, 2, length(_rows::text) - 2), E'\\n'), '')"


class Outcome(NamedTuple):
    """Result of a statement: number of all rows (None if not counted), rows in the response, and its parts."""

    total: int | None
    rows: int
    body: str | None
    headers: str | None
    status: str | None
    location: list[str] | None
    inserted: int | None


def outcome_sql(
    source: str,
    rows: str = "SELECT * FROM pgrst_source",
    *,
    body: str = "''",
    total: str = "null::bigint",
    count: str = "count(_rows)",
    location: str = "null::text[]",
) -> str:
    """Return the complete statement: `source` reads or writes, `rows` selects the rows of the response."""
    settings = [_SETTING.format(name) for name in ("response.headers", "response.status", "pgrst.inserted")]
    return (
        f"WITH pgrst_source AS ({source}) SELECT {total}, {count}, {body}, {settings[0]}, {settings[1]}, {location}, "
        f"{settings[2]}::int FROM ({rows}) _rows"
    )


def body_sql(form: Form, *, scalar: bool = False, single: bool = False) -> str:
    """Return the SQL expression that builds the response body from `_rows`: from a scalar, a single row or all rows."""
    if form.media == CSV:
        return f"{_CSV_HEADER} || E'\\n' || {_CSV_LINES}"
    if form.media == GEOJSON:
        return _FEATURES
    made = f"json_agg(_rows{'.pgrst_scalar' if scalar else ''})"
    if form.strip_nulls:
        made = f"json_strip_nulls({made})"
    return f"coalesce(({made}->0)::text, 'null')" if single or form.singular else f"coalesce({made}::text, '[]')"


def ranged(
    outcome: Outcome, rows: Range, headers: dict[str, str], *, head: bool = False, void: bool = False
) -> Response:
    """Return the response for rows of a range; 416 if the range starts beyond the last row."""
    lower, upper, total = rows.lower, rows.lower + outcome.rows - 1, outcome.total
    headers = {**content_range(lower, upper, total), **headers}
    if void:
        return finished(outcome, 204, {n: v for n, v in headers.items() if n != "content-type"})
    if total is not None and lower > total:
        details = f"An offset of {lower} was requested, but there are only {total} rows."
        error = ApiError(416, "PGRST103", "Requested range not satisfiable", details=details)
        return finished(outcome, 416, headers, b"" if head else error.response().body)
    status = 206 if total is not None and 1 + upper - lower < total else 200
    return finished(outcome, status, headers, b"" if head else (outcome.body or "").encode())


def finished(outcome: Outcome, status: int, headers: dict[str, str], body: bytes = b"") -> Response:
    """Return the response with the `response.status` and `response.headers` that SQL has set. Raises `ApiError`."""
    own = _own_headers(outcome.headers) if outcome.headers else {}
    if outcome.status:
        status = _own_status(outcome.status)
    return Response(status, body, headers | own)


def _own_headers(text: str) -> dict[str, str]:
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    pairs = [pair for each in found for pair in each.items()] if _are_objects(found) else None
    if pairs is None or not all(isinstance(value, str) for _, value in pairs):
        message = "response.headers guc must be a JSON array composed of objects with a single key and a string value"
        raise ApiError(500, "PGRST111", message)
    return {name.lower(): value for name, value in pairs}


def _are_objects(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(each, dict) and len(each) == 1 for each in found)


def _own_status(text: str) -> int:
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    if not digits or not 100 <= int(digits) <= 999:
        raise ApiError(500, "PGRST112", "response.status guc must be a valid status code")
    return int(digits)
