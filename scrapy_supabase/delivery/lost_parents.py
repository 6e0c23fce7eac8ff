"""The rows of parent tables that were not stored: rows of child tables that belong to them are not sent."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

import msgspec

from scrapy_supabase.errors import BadRowsError
from scrapy_supabase.models import Chunk, Outcome, Row
from scrapy_supabase.rows.children import parent_rejected
from scrapy_supabase.rows.values import text_of_json
from scrapy_supabase.schema.schema import Schema

# Rows; with values of 100 characters and messages of 200, 25 MB. Children nearly always follow their parent at once.
_MOST = 50_000
_LONGEST = 200  # characters of a message

_NOT_LOST = BadRowsError("", code="")
_Values = tuple[str | None, ...]
_Place = tuple[str, tuple[str, ...], _Values]  # table, columns that a child table refers to, their values


class Sorted(msgspec.Struct, frozen=True):
    """The rows of a chunk: those to `send`, those to reject with an error, and those to leave in the spool."""

    send: tuple[Row, ...]
    reject: tuple[tuple[Row, BadRowsError], ...] = ()
    leave: tuple[Row, ...] = ()


class LostParents:
    """Remembers the values of parents' rows that were rejected, or left for the next run. Thread-safe.

    If there are more than 50,000, the oldest are forgotten: their children are then sent.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._lost: OrderedDict[_Place, BadRowsError | None] = OrderedDict()  # None: left
        self._tables: set[str] = set()  # with lost rows, at some time
        self._lock = threading.Lock()

    def record(self, outcome: Outcome) -> None:
        """Record the rows of a chunk that were rejected, and forget those that were stored after all."""
        chunk = outcome.chunk
        referenced = self._schema.families.referenced(chunk.table)
        if not referenced:
            return
        if outcome.uploaded and chunk.table in self._tables:
            missing = {one.data for one in outcome.rejections}.union(
                row.data for row in outcome.deferred + outcome.left
            )
            stored = [row.data for row in chunk.rows if row.data not in missing]
            with self._lock:
                for place in self._places(chunk.table, stored):
                    self._lost.pop(place, None)
        for one in outcome.rejections:
            message = one.message if len(one.message) <= _LONGEST else f"{one.message[:_LONGEST]}…"
            error = parent_rejected(chunk.table, one.code, message)
            self._add(chunk.table, [one.data], BadRowsError(str(error), code=error.code))

    def keep(self, chunk: Chunk) -> None:
        """Record that the rows of a chunk are left for the next run."""
        if self._schema.families.referenced(chunk.table):
            self._add(chunk.table, [row.data for row in chunk.rows], None)

    def concerns(self, chunk: Chunk) -> bool:
        """Return whether rows of a chunk belong to lost rows."""
        return any(found is not _NOT_LOST for found in self._lost_of(chunk))

    def sort(self, chunk: Chunk) -> Sorted:
        """Sort the rows of a chunk by the outcome of the rows that they belong to."""
        send: list[Row] = []
        reject: list[tuple[Row, BadRowsError]] = []
        leave: list[Row] = []
        for row, found in zip(chunk.rows, self._lost_of(chunk) or [_NOT_LOST] * len(chunk.rows), strict=True):
            if found is _NOT_LOST:
                send.append(row)
            elif found is None:
                leave.append(row)
            else:
                reject.append((row, found))
        if leave and chunk.is_ordered:  # newer versions of its rows must not be stored before them
            leave, send = [row for row in chunk.rows if all(row is not one for one, _ in reject)], []
        return Sorted(tuple(send), tuple(reject), tuple(leave))

    def _lost_of(self, chunk: Chunk) -> list[BadRowsError | None]:
        """Return the outcome of the row that each row of a chunk belongs to; nothing if none of them is lost."""
        writing = chunk.origin.writing if chunk.origin is not None else self._schema.writing(chunk.table)
        parent = writing.parent
        if parent is None or parent.table not in self._tables:
            return []
        places = [(parent.table, parent.referenced, _values_of(row.data, parent.columns)) for row in chunk.rows]
        with self._lock:
            return [self._lost.get(place, _NOT_LOST) for place in places]

    def _add(self, table: str, rows: Iterable[bytes], error: BadRowsError | None) -> None:
        with self._lock:
            self._tables.add(table)
            for place in self._places(table, rows):
                self._lost[place] = error
                self._lost.move_to_end(place)
            while len(self._lost) > _MOST:
                self._lost.popitem(last=False)

    def _places(self, table: str, rows: Iterable[bytes]) -> Iterable[_Place]:
        for data in rows:
            for columns in self._schema.families.referenced(table):
                yield table, columns, _values_of(data, columns)


def _values_of(data: bytes, columns: tuple[str, ...]) -> _Values:
    try:
        values: Mapping[str, msgspec.Raw] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()
    return tuple(text_of_json(values[column]) if column in values else None for column in columns)
