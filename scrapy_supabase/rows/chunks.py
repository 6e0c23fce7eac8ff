"""Row → Chunk: collect rows of one table and one column set, the last row per key, until the chunk is full or old."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from scrapy_supabase.models import (
    ANY,
    MIXED,
    Chunk,
    Key,
    Mode,
    Row,
    UncertainKey,
    WriteOptions,
    group_of,
    may_overlap,
)
from scrapy_supabase.rows.versions import deduplicate, in_key_order

# Items with optional fields have many column sets, and each open chunk keeps a file open.
_MOST_OPEN = 64
# The number of column sets per table with chunks of their own. Rows with other column sets share one chunk.
_MOST_SHAPES = 8

_Place = tuple[str, tuple[str, ...]]  # table and columns
_PLAIN = WriteOptions()


class ChunkFile(Protocol):
    """The file of an open chunk. Each row is written to it before it is added to the chunk."""

    @property
    def name(self) -> str:
        """The file's name in the spool. It changes with `close`."""

    @property
    def direct(self) -> tuple[Callable[[bytes], object], int]:
        """A function that writes a line with its newline, and the bytes it may write. Valid until the next `append`."""

    def append(self, data: bytes) -> None:
        """Write one row."""

    def close(self) -> None:
        """Close the file. Files are ordered by the time of their closing."""


class OpenChunk:
    """A chunk that still accepts rows.

    New rows are appended to `waiting`; `deduplicate` later compares the keys of all of them at once. Rows may be added
    without calling the chunker while `waiting` has fewer than `room` rows and `size` is at most `most_bytes`.
    """

    def __init__(
        self,
        place: _Place,
        file: ChunkFile,
        opened: float,
        mode: Mode,
        writing: WriteOptions,
        most_bytes: int,
    ) -> None:
        self.table, self.columns = place
        self.file = file
        self.opened = opened
        self.mode = mode
        self.writing = writing
        self.most_bytes = most_bytes
        self.room = 0
        self.waiting: list[Row] = []
        self.rows: dict[Any, Row] = {}  # by key, or by number if a row has no key
        self.groups: set[str] = set()  # the groups of uncertain keys in `rows`
        self.size = 1  # bytes of the request's body: brackets, rows, one comma per row
        self.superseded = 0

    def add(self, row: Row) -> None:
        """Write a row of the chunk's table and columns to the file and add it."""
        self.file.append(row.data)
        self.waiting.append(row)
        self.size += len(row.data) + 1

    def deduplicate(self) -> None:
        """Move the waiting rows to `rows`, keeping one row per key."""
        if not self.rows and self.mode is not Mode.INSERT:
            by_key = {row.key: row for row in self.waiting}
            if len(by_key) == len(self.waiting) and set(map(type, by_key)) == {str}:  # the usual case
                self.rows = by_key
                self.waiting.clear()
                return
        dropped = deduplicate(self.rows, self.waiting, self.mode)
        if self.mode is not Mode.INSERT:
            self.groups.update(key.group for row in self.waiting if type(key := row.key) is UncertainKey)
        self.superseded += len(dropped)
        self.size -= sum(len(row.data) + 1 for row in dropped)
        self.waiting.clear()

    def may_hold(self, key: Key | None) -> bool:
        """Return whether a row in `rows` may have this key."""
        if key is None or not self.rows:
            return False
        if type(key) is str and not self.groups:
            return key in self.rows
        return group_of(key) in self.rows or group_of(key) == ANY or may_overlap({group_of(key)}, self.groups)


class Chunker:
    """Collects rows into chunks. Not thread-safe.

    A chunk is sealed at `max_rows` rows (may change at any time) or `max_bytes` bytes of body, and due after `max_age`
    seconds (0: never). `mode(table)` returns the mode in force, `references(table)` the tables whose rows must be sent
    first; `open_file(row)` opens the spool's file for a chunk that starts with `row`. Chunks are numbered when they are
    sealed, starting after `last`: of two chunks with a common key, the lower number has the older rows.

    After eight column sets of a table, rows with other columns share one chunk if `mixes(table)`: otherwise items with
    a dozen optional fields would need nearly one request each. `writing(table)` returns the table's options: if they
    set missing columns to NULL, rows of all column sets share one chunk; if each version of a row must be written, a
    chunk is sealed before a second version.
    """

    # Ten arguments: three limits, five functions of schema and spool, and two for tests.
    def __init__(
        self,
        *,
        max_rows: int,
        max_bytes: int,
        max_age: float,
        mode: Callable[[str], Mode],
        references: Callable[[str], frozenset[str]],
        open_file: Callable[[Row], ChunkFile],
        mixes: Callable[[str], bool] = lambda _: False,
        writing: Callable[[str], WriteOptions] = lambda _: _PLAIN,
        last: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._mode = mode
        self._references = references
        self._open_file = open_file
        self._clock = clock
        self._mixes = mixes
        self._writing = writing
        self._shapes: dict[str, set[tuple[str, ...]]] = {}
        self._open: dict[_Place, OpenChunk] = {}
        self._last_number = last

    @property
    def max_rows(self) -> int:
        """The number of rows at which a chunk is sealed."""
        return self._max_rows

    @max_rows.setter
    def max_rows(self, number: int) -> None:
        if number != self._max_rows:
            self._max_rows = number
            self.close_room()

    def only_chunk(self) -> OpenChunk | None:
        """Return the open chunk with its `room` set; None unless exactly one is open."""
        chunk = self._only
        if chunk is not None:
            chunk.room = 0 if chunk.writing.keeps_versions else self.max_rows - len(chunk.rows)
        return chunk

    def close_room(self) -> None:
        """Make sure that the next row is passed to `add`."""
        if self._only is not None:
            self._only.room = 0

    @property
    def _only(self) -> OpenChunk | None:
        return next(iter(self._open.values())) if len(self._open) == 1 else None

    def add(self, row: Row) -> Sequence[Chunk]:
        """Add a row; return the chunks that it seals, in the order in which they must be sent."""
        place = self._place_of(row)
        sealed = self._seal_filled()
        if len(self._open) > (place in self._open):
            if (only := self._only) is not None:
                only.deduplicate()  # if several chunks are open, none has waiting rows
            # An older row with the same key and other columns must be sent first.
            for other in [p for p, o in self._open.items() if p[0] == row.table and p != place and o.may_hold(row.key)]:
                sealed.extend(self._seal(other))
        chunk = self._open.get(place)
        if chunk is not None and not (self._has_bytes_for(chunk, row) and _may_share(chunk, row)):
            sealed.extend(self._seal(place))
            chunk = None
        if chunk is None:
            if len(self._open) >= _MOST_OPEN:
                sealed.extend(self._seal(next(iter(self._open))))
            first = row if place[1] is not MIXED else Row(row.table, MIXED, None, b"")
            chunk = self._open[place] = OpenChunk(
                place,
                self._open_file(first),
                self._clock(),
                self._mode(row.table),
                self._writing(row.table),
                self._max_bytes,
            )
        chunk.add(row)
        if len(self._open) > 1 or chunk.columns is MIXED or chunk.writing.keeps_versions:
            chunk.deduplicate()
        sealed.extend(self._seal_if_full(chunk))
        return sealed

    def take_numbers(self, count: int) -> range:
        """Return numbers for chunks of another run: newer than those sealed so far, older than the others."""
        self._last_number += count
        return range(self._last_number - count + 1, self._last_number + 1)

    def due(self) -> list[Chunk]:
        """Seal and return the chunks that are full or have been open for `max_age` seconds."""
        sealed = self._seal_filled()
        if self._max_age:
            oldest = self._clock() - self._max_age
            sealed += self._seal_those(place for place, chunk in self._open.items() if chunk.opened <= oldest)
        return sealed

    def seal_all(self) -> list[Chunk]:
        """Seal and return all open chunks."""
        return self._seal_those(self._open)

    def _place_of(self, row: Row) -> _Place:
        if self._writing(row.table).fills:
            return (row.table, MIXED)
        shapes = self._shapes.setdefault(row.table, set())
        if row.columns not in shapes:
            if len(shapes) < _MOST_SHAPES:
                shapes.add(row.columns)
            elif self._mixes(row.table) and (type(row.key) is str or self._mode(row.table) is Mode.INSERT):
                return (row.table, MIXED)
        return (row.table, row.columns)

    def _has_bytes_for(self, chunk: OpenChunk, row: Row) -> bool:
        most = self._max_bytes - len(row.data) - 1
        if chunk.size > most:
            chunk.deduplicate()
        return chunk.size <= most

    def _seal_filled(self) -> list[Chunk]:
        """Seal the only open chunk if the fast path has filled it."""
        only = self._only
        if only is None:
            return []
        only.room = 0
        return self._seal_if_full(only)

    def _seal_if_full(self, chunk: OpenChunk) -> list[Chunk]:
        if len(chunk.rows) + len(chunk.waiting) >= self.max_rows:
            chunk.deduplicate()
        return self._seal((chunk.table, chunk.columns)) if len(chunk.rows) >= self.max_rows else []

    def _seal_those(self, places: Iterable[_Place]) -> list[Chunk]:
        return [chunk for place in list(places) for chunk in self._seal(place)]

    def _seal(self, place: _Place) -> list[Chunk]:
        """Seal an open chunk, after the chunks of the tables that it references. Return the sealed chunks in order."""
        chunk = self._open.pop(place, None)
        if chunk is None:
            return []
        chunk.room = 0
        parents = self._references(place[0])
        first = self._seal_those(other for other in self._open if other[0] in parents) if parents else []
        chunk.deduplicate()
        chunk.file.close()
        self._last_number += 1
        number, rows, file, superseded = self._last_number, chunk.rows, chunk.file.name, chunk.superseded
        mixed = chunk.columns is MIXED
        # Keys are nearly always texts; then this is faster (see `models._OF_THE_ROWS`).
        if set(map(type, rows)) != {str}:
            return [*first, Chunk(number, in_key_order(rows.values()), file, superseded, mixed=mixed)]
        ordered = tuple([rows[key] for key in sorted(rows)])
        return [*first, Chunk(number, ordered, file, superseded, mixed=mixed, keys=frozenset(rows))]


def _may_share(chunk: OpenChunk, row: Row) -> bool:
    """Return whether a row may be added to a chunk.

    It may not if the chunk has an older row of its key that has other columns, or of which each version is written.
    """
    if chunk.writing.keeps_versions:
        return not chunk.may_hold(row.key)
    if chunk.columns is not MIXED or chunk.mode is Mode.INSERT or chunk.writing.fills:
        return True
    older = chunk.rows.get(row.key)
    return older is None or older.columns == row.columns
