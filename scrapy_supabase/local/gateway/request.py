"""Parsed HTTP request, and checks that several routes share."""

from __future__ import annotations

from dataclasses import dataclass

from scrapy_supabase.local.gateway.catalog import Snapshot, Table
from scrapy_supabase.local.gateway.errors import ApiError, not_built
from scrapy_supabase.local.gateway.media import Form
from scrapy_supabase.local.gateway.parse import Query
from scrapy_supabase.local.gateway.payload import Payload
from scrapy_supabase.local.gateway.prefer import Preferences
from scrapy_supabase.local.gateway.ranges import Range


@dataclass(frozen=True, slots=True)
class Request:
    """Parsed request. `kind` is the media type of the body, `rows` the requested range."""

    # Nine fields: the parts of an HTTP request, each parsed once.
    method: str
    schema: str
    target: str
    query: Query
    rows: Range
    prefer: Preferences
    headers: dict[str, str]
    kind: str
    payload: Payload

    @property
    def represents(self) -> bool:
        """Return whether the client requests the written rows."""
        return self.prefer.get("return") == "representation"


def find_table(snapshot: Snapshot, schema: str, name: str) -> Table:
    """Return the table. Raises `ApiError` PGRST205 with the nearest name as a hint."""
    table = snapshot.tables.get((schema, name))
    if table is None:
        close = nearest(name, [other for where, other in snapshot.tables if where == schema], 0.75)
        hint = f"Perhaps you meant the table '{schema}.{close}'" if close else None
        message = f"Could not find the table '{schema}.{name}' in the schema cache"
        raise ApiError(404, "PGRST205", message, hint=hint)
    if table.represented:
        raise not_built("domain representations")
    return table


def nearest(word: str, candidates: list[str], least: float) -> str | None:
    """Return the candidate most similar to `word`, if 1 - (edits / longer length) is at least `least`."""
    scored = [(1 - _edits(word.lower(), other.lower()) / max(len(word), len(other), 1), other) for other in candidates]
    best = max(scored, default=(0.0, ""))
    return best[1] if best[0] >= least else None


def check_singular(form: Form, count: int) -> None:
    """Raise `ApiError` if one object was requested and there is not exactly one row."""
    if form.singular and count != 1:
        message = "Cannot coerce the result to a single JSON object"
        raise ApiError(406, "PGRST116", message, details=f"The result contains {count} rows")


def check_affected(prefer: Preferences, count: int) -> None:
    """Raise `ApiError` if a change affects more than `max-affected` rows."""
    if prefer.max_affected is not None and count > prefer.max_affected:
        message = "Query result exceeds max-affected preference constraint"
        raise ApiError(400, "PGRST124", message, details=f"The query affects {count} rows")


def _edits(one: str, other: str) -> int:
    if abs(len(one) - len(other)) > 20 or len(one) > 200:
        return max(len(one), len(other))
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (a != b))
    return row[-1]
