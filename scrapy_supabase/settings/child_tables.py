"""The option `children` of a table: fields whose lists become rows of other tables, which may have children, too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from scrapy_supabase.models import Parent
from scrapy_supabase.schema.paths import columns_by_field
from scrapy_supabase.schema.routes import Routes, specs_by_class
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.table_options import TABLE_KEYS, Options
from scrapy_supabase.settings.unseen_options import read_replace

OF_CHILDREN = ("parent", "position", "replace")
CHILD_KEYS = (*TABLE_KEYS, *OF_CHILDREN)


def child_entries(entry: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the options of the child tables in the options of a table, at any depth, without validating them."""
    children = entry.get("children") if isinstance(entry, Mapping) else None
    for child in children.values() if isinstance(children, Mapping) else ():
        if isinstance(child, Mapping):
            yield child
            yield from child_entries(child)


def spec_with_children(options: Options, spider: str | None, ancestors: Sequence[str] = ()) -> TableSpec:
    """Return the spec of a table with those of its child tables. Problems go to the reader."""
    return with_children(options, options.spec(spider), spider, ancestors)


def with_children(options: Options, spec: TableSpec, spider: str | None, ancestors: Sequence[str] = ()) -> TableSpec:
    """Return the spec of a table with those of the child tables in its options."""
    reader, name, found = options.reader, options.path("children"), options.own.get("children", {})
    if not isinstance(found, Mapping) or not all(isinstance(field, str) and field for field in found):
        reader.wrong(name, found, "a dict that maps fields to the options of child tables", None)
        return spec
    children: dict[str, TableSpec] = {}
    for field, own in found.items():
        child = _ChildOptions.read(options, f"{name}[{field!r}]", own)
        if child is not None:
            children[field] = child.spec(spec, spider, (*ancestors, spec.name))
    return msgspec.structs.replace(spec, children=children) if children else spec


class _ChildOptions:
    """The options of one child table; `options` are those that every table may have.

    `fields` are the fields of the parent that have children.
    """

    def __init__(self, options: Options, own: Mapping[str, Any], fields: Collection[str]) -> None:
        self._options = options
        self._own = own
        self._fields = fields
        self._name = options.name

    @classmethod
    def read(cls, of_parent: Options, name: str, own: Any) -> _ChildOptions | None:
        """Return the options in `own`; record a problem and return None if these are none."""
        reader = of_parent.reader
        if not isinstance(own, Mapping):
            return reader.wrong(name, own, f"a dict with the keys {', '.join(CHILD_KEYS)}", None)
        if unknown := [key for key in own if key not in CHILD_KEYS]:
            reader.unknown_option(name, unknown[0], CHILD_KEYS)
            return None
        rest = {"table": None, **{key: value for key, value in own.items() if key not in OF_CHILDREN}}
        return cls(Options(reader, name, rest, of_parent.common), own, of_parent.own["children"])

    def spec(self, parent: TableSpec, spider: str | None, ancestors: Sequence[str]) -> TableSpec:
        """Return the spec of the child table. `ancestors` are the tables above it."""
        reader, name = self._options.reader, self._name
        spec = spec_with_children(self._options, spider, ancestors)
        if spec.name in ancestors:
            reader.problems.append(f"{name}['table'] is {spec.name!r}, a table above it: use another table.")
        wanted = self._own.get("parent") or None
        columns = reader.text_map(f"{name}['parent']", wanted)
        self._check_referenced(parent, columns)
        position = self._own.get("position")
        if position is not None and (not isinstance(position, str) or not position):
            position = reader.wrong(f"{name}['position']", position, "the name of a column, or None", None)
        self._check_columns(spec, columns, position)
        link = Parent(parent.name, tuple(columns), tuple(columns.values()))
        of_parent = {one.column: one for one in parent.writing.references}
        found = [msgspec.structs.replace(of_parent[of], column=to) for to, of in columns.items() if of in of_parent]
        references = (*spec.writing.references, *found)  # such a column has a natural key until it is sent
        writing = msgspec.structs.replace(spec.writing, parent=link, references=references)
        replaced = read_replace(reader, f"{name}['replace']", self._own.get("replace", False), spec, parent)
        return msgspec.structs.replace(spec, position=position or "", writing=writing, unseen=replaced or spec.unseen)

    def _check_referenced(self, parent: TableSpec, columns: Mapping[str, str]) -> None:
        """Record columns that the parent's row cannot have: fields that go to another column, or are not sent."""
        sent = {*parent.columns.values(), *parent.stamps, *parent.constants, *parent.inherited, *parent.references}
        for column in sorted({*columns.values()} - sent):
            if column in parent.columns or column in self._fields:
                goes_to = parent.columns.get(column)
                where = f"goes to column {goes_to!r}" if goes_to else "has children, and is not sent"
                self._options.reader.problems.append(
                    f"{self._name}['parent'] names {column!r}, which is no column of table {parent.name!r}: the field "
                    f"of this name {where}. Name a column of the table."
                )

    def _check_columns(self, spec: TableSpec, parent: Mapping[str, str], position: str | None) -> None:
        """Record columns that `parent` or `position` and another option fill."""
        fills = {"columns": {*spec.columns.values()}, "constants": {*spec.constants}, "json_column": {spec.json_column}}
        for column in sorted(parent):
            for key in [key for key, columns in fills.items() if column in columns]:
                self._contradiction("parent", key, column)
        fills |= {"stamps": {*spec.stamps}, "parent": {*parent}}
        for key in [key for key, columns in fills.items() if position in columns]:
            self._contradiction("position", key, str(position))

    def _contradiction(self, one: str, other: str, column: str) -> None:
        path = self._options.path(other) if other not in OF_CHILDREN else f"{self._name}[{other!r}]"
        self._options.reader.problems.append(
            f"{self._name}[{one!r}] and {path} both have column {column!r}: use different columns."
        )


def check_parents(reader: Reader, routes: Routes) -> None:
    """Record columns of parents' rows that items of a declared class cannot have."""
    for item_class, spec in specs_by_class(routes):
        if not spec.children or item_class is None or item_class is dict:
            continue
        from itemadapter import ItemAdapter  # few crawls need it

        is_item_class = ItemAdapter.is_item_class(item_class)
        names = ItemAdapter.get_field_names_from_class(item_class) if is_item_class else None
        if not names:
            continue
        have = {
            *columns_by_field(spec, names).values(),
            *spec.stamps,
            *spec.constants,
            *spec.inherited,
            *spec.references,
        }
        for field, child in spec.children.items():
            parent = child.writing.parent
            for column in parent.referenced if parent else ():
                if column not in have:
                    reader.problems.append(
                        f"SUPABASE_TABLES: children {field!r} of {item_class.__qualname__} refer to column {column!r} "
                        f"of table {spec.name!r}, for which its items have no field. Correct 'parent'."
                    )
