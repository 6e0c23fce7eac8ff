"""The compatibility of PostgreSQL types: which values, sent as JSON, can be stored in which column.

PostgREST and the database backend read rows with `json_to_recordset`, which casts the text of each JSON value by the
input function of the column's type (PostgreSQL docs, 9.16): 9.99 is no integer, "2026-01-01T10:00:00Z" is a date.
"""

from __future__ import annotations

from enum import Enum

from scrapy_supabase.models import SNAPSHOT_STAMPS

STAMP_TYPES = {
    "run_id": "uuid",
    "row_id": "uuid",
    "now": "timestamp with time zone",
    "hour": "timestamp with time zone",
    "date": "date",
    SNAPSHOT_STAMPS[0]: "date",
    SNAPSHOT_STAMPS[1]: "integer",
    "spider": "text",
    "url": "text",
}
"""Stamp → the type of its values. For a hash of fields see `stamp_type`."""


class Fit(Enum):
    """Whether values of a type can be stored in a column."""

    GOOD = "good"
    PERHAPS = "perhaps"  # only some values, or not without loss
    NEVER = "never"


_KINDS = {
    "text": "text", "character varying": "text", "character": "text", "citext": "text", "name": "text",
    "bpchar": "text", "varchar": "text", "char": "text",
    "bigint": "integer", "integer": "integer", "smallint": "integer", "int": "integer", "int2": "integer",
    "int4": "integer", "int8": "integer", "int32": "integer", "int64": "integer",
    "numeric": "number", "decimal": "number", "double precision": "number", "real": "number", "float8": "number",
    "float4": "number",
    "boolean": "boolean", "bool": "boolean",
    "date": "date",
    "timestamp with time zone": "timestamptz", "timestamptz": "timestamptz",
    "timestamp without time zone": "timestamp", "timestamp": "timestamp",
    "time without time zone": "time", "time with time zone": "time", "time": "time", "timetz": "time",
    "interval": "interval", "uuid": "uuid", "bytea": "bytea",
    "json": "json", "jsonb": "json", "inet": "inet", "cidr": "cidr",
}  # fmt: skip
_FITS: dict[tuple[str, str], Fit] = {
    ("integer", "number"): Fit.GOOD,
    ("date", "timestamp"): Fit.GOOD,
    ("date", "timestamptz"): Fit.GOOD,
    ("timestamp", "timestamptz"): Fit.GOOD,
    ("cidr", "inet"): Fit.GOOD,
    ("inet", "cidr"): Fit.PERHAPS,  # an address with bits to the right of its mask is not a network
    ("timestamptz", "timestamp"): Fit.PERHAPS,  # loses the offset
    ("timestamptz", "date"): Fit.PERHAPS,  # loses the time of day
    ("timestamptz", "time"): Fit.PERHAPS,  # loses the day
    ("timestamp", "date"): Fit.PERHAPS,
    ("timestamp", "time"): Fit.PERHAPS,
}


def stamp_type(stamp: str) -> str:
    """Return the type of a stamp's values; a hash is a text."""
    return "text" if stamp.startswith("hash(") else STAMP_TYPES[stamp]


def fit(value_type: str, column_type: str) -> Fit:
    """Return whether values of `value_type` can be stored in a `column_type` column. Unknown types are `Fit.GOOD`."""
    value, column = kind_of(value_type), kind_of(column_type)
    if not value or not column or value == column or column in ("text", "json"):
        return Fit.GOOD
    if value.endswith("[]") and column.endswith("[]"):
        return fit(value[:-2], column[:-2])
    # "12" is an integer, "twelve" is not. A bytea accepts most texts, an interval a number of seconds, and a cidr 10.0
    # as 10.0.0.0/16.
    if value == "text" or column in ("bytea", "interval", "cidr") or (value == "json" and column.endswith("[]")):
        return Fit.PERHAPS
    return _FITS.get((value, column), Fit.NEVER)


def kind_of(sql_type: str) -> str:
    """Return the family of a type, such as `number` for `numeric(10,2)`; empty if unknown."""
    name = sql_type.strip().lower()
    if name.endswith("[]"):
        inner = kind_of(name[:-2])
        return f"{inner}[]" if inner else ""
    before, _, rest = name.partition("(")
    return _KINDS.get(" ".join([before.strip(), rest.partition(")")[2].strip()]).strip(), "")


def is_text(column_type: str) -> bool:
    """Return whether a type is a text type; `citext` may have the schema of its extension before it."""
    return kind_of(column_type.rpartition(".")[2]) == "text"


def sql_name(column_type: str) -> str:
    """Return the SQL name of a type; PostgREST's OpenAPI document has int32 and int64."""
    return {"int32": "integer", "int64": "bigint"}.get(column_type, column_type)
