"""The upload of one chunk while it goes on: what is still to be sent, and what came of the rest."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from scrapy_supabase.errors import FatalError, ServerError, TransientError
from scrapy_supabase.models import Chunk, Effort, Outcome, Rejection, Row

Begun = TypeVar("Begun")


class Piece(msgspec.Struct, frozen=True):
    """Rows still to be sent.

    `refused_before` is set where one of these rows or of their left sibling's must be bad: how many rows had been
    refused before the sibling was sent. If that has not changed, the sibling was good and these need no trial.
    """

    rows: tuple[Row, ...]
    refused_before: int | None = None


class Work(msgspec.Struct, Generic[Begun]):
    """The upload of one chunk while it goes on."""

    chunk: Chunk
    pieces: list[Piece]  # the next one last
    begun: Begun | None = None
    uploaded: int = 0
    rejections: list[Rejection] = msgspec.field(default_factory=list)
    deferred: list[Row] = msgspec.field(default_factory=list)
    left: list[Row] = msgspec.field(default_factory=list)
    effort: Effort = msgspec.field(default_factory=Effort)
    fatal: FatalError | None = None
    gone: TransientError | None = None
    waited_for_schema: bool = False

    @property
    def refused(self) -> int:
        """How many rows of it are not acceptable, as far as is known."""
        return len(self.rejections) + len(self.deferred)

    def split(self, rows: tuple[Row, ...], *, one_is_bad: bool) -> None:
        """Send the halves of `rows` next."""
        half = len(rows) // 2
        self.pieces.append(Piece(rows[half:], self.refused if one_is_bad else None))
        self.pieces.append(Piece(rows[:half]))
        self.effort.splits += 1

    def refuse(self, row: Row, error: ServerError) -> None:
        """Reject `row` with the server's words."""
        why = (error.code, error.message, error.details, error.hint)
        self.rejections.append(Rejection(row.table, row.data, *why, columns=row.columns))

    def give_up(self, rows: tuple[Row, ...]) -> None:
        """Leave `rows` and all that was still to be sent."""
        self.left.extend(rows)
        while self.pieces:
            self.left.extend(self.pieces.pop().rows)

    def outcome(self) -> Outcome:
        """What came of it."""
        if self.left:  # what is tried again later is tried again together
            self.left.extend(self.deferred)
            self.deferred.clear()
        rest = (tuple(self.rejections), tuple(self.deferred), tuple(self.left))
        return Outcome(self.chunk, self.uploaded, *rest, self.fatal, self.effort, self.gone)


def collected(row: Row, names: frozenset[str], column: str) -> Row:
    """Move the fields `names` of a row that is encoded already into its jsonb `column`."""
    values = msgspec.json.decode(row.data, type=dict[str, msgspec.Raw])
    more = {name: values.pop(name) for name in names if name in values}
    before = msgspec.json.decode(values[column]) if column in values else None
    values[column] = msgspec.Raw(msgspec.json.encode({**before, **more} if isinstance(before, dict) else more))
    columns = tuple(sorted({*row.columns, column} - names))
    return Row(row.table, columns, row.key, msgspec.json.encode(values))
