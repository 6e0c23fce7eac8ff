"""Item → Row: choose the table, map and stamp the columns, encode once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from scrapy_supabase.errors import ItemError
from scrapy_supabase.models import NO_TABLE, Mode, Rejection, Row
from scrapy_supabase.rows.chunks import OpenChunk
from scrapy_supabase.rows.keys import NO_KEY, KeyForm, key_form
from scrapy_supabase.rows.mapping import Mapper, item_to_dict, with_unknown
from scrapy_supabase.rows.routing import choose_table
from scrapy_supabase.rows.row_warnings import RowWarnings
from scrapy_supabase.rows.stamps import Stamp
from scrapy_supabase.rows.values import (
    BACKSLASH,
    CANNOT_ENCODE,
    EXACT,
    EXACT_IF,
    NUL,
    encode_plain,
    encode_row,
    is_storable,
    printable,
)
from scrapy_supabase.schema.column_types import kind_of
from scrapy_supabase.schema.remedies import lacks, update_needs_key
from scrapy_supabase.schema.routes import Routes, Switch, route_of
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

_NOT_LIKE_IT = (KeyError, *CANNOT_ENCODE)


class _Shape(msgspec.Struct, frozen=True):
    """How rows with one set of fields are stored in their table. Computed once per set of fields.

    `columns` are sent. The fields in `collect` go into the jsonb column for unknown fields. The columns in `json` are
    of a JSON type and should not get JSON as text. The fields in `omit` only identify a parent. If `error` (code and
    message) is set, the rows are rejected with it.
    """

    columns: tuple[str, ...]
    key: KeyForm = NO_KEY
    collect: frozenset[str] = frozenset()
    json: tuple[str, ...] = ()
    omit: frozenset[str] = frozenset()
    error: tuple[str, str] | None = None


class Recipe(msgspec.Struct, frozen=True):
    """How items of one class become rows of one table.

    `fields` converts an item to a dict; None if items are dicts. `mapper` is None if fields are sent as they are.
    """

    spec: TableSpec
    fields: Callable[[Any], dict[str, Any]] | None
    mapper: Mapper | None
    shapes: dict[tuple[str, ...], _Shape] = msgspec.field(default_factory=dict)


class RowBuilder:
    """Converts items to rows. Not thread-safe: only the crawl's thread uses it.

    A class without a route uses that of its nearest base class. `stamps` maps the name of a stamp to the function that
    returns its value. `on_cleaned(table)` is called for each row from which characters that cannot be stored were
    removed.
    """

    def __init__(
        self, routes: Routes, schema: Schema, stamps: Mapping[str, Stamp], on_cleaned: Callable[[str], None]
    ) -> None:
        self._routes = routes
        self._schema = schema
        self._stamps = stamps
        self._on_cleaned = on_cleaned
        self._recipes: dict[type, Recipe] = {}
        # Of items that choose among tables, and of children: class, id of the spec.
        self._routed: dict[tuple[type, int], Recipe] = {}
        self._schema_version = schema.version
        self._warn = RowWarnings(schema)

    def build(self, item: Any) -> Row:
        """Return the row of `item`, without changing the item. Raises `ItemError` if it cannot become a row."""
        kind = type(item)
        recipe = self._recipes.get(kind) or self._recipe_for(item)
        values = item if recipe.fields is None else recipe.fields(item)
        if recipe.mapper is not None:
            values = recipe.mapper.columns_of(values, item)
        return self._row_of(recipe, values)

    def _row_of(self, recipe: Recipe, values: Mapping[str, Any]) -> Row:
        """Return the row with these values by column. Raises `ItemError`."""
        spec = recipe.spec
        if self._schema_version != self._schema.version:
            self._forget_shapes()
        names = tuple(values)
        shape = recipe.shapes.get(names)
        if shape is None:
            shape = recipe.shapes[names] = self._shape_of(spec, values)
        if shape.error is not None:
            raise ItemError(*shape.error, row=values)
        if shape.collect:
            values = self._collected(values, shape)
        if spec.json_column:  # the other fields are in that column
            values = {column: values[column] for column in shape.columns}
        elif shape.omit:
            values = {name: value for name, value in values.items() if name not in shape.omit}
        if shape.json:
            self._warn.json_texts(spec.name, shape.json, values)
        try:
            data, cleaned = encode_row(values)
        except ItemError as error:
            error.row = values
            raise
        if cleaned:
            self._on_cleaned(spec.name)
        return Row(spec.name, shape.columns, shape.key.of(values), data)

    def fast_path(self, item: Any, chunk: OpenChunk) -> Callable[[Any], bool] | None:
        """Return a function that builds rows of items like `item` and adds them to `chunk`, or None.

        The row of `item` must have been built and added just before. The function returns False, without any effect, if
        the item differs in class or fields, has a value that needs conversion, or if the chunk has no room: then call
        `build` and add the row. Nearly every item is a dict with the same fields as the item before. Its cost to a
        crawl is mostly that of loading code into the processor's cache again, so this function makes few calls.
        Without it, a crawl without downloads takes 7 % more CPU (docs/benchmarks/README.md).
        """
        shape = self.shape_for(item, chunk)
        if shape is None:
            return None
        names, schema, version = tuple(item), self._schema, self._schema_version
        table, columns, key_of = chunk.table, shape.columns, shape.key.of
        int_key = shape.key.columns[0] if shape.key.plain_ints else None
        write, most_written = chunk.file.direct
        most_bytes = min(chunk.most_bytes, chunk.size + most_written)
        waiting = chunk.waiting
        count = len(names)

        def take(item: Any) -> bool:
            if type(item) is not dict or len(item) != count:
                return False
            if len(waiting) >= chunk.room or schema.version != version:
                return False
            try:
                for name in names:
                    value = item[name]
                    kind = type(value)
                    if kind is float:
                        if value - value != 0.0 and value == value:  # infinite
                            return False
                    elif kind is str or kind is int or kind in EXACT:
                        continue
                    elif kind not in EXACT_IF or not EXACT_IF[kind](value):
                        return False
                data = encode_plain(item)
            except _NOT_LIKE_IT:
                return False
            size = chunk.size + len(data) + 1
            if (BACKSLASH in data and NUL in data) or size > most_bytes:
                return False
            only = item[int_key] if int_key is not None else None
            key = str(only) if type(only) is int else key_of(item)
            write(data + b"\n")
            waiting.append(Row(table, columns, key, data))
            chunk.size = size
            return True

        return take

    def shape_for(self, item: Any, chunk: OpenChunk) -> _Shape | None:
        """Return the shape of `item` if its fields are sent as they are and rows of its shape go to `chunk`."""
        recipe = self._recipes.get(type(item))
        if recipe is None or recipe.fields is not None or recipe.mapper is not None:
            return None
        shape = recipe.shapes.get(tuple(item))
        if shape is None or shape.collect or shape.columns is not chunk.columns or recipe.spec.name != chunk.table:
            return None
        return shape

    def rejection(self, item: Any, error: ItemError) -> Rejection:
        """Return the `Rejection` of an item that cannot become a row, with its values by column, else by field."""
        try:
            spec = self._spec_of(item)
        except ItemError:
            spec = None
        data, printed = printable(item if error.row is None else error.row)
        return Rejection(spec.name if spec else NO_TABLE, data, error.code, str(error), printed=printed)

    def _recipe_for(self, item: Any) -> Recipe:
        kind, spec = type(item), self._spec_of(item)
        if isinstance(route_of(self._routes, kind), Switch):
            return self._recipe_of(kind, spec)
        recipe = self._recipes[kind] = self._new_recipe(kind, spec)
        return recipe

    def _recipe_of(self, kind: type, spec: TableSpec) -> Recipe:
        """Return how items of a class become rows of one of the tables that they may go to."""
        recipe = self._routed.get((kind, id(spec)))
        if recipe is None:
            recipe = self._routed[kind, id(spec)] = self._new_recipe(kind, spec)
        return recipe

    def _new_recipe(self, kind: type, spec: TableSpec) -> Recipe:
        self._schema.learn_item_class(spec.name, kind)
        mapper = Mapper(spec, self._schema, self._stamps, self._on_cleaned) if spec.maps_items else None
        return Recipe(spec, None if kind is dict else item_to_dict(), mapper)

    def _spec_of(self, item: Any) -> TableSpec:
        """Return the table for an item. Raises `ItemError` if there is none."""
        kind = type(item)
        route = route_of(self._routes, kind)
        if isinstance(route, Switch):
            return choose_table(route, item)
        if route is None:
            path = f"{kind.__module__}.{kind.__qualname__}"
            self._warn.no_table(kind, path)
            raise ItemError("no_table", f"Items of class {path} have no table")
        return route

    def _shape_of(self, spec: TableSpec, values: Mapping[str, Any]) -> _Shape:
        names = tuple(values)
        invalid = [name for name in names if not isinstance(name, str)]
        columns, unknown = self._schema.split(spec.name, () if invalid else names)
        if unknown and (created := self._schema.creatable(spec.name, unknown)):
            columns = tuple(sorted({*columns, *created}))
            unknown = tuple(column for column in unknown if column not in created)
        self._warn.generated(spec.name, names)
        invalid = invalid or [column for column in columns if not is_storable(column)]
        if invalid:
            return _Shape((), error=("bad_field", f"field names must be text without NUL, and {invalid[0]!r} is not"))
        policy = self._schema.policy(spec.name)
        collects = bool(unknown) and policy == "collect"
        if not columns and not collects:
            have = ", ".join(names) or "none"
            message = f"no field of the item is a column of table {spec.name} (fields: {have})"
            return _Shape((), error=("no_column", message))
        collect: frozenset[str] = frozenset()
        if unknown:
            self._warn.unknown(spec.name, {name: values[name] for name in unknown})
            if policy == "reject":
                return _Shape((), error=("unknown_column", lacks(spec.name, unknown)))
            if collects:
                collect = frozenset(unknown)
                columns = tuple(sorted({*columns, self._schema.unknown.column}))
        key = self._schema.key(spec.name)
        if spec.writing.fills:
            self._schema.learn_fields(spec.name, columns)
        if not set(key) <= set(columns):
            if spec.mode is Mode.UPDATE:
                return _Shape((), error=("no_key", update_needs_key(spec.name, key)))
            self._warn.missing_key(spec, key)
            key = ()
        info = self._schema.info(spec.name)
        json = tuple(column for column in columns if info and kind_of(info.columns.get(column, "")) == "json")
        form = key_form(self._schema, spec.name, key, self._schema.mode(spec.name), spec.writing.references)
        omit = spec.consumed_fields.intersection(names).difference(columns) if spec.references else frozenset()
        return _Shape(columns, form, collect, json, omit)

    def _collected(self, values: Mapping[str, Any], shape: _Shape) -> dict[str, Any]:
        column = self._schema.unknown.column
        kept = {name: value for name, value in values.items() if name not in shape.collect}
        more = {name: values[name] for name in shape.collect}
        kept[column] = with_unknown(kept.get(column), more, column)
        return kept

    def _forget_shapes(self) -> None:
        self._schema_version = self._schema.version
        for recipe in (*self._recipes.values(), *self._routed.values()):
            recipe.shapes.clear()
