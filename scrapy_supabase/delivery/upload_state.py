"""The state of a running upload: the slices still to send, and the results so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Generic, TypeVar

import msgspec

from scrapy_supabase.delivery.isolate import joined
from scrapy_supabase.errors import FatalError, ServerError, TransientError
from scrapy_supabase.messages import sentence
from scrapy_supabase.models import Chunk, Effort, Outcome, Rejection, Row, RowCounts
from scrapy_supabase.rows.mapping import with_unknown

Sent = TypeVar("Sent")


RefusalKey = tuple[str, str, str | None]


def refusal_key(error: ServerError) -> RefusalKey:
    """Return what identifies a refusal: code, message and details."""
    return error.code, error.message, error.details


class Slice(msgspec.Struct, frozen=True):
    """Rows still to be sent.

    `refused_before` is set on the second half of a split if one of the two halves contains a bad row. It is the number
    of rows refused before the first half was sent. If it is still the same, the first half was good, so that this half
    is split again without being sent.

    `blamed` is the refusal that identified this row as a suspect. If the refusal fits no other row (`is_sure`), then
    storing more than the `stored_before` rows stored at that time proves the row at fault, unless the same refusal
    comes again without it. `isolating` is set if requests with these rows keep failing while the server is reachable.
    """

    rows: tuple[Row, ...]
    refused_before: int | None = None
    blamed: ServerError | None = None
    is_sure: bool = False
    stored_before: int = 0
    isolating: bool = False


class NotCachedError(Exception):
    """Raised when the id of a parent must be looked up first."""


Place = tuple[str, bytes]
"""A name for the parents of a reference, and a natural key, encoded."""


class ParentIds(dict[Place, bytes]):
    """The ids of parents that an upload uses, encoded. Those of the `cache` are kept for the upload when first used.

    Raises `NotCachedError` for an unknown id. `renewed`: the database refused ids once, and they were looked up again.
    """

    def __init__(self, cache: Mapping[Place, bytes]) -> None:
        super().__init__()
        self._cache = cache
        self.renewed = False

    def __missing__(self, place: Place) -> bytes:
        found = self._cache.get(place)
        if found is None:
            raise NotCachedError
        self[place] = found
        return found

    def knows(self, place: Place) -> bool:
        """Return whether the id is known, and keep it for the upload."""
        try:
            return bool(self[place])
        except NotCachedError:
            return False


class UploadState(msgspec.Struct, Generic[Sent]):
    """The state of the upload of one chunk."""

    chunk: Chunk
    slices: list[Slice]  # a stack: the last one is sent next
    ids: ParentIds | None = None  # None if the table has no references
    sent: Sent | None = None
    uploaded: int = 0
    counts: RowCounts = msgspec.field(default_factory=RowCounts)
    rejections: list[Rejection] = msgspec.field(default_factory=list)
    deferred: list[Row] = msgspec.field(default_factory=list)
    left: list[Row] = msgspec.field(default_factory=list)
    effort: Effort = msgspec.field(default_factory=Effort)
    fatal: FatalError | None = None
    transient: TransientError | None = None
    blamed: set[RefusalKey] = msgspec.field(default_factory=set)  # refusals whose suspects were set aside
    unproven: set[RefusalKey] = msgspec.field(default_factory=set)  # those of them that came again without the suspects
    false_suspects: int = 0  # suspects that the server then stored
    passed_without_rows: set[str] = msgspec.field(default_factory=set)  # codes of refusals that are about rows
    suspicion: FatalError | None = None  # the error of the chunk, in case none of its rows can be stored

    @property
    def refused(self) -> int:
        """The number of rows refused so far, deferred ones included."""
        return len(self.rejections) + len(self.deferred)

    def split(self, rows: tuple[Row, ...], *, one_is_bad: bool, isolating: bool = False) -> None:
        """Send the halves of `rows` next."""
        half = len(rows) // 2
        self.slices.append(Slice(rows[half:], self.refused if one_is_bad else None, isolating=isolating))
        self.slices.append(Slice(rows[:half], isolating=isolating))
        self.effort.splits += 1

    def set_aside(self, suspects: tuple[Row, ...], rows: tuple[Row, ...], error: ServerError, *, sure: bool) -> None:
        """Send the `rows` without the suspects next, then each suspect alone, unless it is proven at fault by then.

        If rows of the chunk may have equal keys, the order is kept: rows before a suspect are sent before it.
        """
        self.blamed.add(refusal_key(error))
        aside = frozenset(map(id, suspects))
        parts = [[row for row in rows if id(row) not in aside], *([row] for row in suspects)]
        if self.chunk.is_ordered:
            parts = [list(part) for _, part in groupby(rows, lambda row: id(row) in aside and id(row))]
        slices = [
            Slice((part[0],), blamed=error, is_sure=sure, stored_before=self.uploaded)
            if id(part[0]) in aside
            else Slice(tuple(part))
            for part in parts
        ]
        self.slices.extend(reversed(slices))
        self.effort.splits += 1

    def has_proven(self, part: Slice) -> bool:
        """Return whether the suspect in a slice is proven at fault: other rows were stored without it."""
        blamed = part.blamed is not None and refusal_key(part.blamed) not in self.unproven
        return blamed and part.is_sure and self.uploaded > part.stored_before

    def refuse(self, row: Row, error: ServerError, columns: tuple[str, ...] = ()) -> None:
        """Reject `row` with the server's message. `columns` are those at fault that the message does not name."""
        named = f"In column {joined(columns)}." if columns else ""
        details = " ".join(filter(None, (error.details and sentence(error.details), named))) if named else error.details
        why = (error.code, error.message, details, error.hint)
        self.rejections.append(Rejection(row.table, row.data, *why, columns=row.columns, location=row.location))

    def defer(self, rows: tuple[Row, ...]) -> None:
        """Defer `rows` until the rows that they refer to may be stored, together with newer versions of `rows`."""
        self.deferred.extend(rows)
        if self.chunk.is_ordered:
            self.deferred.extend(self._not_sent())

    def leave(self, rows: tuple[Row, ...]) -> None:
        """Leave `rows` unsent, together with newer versions of them."""
        self.left.extend(rows)
        if self.chunk.is_ordered:
            self.left.extend(self._not_sent())

    def give_up(self, rows: tuple[Row, ...]) -> None:
        """Leave `rows` and all that is still to be sent."""
        self.left.extend(rows)
        self.left.extend(self._not_sent())

    def _not_sent(self) -> list[Row]:
        rows = [row for part in reversed(self.slices) for row in part.rows]
        self.slices.clear()
        return rows

    def outcome(self) -> Outcome:
        """Return the outcome of the upload."""
        if self.left:  # left and deferred rows are retried together
            self.left.extend(self.deferred)
            self.deferred.clear()
        rest = (tuple(self.rejections), tuple(self.deferred), tuple(self.left))
        return Outcome(self.chunk, self.uploaded, *rest, self.fatal, self.effort, self.transient, self.counts)


def collected(row: Row, names: frozenset[str], column: str) -> Row:
    """Return an encoded row with the fields `names` moved into its jsonb `column`."""
    if names.isdisjoint(row.columns):
        return row
    values = msgspec.json.decode(row.data, type=dict[str, msgspec.Raw])
    more = {name: values.pop(name) for name in names if name in values}
    before = msgspec.json.decode(values[column]) if column in values else None
    values[column] = msgspec.Raw(msgspec.json.encode(with_unknown(before, more, column)))
    columns = tuple(sorted({*row.columns, column} - names))
    return msgspec.structs.replace(row, columns=columns, data=msgspec.json.encode(values))


def body_of(rows: Sequence[Row]) -> bytes:
    """Return the rows as a JSON array, with one copy of them."""
    parts = [row.data for row in rows]
    parts[0] = b"[" + parts[0]
    parts[-1] += b"]"
    return b",".join(parts)
