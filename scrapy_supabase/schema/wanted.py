"""The tables that items need, and the SQL of what a database lacks of them (`SUPABASE_CREATE_TABLES`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec

from scrapy_supabase.backends.base import TableInfo
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Row
from scrapy_supabase.schema.ddl import column_sql, create_sql, table_from
from scrapy_supabase.schema.inference import Inference
from scrapy_supabase.schema.item_fields import ItemField, columns_sent, fields_of, of_new_table
from scrapy_supabase.schema.remedies import qualified
from scrapy_supabase.schema.routes import Routes, specs_by_class
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

_NUMBERS = ("bigint", "numeric", "double precision")


@dataclass(frozen=True, slots=True)
class WantedTable:
    """A table that items need. `columns` are those that item classes and settings declare.

    `is_open`: only the items show the rest: they may have more columns, or the type of a column is not declared.
    """

    spec: TableSpec
    columns: Mapping[str, ItemField]
    is_open: bool

    @property
    def untyped(self) -> set[str]:
        """The declared columns whose type is not known before an item has a value."""
        return {name for name, one in self.columns.items() if not one.sql_type}

    def with_classes(self, classes: Iterable[type]) -> WantedTable:
        """Return the table with the columns of more item classes."""
        columns = self.columns
        for item_class in classes:
            with suppress(ConfigurationError):  # annotations that cannot be read: the values show the types
                if item_class is not dict and (fields := fields_of(item_class)):
                    columns = _merged(columns, _declared(self.spec, fields))
        return replace(self, columns=columns)

    def for_rows(self, rows: Iterable[Row], names: Iterable[str], *, nulls: bool) -> WantedTable:
        """Return the table with all its columns and `names`, whose types are inferred from the values in `rows`.

        Declared types stay. Numbers get numeric, as later ones may have a fraction; those of the key stay bigint. A
        column without a value is left out until a row has one, or with `nulls` is of type text.
        """
        key = self.spec.on_conflict
        typed = dict(self.columns)
        inferred = {one.name: one for one in _inferred(rows)}
        wanted = set(names)
        for name in dict.fromkeys([*typed, *(name for name in inferred if name in wanted), *sorted(wanted)]):
            known = typed.get(name, ItemField(name))
            if known.sql_type:
                continue
            found = inferred.get(name, known).sql_type
            if not found and not nulls and name not in key:
                typed.pop(name, None)
                continue
            if found.startswith("bigint") and name not in (key or ("id",)):
                found = found.replace("bigint", "numeric")
            typed[name] = replace(known, sql_type=found or "text")
        return replace(self, columns=typed, is_open=False)


def wanted_tables(routes: Routes) -> dict[str, WantedTable]:
    """Return the table of each name that the settings have. Raises `ConfigurationError` for unreadable classes."""
    found: dict[str, WantedTable] = {}
    for item_class, spec in specs_by_class(routes):
        fields = fields_of(item_class) if item_class is not None else None
        sent = _declared(spec, fields or [ItemField(name) for name in spec.columns if "." not in name])
        parent = spec.writing.parent
        of_parent = found[parent.table].columns if parent and parent.table in found else {}
        for name, referenced in zip(parent.columns, parent.referenced, strict=True) if parent else ():
            if referenced in of_parent and not sent[name].sql_type:
                sent[name] = replace(sent[name], sql_type=of_parent[referenced].sql_type)
        is_open = not fields or any(not one.sql_type for one in sent.values())
        if not fields:
            sent = {name: replace(one, required=False) for name, one in sent.items()}
        before = found.get(spec.name)
        if before is not None:
            sent, is_open, spec = _merged(before.columns, sent), is_open or before.is_open, before.spec
        found[spec.name] = WantedTable(spec, sent, is_open)
    return found


def sql_of_missing(table: WantedTable, info: TableInfo | None, schema: Schema, *, later: Iterable[str] = ()) -> str:
    """Return the SQL that creates a table, or adds the columns that it lacks; empty if it lacks none.

    `info` describes the table in the database; None: it is not there. Columns in `later` are left out. Nothing is
    changed that is there: neither the type of a column nor the key. Raises `ConfigurationError` for invalid names.
    """
    spec = table.spec
    collect = schema.unknown.column if schema.unknown.policy == "collect" and not spec.json_column else ""
    columns = {name: one for name, one in table.columns.items() if name not in later}
    role = "service_role" if schema.role == "postgres" else schema.role  # the owner of a table needs no grant
    made = table_from(spec, columns, schema=schema.database_schema, role=role, collect=collect)
    if info is None:
        return create_sql(replace(made, notes=()))
    kept = {*info.columns, *spec.on_conflict, *made.primary_key}
    if spec.routed_by not in spec.explicit_columns:  # the field that chose the table needs no column
        kept.add(spec.routed_by)
    added = [f"add column if not exists {column_sql(one)}" for one in made.columns if one.name not in kept]
    return f"alter table {qualified(schema, spec.name)} {', '.join(added)};\n" if added else ""


def _declared(spec: TableSpec, fields: Iterable[ItemField]) -> dict[str, ItemField]:
    """Return the columns for items with these fields."""
    sent = of_new_table(spec, columns_sent(spec, fields))
    for name in spec.on_conflict:
        sent.setdefault(name, ItemField(name))
    if spec.json_column:  # fields without a column of their own are in that column
        sent = {name: one for name, one in sent.items() if name in spec.explicit_columns or one.primary_key}
    return sent


def _inferred(rows: Iterable[Row]) -> tuple[ItemField, ...]:
    inference = Inference()
    for row in rows:
        values = msgspec.json.decode(row.data)
        sent = set(row.columns)
        inference.add({name: value for name, value in values.items() if name in sent})  # in the order of the item
    return inference.fields


def _merged(first: Mapping[str, ItemField], second: Mapping[str, ItemField]) -> dict[str, ItemField]:
    """Return the columns for items of both kinds. A column gets text if its types differ and are not both numbers."""
    merged = {name: replace(one, required=False) for name, one in {**second, **first}.items()}
    for name in first.keys() & second.keys():
        one, other = first[name], second[name]
        sql_type = one.sql_type if one.sql_type == other.sql_type else _common(one.sql_type, other.sql_type)
        merged[name] = ItemField(
            name,
            sql_type,
            one.required and other.required,
            one.primary_key or other.primary_key,
            tuple(dict.fromkeys([*one.choices, *other.choices])) if one.choices and other.choices else (),
        )
    return merged


def _common(one: str, other: str) -> str:
    if not one or not other:
        return one or other
    return "numeric" if one in _NUMBERS and other in _NUMBERS else "text"
