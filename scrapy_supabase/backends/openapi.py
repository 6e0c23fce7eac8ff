"""PostgREST's OpenAPI document: the server's version, and the tables it describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from scrapy_supabase.backends.base import TableInfo

_PRIMARY_KEY = "<pk/>"


class _Property(msgspec.Struct):
    format: str | None = None
    type: str | None = None
    description: str | None = None
    enum: list[Any] = []
    default: Any = msgspec.UNSET


class _Definition(msgspec.Struct):
    properties: dict[str, _Property] = {}
    required: list[str] = []


class _Document(msgspec.Struct):
    definitions: dict[str, _Definition]
    info: dict[str, Any] = {}


def tables(document: bytes) -> Mapping[str, TableInfo] | None:
    """Return the tables of an OpenAPI document; None if it is not one."""
    found = _decode(document)
    return {name: _table_info(table) for name, table in found.definitions.items()} if found else None


def version(document: bytes) -> Any:
    """Return PostgREST's version; None if the document has none."""
    found = _decode(document)
    return found.info.get("version") if found else None


def _decode(document: bytes) -> _Document | None:
    try:
        return msgspec.json.decode(document, type=_Document)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _table_info(table: _Definition) -> TableInfo:
    without_default = {c: table.properties[c] for c in table.required if table.properties[c].default is msgspec.UNSET}
    # The document has the defaults that JSON can express: those of texts, timestamps and uuids, but not nextval(…).
    required = frozenset(column for column, p in without_default.items() if p.type == "string")
    return TableInfo(
        columns={column: p.format or p.type or "" for column, p in table.properties.items()},
        key_types={column: "enum" for column, p in table.properties.items() if p.enum},
        primary_key=tuple(c for c, p in table.properties.items() if _PRIMARY_KEY in (p.description or "")),
        required=required,
        perhaps_required=frozenset(without_default) - required,
    )
