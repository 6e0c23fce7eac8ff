"""The tables that items need, and the SQL of what a database lacks of them (`SUPABASE_CREATE_TABLES`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import msgspec

from scrapy_supabase.backends.base import TableInfo
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Reference, Row
from scrapy_supabase.schema.column_types import sql_name
from scrapy_supabase.schema.ddl import column_sql, create_sql, table_from
from scrapy_supabase.schema.inference import Inference
from scrapy_supabase.schema.item_fields import ItemField, columns_sent, fields_of, of_new_table
from scrapy_supabase.schema.remedies import identifier, qualified
from scrapy_supabase.schema.routes import Routes, specs_by_class
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import ParentFields, TableSpec

_NUMBERS = ("bigint", "numeric", "double precision")


@dataclass(frozen=True, slots=True)
class WantedTable:
    """A table that items need. `columns` are those that item classes and settings declare.

    `is_open`: only the items show the rest: they may have more columns, or the type of a column is not declared.
    `row_id`: other tables refer to this column, a number that the database makes; empty if none does.
    """

    spec: TableSpec
    columns: Mapping[str, ItemField]
    is_open: bool
    row_id: str = ""

    @property
    def waits(self) -> bool:
        """Whether the table is created when its first rows come. One that others refer to is looked up before."""
        return self.is_open and not self.row_id

    @property
    def new_info(self) -> TableInfo:
        """What rows of other tables need to know of this table if it is created."""
        key = (self.row_id,) if self.row_id else ()
        return TableInfo(dict.fromkeys(key, "bigint"), key, frozenset())

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
    _add_parents(found, routes)
    return {name: found[name] for name in sorted(found, key=lambda name: not found[name].row_id)}  # parents first


def _add_parents(found: dict[str, WantedTable], routes: Routes) -> None:
    """Add the tables to which columns refer, or what these need."""
    for item_class, spec in specs_by_class(routes):
        fields = fields_of(item_class) if item_class is not None else None
        types = {one.name: one.sql_type for one in fields or ()}
        for reference in spec.writing.references:
            of_item = spec.references.get(reference.column)  # None for a column of the parent's row
            if of_item is not None and (reference.create or reference.table in found):
                found[reference.table] = _parent(found.get(reference.table), reference, of_item, types)


def _parent(
    table: WantedTable | None, reference: Reference, fields: ParentFields, types: Mapping[str, str]
) -> WantedTable:
    """Return the table that a column refers to, whose rows get a number and are found by their natural key."""
    paths = {**fields.match, **fields.columns}
    typed = {column: ItemField(column, types.get(path) or "text") for column, path in paths.items()}
    if table is None:
        spec = TableSpec(reference.table, on_conflict=reference.match)
        return WantedTable(spec, typed, is_open=False, row_id=reference.id)
    columns = {**typed, **{name: one for name, one in table.columns.items() if one.sql_type or name not in typed}}
    spec = table.spec
    if not spec.on_conflict:
        spec = msgspec.structs.replace(spec, on_conflict=reference.match)
    has_id = reference.id in table.columns  # items bring it
    return replace(table, spec=spec, columns=columns, row_id="" if has_id else reference.id)


def sql_of_missing(
    table: WantedTable,
    info: TableInfo | None,
    schema: Schema,
    *,
    later: Iterable[str] = (),
    parents: Mapping[str, TableInfo] | None = None,
) -> str:
    """Return the SQL that creates a table, or adds the columns that it lacks; empty if it lacks none.

    `info` describes the table in the database; None: it is not there. Columns in `later` are left out. `parents` are
    the tables to which columns may refer. Nothing is changed that is there: neither the type of a column nor the key.
    Raises `ConfigurationError` for invalid names.
    """
    spec, foreign_keys = table.spec, {}
    columns = {name: one for name, one in table.columns.items() if name not in later}
    for reference in spec.writing.references:
        parent = (parents or {}).get(reference.table)
        if parent is None or reference.column not in columns or reference.id not in parent.columns:
            continue
        sql_type = sql_name(parent.columns[reference.id])
        columns[reference.column] = replace(columns[reference.column], sql_type=sql_type)
        if parent.primary_key == (reference.id,) and reference.table != spec.name:
            target = f"{qualified(schema, reference.table)} ({identifier(reference.id)})"
            foreign_keys[reference.column] = target
    collect = schema.unknown.column if schema.unknown.policy == "collect" and not spec.json_column else ""
    role = "service_role" if schema.role == "postgres" else schema.role  # the owner of a table needs no grant
    made = table_from(spec, columns, schema=schema.database_schema, role=role, collect=collect)
    made = replace(made, notes=(), foreign_keys=foreign_keys)
    if info is None and table.row_id:
        return create_sql(replace(made, primary_key=(), unique=spec.on_conflict, row_id=table.row_id))
    if info is None:
        return create_sql(made)
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
    for name, sql_type in spec.unseen.types.items() if spec.unseen else ():
        sent.setdefault(name, ItemField(name, sql_type))
    if spec.json_column:  # fields without a column of their own are in that column
        sent = {name: one for name, one in sent.items() if name in spec.explicit_columns or one.primary_key}
    return sent


def _inferred(rows: Iterable[Row]) -> tuple[ItemField, ...]:
    inference = Inference(more_to_come=True)
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
