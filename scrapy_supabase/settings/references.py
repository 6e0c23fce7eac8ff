"""The option `references` of a table: which columns get the id of a parent, and which fields identify it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scrapy_supabase.models import Reference
from scrapy_supabase.schema.table_spec import ParentFields
from scrapy_supabase.settings.reader import Reader

_KEYS = ("table", "match", "column", "create", "columns")
_ALLOWED = f"a dict that maps columns to dicts with the keys {', '.join(_KEYS)}"


def read_references(
    reader: Reader, path: str, value: Any, filled: Mapping[str, Any]
) -> tuple[tuple[Reference, ...], dict[str, ParentFields]]:
    """Return the references of a table, and the item's fields for each column. Problems go to the reader.

    `path` is the option's name for messages; `filled` maps the columns that other options fill to the options' names.
    """
    if not isinstance(value, Mapping) or not all(isinstance(column, str) and column for column in value):
        reader.wrong(path, value, _ALLOWED, None)
        return (), {}
    references: list[Reference] = []
    fields: dict[str, ParentFields] = {}
    for column, options in value.items():
        name = f"{path}[{column!r}]"
        if column in filled:
            reader.problems.append(f"{name} and {filled[column]} fill the same column: remove one of them.")
        found = _read_one(reader, name, column, options)
        if found is not None:
            references.append(found[0])
            fields[column] = found[1]
    return tuple(references), fields


def _read_one(reader: Reader, name: str, column: str, options: Any) -> tuple[Reference, ParentFields] | None:
    if not isinstance(options, Mapping):
        return reader.wrong(name, options, f"a dict with the keys {', '.join(_KEYS)}", None)
    if unknown := [key for key in options if key not in _KEYS]:
        reader.unknown_option(name, unknown[0], _KEYS)
    table, identity, create = options.get("table"), options.get("column", "id"), options.get("create", False)
    if not isinstance(table, str) or not table:
        table = reader.wrong(f"{name}['table']", table, "the name of the parent's table", "")
    if not isinstance(identity, str) or not identity:
        identity = reader.wrong(f"{name}['column']", identity, "the name of the parent's column with the id", "id")
    if not isinstance(create, bool):
        create = reader.wrong(f"{name}['create']", create, "True or False", False)
    match = _map_of(reader, f"{name}['match']", options.get("match"))
    if match == {} and options.get("match") == {}:
        reader.wrong(f"{name}['match']", {}, "a dict that maps the parent's columns to fields of the item", None)
    columns = _map_of(reader, f"{name}['columns']", options.get("columns", {}))
    if columns and not create:
        reader.problems.append(
            f"{name}['columns'] is only for new parents, and 'create' is not True. Set it, or remove 'columns'."
        )
    if both := sorted(match.keys() & columns):
        reader.problems.append(f"{name} has column {both[0]!r} in 'match' and in 'columns': remove it from 'columns'.")
    return Reference(column, table, tuple(sorted(match)), identity, create), ParentFields(match, columns)


def _map_of(reader: Reader, name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(p, str) and p for pair in value.items() for p in pair):
        return reader.wrong(name, value, "a dict that maps the parent's columns to fields of the item", {})
    return dict(value)
