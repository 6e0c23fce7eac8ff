"""Columns and types of each table that are known before its first item: from item classes, mappings and stamps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Routes


def known_columns(routes: Routes) -> tuple[Mapping[str, tuple[str, ...]], set[str]]:
    """Return the columns that items of each table are known to have: declared fields, mappings and stamps.

    First table → columns, then the tables whose items may have others, too.
    """
    known: dict[str, set[str]] = {}
    partly: set[str] = set()
    for item_class, spec in routes.items():
        names = known.setdefault(spec.name, set())
        declared = _declared_fields(item_class) if item_class and item_class is not dict else None
        names.update(spec.columns.get(name, name) for name in declared or spec.columns)
        names.update(spec.stamps)
        if not declared:
            partly.add(spec.name)
    return {table: tuple(names) for table, names in known.items()}, partly


def declared_types(routes: Routes, table: str) -> dict[str, str]:
    """Return column → type of the values sent to it, where an item class or a stamp declares one."""
    from scrapy_supabase.schema.item_fields import ItemField, columns_sent, fields_of  # few crawls need it

    found: dict[str, str] = {}
    for item_class, spec in routes.items():
        if spec.name == table:
            fields: Iterable[ItemField] = ()
            with suppress(ConfigurationError):  # annotations that cannot be read; `check` says so
                fields = (fields_of(item_class) if item_class else None) or ()
            found |= {column: one.sql_type for column, one in columns_sent(spec, fields).items()}
    return found


def _declared_fields(item_class: type) -> Iterable[str] | None:
    from itemadapter import ItemAdapter

    return ItemAdapter.get_field_names_from_class(item_class)
