"""The upload of one chunk while it goes on: what is still to be sent, and what came of the rest."""

from __future__ import annotations

from itertools import groupby
from typing import Generic, TypeVar

import msgspec

from scrapy_supabase.delivery.isolate import joined
from scrapy_supabase.errors import FatalError, ServerError, TransientError
from scrapy_supabase.messages import sentence
from scrapy_supabase.models import Chunk, Effort, Outcome, Rejection, Row

Sent = TypeVar("Sent")


Words = tuple[str, str, str | None]


def words_of(error: ServerError) -> Words:
    """Return what tells one refusal from another."""
    return error.code, error.message, error.details


class Slice(msgspec.Struct, frozen=True):
    """Rows still to be sent.

    `refused_before` is set where one of these rows or of their left sibling's must be bad: how many rows had been
    refused before the sibling was sent. If that has not changed, the sibling was good and these need no trial.

    `blamed` is set for a row that the server's words named. Where they name no other (`is_sure`), storing some of the
    others, beyond the `stored_before` rows of that time, proves it, unless the server says the same without that row.
    `isolating` is set where the request for these and other rows failed each time, though the server is there.
    """

    rows: tuple[Row, ...]
    refused_before: int | None = None
    blamed: ServerError | None = None
    is_sure: bool = False
    stored_before: int = 0
    isolating: bool = False


class UploadState(msgspec.Struct, Generic[Sent]):
    """The upload of one chunk while it goes on."""

    chunk: Chunk
    slices: list[Slice]  # the next one last
    sent: Sent | None = None
    uploaded: int = 0
    rejections: list[Rejection] = msgspec.field(default_factory=list)
    deferred: list[Row] = msgspec.field(default_factory=list)
    left: list[Row] = msgspec.field(default_factory=list)
    effort: Effort = msgspec.field(default_factory=Effort)
    fatal: FatalError | None = None
    transient: TransientError | None = None
    blamed: set[Words] = msgspec.field(default_factory=set)  # words whose suspects were set aside
    unproven: set[Words] = msgspec.field(default_factory=set)  # those of them that came again without the suspects
    false_suspects: int = 0  # rows that the server's words named and that it took alone
    passed_without_rows: set[str] = msgspec.field(default_factory=set)  # codes that turned out to be about rows
    suspicion: FatalError | None = None  # what the chunk met, if no row of it can be stored

    @property
    def refused(self) -> int:
        """How many rows of it are not acceptable, as far as is known."""
        return len(self.rejections) + len(self.deferred)

    def split(self, rows: tuple[Row, ...], *, one_is_bad: bool, isolating: bool = False) -> None:
        """Send the halves of `rows` next."""
        half = len(rows) // 2
        self.slices.append(Slice(rows[half:], self.refused if one_is_bad else None, isolating=isolating))
        self.slices.append(Slice(rows[:half], isolating=isolating))
        self.effort.splits += 1

    def set_aside(self, suspects: tuple[Row, ...], rows: tuple[Row, ...], error: ServerError, *, sure: bool) -> None:
        """Send the `rows` that are no suspects next, then each of the suspects, unless the others prove it at fault.

        Where rows may be equal, each keeps its place: those before a suspect are sent before it, the others after it.
        """
        self.blamed.add(words_of(error))
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
        """Whether the row of a slice is at fault, as others were stored without it."""
        blamed = part.blamed is not None and words_of(part.blamed) not in self.unproven
        return blamed and part.is_sure and self.uploaded > part.stored_before

    def refuse(self, row: Row, error: ServerError, columns: tuple[str, ...] = ()) -> None:
        """Reject `row` with the server's words, and the columns that it did not name."""
        named = f"In column {joined(columns)}." if columns else ""
        details = " ".join(filter(None, (error.details and sentence(error.details), named))) if named else error.details
        why = (error.code, error.message, details, error.hint)
        self.rejections.append(Rejection(row.table, row.data, *why, columns=row.columns))

    def defer(self, rows: tuple[Row, ...]) -> None:
        """Try `rows` a last time when what they refer to may be there, and with them what may be newer versions."""
        self.deferred.extend(rows)
        if self.chunk.is_ordered:
            self.deferred.extend(self._not_sent())

    def leave(self, rows: tuple[Row, ...]) -> None:
        """Leave `rows`, and with them what may be newer versions of them."""
        self.left.extend(rows)
        if self.chunk.is_ordered:
            self.left.extend(self._not_sent())

    def give_up(self, rows: tuple[Row, ...]) -> None:
        """Leave `rows` and all that was still to be sent."""
        self.left.extend(rows)
        self.left.extend(self._not_sent())

    def _not_sent(self) -> list[Row]:
        rows = [row for part in reversed(self.slices) for row in part.rows]
        self.slices.clear()
        return rows

    def outcome(self) -> Outcome:
        """What came of it."""
        if self.left:  # what is tried again later is tried again together
            self.left.extend(self.deferred)
            self.deferred.clear()
        rest = (tuple(self.rejections), tuple(self.deferred), tuple(self.left))
        return Outcome(self.chunk, self.uploaded, *rest, self.fatal, self.effort, self.transient)


def collected(row: Row, names: frozenset[str], column: str) -> Row:
    """Move the fields `names` of a row that is encoded already into its jsonb `column`."""
    values = msgspec.json.decode(row.data, type=dict[str, msgspec.Raw])
    more = {name: values.pop(name) for name in names if name in values}
    before = msgspec.json.decode(values[column]) if column in values else None
    values[column] = msgspec.Raw(msgspec.json.encode({**before, **more} if isinstance(before, dict) else more))
    columns = tuple(sorted({*row.columns, column} - names))
    return Row(row.table, columns, row.key, msgspec.json.encode(values))
