"""Paths into items, such as `price.amount`: which columns they fill, and their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from scrapy_supabase.schema.table_spec import TableSpec


class Missing:
    """The type of `MISSING`."""


MISSING: Final = Missing()
"""The value of a path that an item lacks."""


def root_of(path: str) -> str:
    """Return the field from which a path is taken."""
    return path.partition(".")[0]


def value_at(fields: Mapping[str, Any], path: str) -> Any:
    """Return the value of a field or, if there is no field of this name, at a path; `MISSING` if it is not there.

    The parts of a path are keys of dicts and nested items, and indexes of lists.
    """
    if path in fields:
        return fields[path]
    found: Any = fields
    for part in path.split("."):
        if isinstance(found, (list, tuple)):
            if not part.isdecimal() or int(part) >= len(found):
                return MISSING
            found = found[int(part)]
            continue
        if not isinstance(found, Mapping):
            found = _fields_of(found)
        if part not in found:
            return MISSING
        found = found[part]
    return found


def columns_by_field(spec: TableSpec, names: Iterable[str]) -> dict[str, str]:
    """Return field or path → column, for items with fields of these names.

    A field from which a path is taken, or whose elements are rows of a child table, is not sent itself, unless it is
    mapped itself.
    """
    fields = dict.fromkeys(names)
    paths = [path for path in spec.columns if "." in path and path not in fields and root_of(path) in fields]
    not_sent = ({root_of(path) for path in paths} | spec.children.keys()) - spec.columns.keys()
    return {name: spec.columns.get(name, name) for name in [*fields, *paths] if name not in not_sent}


def _fields_of(value: Any) -> Mapping[str, Any]:
    from itemadapter import ItemAdapter, is_item  # imports pydantic, which takes 0.1 s; few crawls need it

    return dict(ItemAdapter(value)) if is_item(value) else {}
