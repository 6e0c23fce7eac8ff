"""The choice of an item's table among several: by a field, a path or a function."""

from __future__ import annotations

from typing import Any

from scrapy_supabase.errors import ItemError
from scrapy_supabase.messages import sentence
from scrapy_supabase.rows.mapping import item_to_dict
from scrapy_supabase.rows.values import CANNOT_ENCODE, text_of
from scrapy_supabase.schema.paths import MISSING, value_at
from scrapy_supabase.schema.routes import Switch
from scrapy_supabase.schema.table_spec import TableSpec

_LONGEST = 80  # characters of a value in a message


def choose_table(switch: Switch, item: Any) -> TableSpec:
    """Return the table of an item. Raises `ItemError` if its value is not declared, or if the function fails."""
    found, what = _chosen(switch, item)
    try:
        text = None if found is MISSING else text_of(found)
    except CANNOT_ENCODE:
        text = None
    spec = switch.tables.get(text) if text is not None else None
    spec = spec or switch.others
    if spec is None:
        declared = ", ".join(switch.tables)
        raise ItemError("no_route", f"{what}, and {switch.setting} has tables only for: {declared}", switch.by)
    return spec


def _chosen(switch: Switch, item: Any) -> tuple[Any, str]:
    """Return the value that chooses the table, and a description of it."""
    if switch.choose is not None:
        try:
            found = switch.choose(item)
        except Exception as error:
            problem = sentence(f"{type(error).__name__}: {error}")
            raise ItemError("no_route", f"{switch.by} failed for this item: {problem}") from error
        return found, f"{switch.by} returned {_printed(found)}"
    found = value_at(item if type(item) is dict else item_to_dict()(item), switch.by)
    if found is MISSING:
        return found, f"the item has no field {switch.by!r}"
    return found, f"field {switch.by!r} is {_printed(found)}"


def _printed(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
