"""The columns and types of each table that item classes, mappings and stamps declare, before the first item."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.schema.paths import columns_by_field
from scrapy_supabase.schema.remedies import for_missing_table
from scrapy_supabase.schema.routes import Routes, Switch, specs_by_class
from scrapy_supabase.schema.schema import Schema


def known_columns(routes: Routes) -> tuple[Mapping[str, tuple[str, ...]], set[str]]:
    """Return table → columns that its items are known to have, and the tables whose items may have more columns."""
    known: dict[str, set[str]] = {}
    partly: set[str] = set()
    for item_class, spec in specs_by_class(routes):
        names = known.setdefault(spec.name, set())
        declared = _declared_fields(item_class) if item_class and item_class is not dict else None
        names.update(columns_by_field(spec, declared or spec.columns).values())
        names.update({*spec.stamps, *spec.constants, *spec.inherited, *spec.references, spec.json_column} - {""})
        if not declared:
            names.update(spec.columns.get(field, field) for field in spec.consumed_fields if "." not in field)
        if not declared or spec.json_column:
            partly.add(spec.name)
    return {table: tuple(names) for table, names in known.items()}, partly


class DeclaredItems:
    """What messages need of the item classes: the types of a table's columns, and the command that prints its SQL.

    `is_local` is true if the tables are in a local Supabase.
    """

    def __init__(self, routes: Routes, *, is_local: bool = False) -> None:
        self._routes = routes
        self._is_local = is_local

    def types(self, table: str) -> dict[str, str]:
        """Return column → type of its values, for columns whose type an item class or a stamp declares."""
        from scrapy_supabase.schema.item_fields import ItemField, columns_sent, fields_of  # few crawls need it

        types: dict[str, str] = {}
        for item_class, spec in specs_by_class(self._routes):
            if spec.name == table:
                fields: Iterable[ItemField] = ()
                with suppress(ConfigurationError):  # annotations that cannot be read; `check` reports them
                    fields = (fields_of(item_class) if item_class else None) or ()
                types |= {column: one.sql_type for column, one in columns_sent(spec, fields).items()}
        return types

    def for_missing_table(self, schema: Schema, table: str) -> str:
        """Return the remedy for a table that does not exist."""
        return for_missing_table(schema, table, self._ddl(table), is_local=self._is_local)

    def _ddl(self, table: str) -> str:
        """Return the command: with the first item class that declares its fields, else with a file of rows.

        The SQL of an item class includes that of its child tables.
        """
        option = f"--table {shlex.quote(table)}"
        for item_class, route in self._routes.items():
            names = {spec.name for _, spec in specs_by_class({item_class: route})}
            if table in names and item_class and item_class is not dict and _declared_fields(item_class):
                command = f"scrapy supabase ddl {item_class.__module__}.{item_class.__qualname__}"
                return f"{command} {option}" if isinstance(route, Switch) else command
        return f"scrapy supabase ddl --from FILE {option}"


def _declared_fields(item_class: type) -> Iterable[str] | None:
    from itemadapter import ItemAdapter

    return ItemAdapter.get_field_names_from_class(item_class)
