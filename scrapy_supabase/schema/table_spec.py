"""The settings of one table, as the stages of the data flow need them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from scrapy_supabase.models import Mode, WriteOptions


class EmptyText(StrEnum):
    """The treatment of blank texts: '' and texts of whitespace."""

    KEEP = "keep"
    NULL = "null"  # store NULL in columns whose type is known and no text type
    NULL_EVERYWHERE = "null_everywhere"


class ParentFields(msgspec.Struct, frozen=True):
    """The fields of the item that identify a parent, and those for a new one: the parent's column → field or path."""

    match: Mapping[str, str]
    columns: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def has_one_field(self) -> bool:
        """Whether the item's part of the row is the value of one field."""
        return len(self.match) == 1 and not self.columns


_STAMP_TYPES = {"now": "timestamptz", "date": "date", "run_id": "text", "spider": "text"}


def _type_of(value: Any) -> str:
    """Return the type of a column for a value, or for those in a list or dict."""
    if isinstance(value, Mapping | list | tuple):
        return _type_of(next(iter(value.values() if isinstance(value, Mapping) else value), None))
    if isinstance(value, bool):
        return "boolean"
    return "numeric" if isinstance(value, int | float | Decimal) else "text"


class Unseen(msgspec.Struct, frozen=True):
    """What happens at the end of a complete crawl to the rows that it did not store: set or delete.

    `seen_column` has the stamp `run_id`, or with `by_time` the stamp `now`: it tells which rows the crawl stored.
    `stamps` maps a column to the name of the stamp whose value it gets, `constants` to a value. Without either, the
    rows are deleted. `where` selects the rows that the crawl is about: column → value, as in `rows.where`. `at_most` is
    the greatest fraction of these rows that may be changed.

    `parent_column` is set for the option `replace` of a child table, and not for `unseen`: the column of the parent's
    table with the stamp `run_id`. Only children of parents that the crawl stored are then deleted, however many.
    """

    seen_column: str
    by_time: bool = False
    constants: Mapping[str, Any] = msgspec.field(default_factory=dict)
    stamps: Mapping[str, str] = msgspec.field(default_factory=dict)
    where: Mapping[str, Any] = msgspec.field(default_factory=dict)
    at_most: float = 0.2
    parent_column: str = ""

    @property
    def option(self) -> str:
        """The name of the option, for messages."""
        return "replace" if self.parent_column else "unseen"

    @property
    def deletes(self) -> bool:
        """Whether the rows are deleted."""
        return not self.constants and not self.stamps

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are set."""
        return (*self.constants, *self.stamps)

    @property
    def types(self) -> dict[str, str]:
        """All columns that the option names, with the types that they get if the table lacks them."""
        stamped = {column: _STAMP_TYPES[stamp] for column, stamp in self.stamps.items()}
        constants = {column: _type_of(value) for column, value in self.constants.items()}
        compared = {column: _type_of(value) for column, value in self.where.items()}
        return {**compared, **constants, **stamped, self.seen_column: "timestamptz" if self.by_time else "text"}


class TableSpec(msgspec.Struct, frozen=True):
    """The settings of one table. An empty `on_conflict` means the primary key."""

    name: str
    mode: Mode = Mode.UPSERT
    on_conflict: tuple[str, ...] = ()
    columns: Mapping[str, str] = msgspec.field(default_factory=dict)  # field of the item, or path → column
    stamps: Mapping[str, str] = msgspec.field(default_factory=dict)  # column → name of a stamp, or "hash(field, …)"
    snapshots: bool = False  # keep the rows of each run (daily snapshots)
    constants: Mapping[str, Any] = msgspec.field(default_factory=dict)  # column → value
    empty_text: EmptyText = EmptyText.KEEP
    skip_none: bool = False  # do not send fields that are None
    json_column: str = ""  # the column for the whole item; empty: none
    routed_by: str = ""  # the field that chooses the table; not sent if the table lacks its column
    references: Mapping[str, ParentFields] = msgspec.field(default_factory=dict)  # column → fields of its parent
    writing: WriteOptions = WriteOptions()
    unseen: Unseen | None = None  # what happens to rows that a complete crawl did not store
    children: Mapping[str, TableSpec] = msgspec.field(default_factory=dict)  # field with a list → table of its elements
    position: str = ""  # of a child table: the column for the element's place in its list, from 1; empty: none

    @property
    def inherited(self) -> tuple[str, ...]:
        """The columns of a child table that do not come from the child: those of the parent, and the position."""
        parent = self.writing.parent
        return (*(parent.columns if parent else ()), *([self.position] if self.position else []))

    @property
    def replaces(self) -> bool:
        """Whether this is a child table with the option `replace`."""
        return self.unseen is not None and bool(self.unseen.parent_column)

    @property
    def consumed_fields(self) -> frozenset[str]:
        """The fields that options have used. They are not sent if the table lacks their columns, without a warning."""
        return self.consumed_by("drop")

    def consumed_by(self, policy: str) -> frozenset[str]:
        """Return `consumed_fields`; if other fields are collected, without those of which a path uses only a part."""
        paths = [path for one in self.references.values() for path in (*one.match.values(), *one.columns.values())]
        roots = () if policy == "collect" else (path.partition(".")[0] for path in paths)
        return frozenset({*paths, *roots, self.routed_by} - {""})

    @property
    def explicit_columns(self) -> set[str]:
        """The columns that options name."""
        named = {*self.columns.values(), *self.stamps, *self.constants, *self.on_conflict, *self.inherited}
        named.update(self.references)
        return {*named, self.json_column} if self.json_column else named

    @property
    def maps_items(self) -> bool:
        """Whether the values of a row may differ from the fields of its item."""
        stamped = self.columns or self.stamps or self.constants or self.children or self.writing.parent
        stamped = stamped or self.references
        return bool(stamped or self.skip_none or self.json_column or self.empty_text is not EmptyText.KEEP)
