"""The settings of one table, as the stages of the data flow need them."""

from __future__ import annotations

from collections.abc import Mapping
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
    children: Mapping[str, TableSpec] = msgspec.field(default_factory=dict)  # field with a list → table of its elements
    position: str = ""  # of a child table: the column for the element's place in its list, from 1; empty: none

    @property
    def inherited(self) -> tuple[str, ...]:
        """The columns of a child table that do not come from the child: those of the parent, and the position."""
        parent = self.writing.parent
        return (*(parent.columns if parent else ()), *([self.position] if self.position else []))

    @property
    def consumed_fields(self) -> frozenset[str]:
        """The fields that options have used. They are not sent if the table lacks their columns, without a warning."""
        paths = [path for one in self.references.values() for path in (*one.match.values(), *one.columns.values())]
        used = {*paths, *(path.partition(".")[0] for path in paths), self.routed_by}
        return frozenset(used - {""})

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
