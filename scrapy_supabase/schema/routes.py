"""Item → table: the table of each item class, or several tables among which each item chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from scrapy_supabase.schema.table_spec import TableSpec


class Switch(msgspec.Struct, frozen=True):
    """Tables among which an item chooses one, by the text of the field or path `by`, or by a function.

    `choose` is that function; `by` is then its name. `others` is the table of items with any other text, or None.
    `setting` is the name of the setting, for messages.
    """

    by: str
    tables: Mapping[str, TableSpec]
    others: TableSpec | None = None
    choose: Callable[[Any], Any] | None = None
    setting: str = "SUPABASE_TABLES"

    @property
    def specs(self) -> tuple[TableSpec, ...]:
        """All tables."""
        return (*self.tables.values(), *([self.others] if self.others else []))


Routes = Mapping[type | None, TableSpec | Switch]
"""Item class (None: any other class) → its table or tables."""


def route_of(routes: Routes, kind: type) -> TableSpec | Switch | None:
    """Return the table for items of class `kind`: that of its nearest base class with a route, else the common one."""
    return next((routes[base] for base in kind.__mro__ if base in routes), routes.get(None))


def specs_by_class(routes: Routes) -> Iterator[tuple[type | None, TableSpec]]:
    """Yield each item class (None: any other class) with each table that its items may go to, child tables included.

    The class of children is `dict` if the annotation of their field names no other.
    """
    for item_class, route in routes.items():
        for spec in route.specs if isinstance(route, Switch) else (route,):
            yield from _with_children(item_class, spec)


def has_children(routes: Routes) -> bool:
    """Return whether items of any class have children."""
    return any(spec.children for _, spec in specs_by_class(routes))


def _with_children(item_class: type | None, spec: TableSpec) -> Iterator[tuple[type | None, TableSpec]]:
    yield item_class, spec
    for field, child in spec.children.items():
        yield from _with_children(_class_of_children(item_class, field), child)


def _class_of_children(item_class: type | None, field: str) -> type:
    if item_class is None or item_class is dict:
        return dict
    from scrapy_supabase.schema.item_fields import element_class  # few crawls need it

    return element_class(item_class, field) or dict
