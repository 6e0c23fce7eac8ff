"""The values that travel down the line: item → `Row` → `Chunk` → `Outcome`. They carry data and decide nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from scrapy_supabase.errors import FatalError


class Mode(StrEnum):
    """What happens to a row whose key is in the table already."""

    UPSERT = "upsert"  # the columns sent replace the stored ones
    INSERT = "insert"  # the database refuses it
    IGNORE = "ignore"  # the stored row is kept


SNAPSHOT_STAMPS = ("snapshot_date", "snapshot_version")
"""The columns, and the stamps of the same names, that tell the rows of one run from those of another."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One scraped item, encoded. A `msgspec.Struct` because one is made per item: 0.15 µs instead of 0.7.

    `columns` is sorted and names what of `data` is sent; `data` (a JSON object) may hold more keys than that.
    `key` is the text of the conflict columns' values; None where the row has none, so that it equals no other.
    """

    table: str
    columns: tuple[str, ...]
    key: str | None
    data: bytes


@dataclass(frozen=True, slots=True)
class TableSpec:
    """What the user said of a table. An empty `on_conflict` means the primary key."""

    name: str
    mode: Mode = Mode.UPSERT
    on_conflict: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)  # field of the item → column
    stamps: Mapping[str, str] = field(default_factory=dict)  # column → name of a stamp
    snapshots: bool = False  # the rows of each run are kept


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Rows of one table and one column set that travel in one request, sorted by key, each key once.

    `file` names the chunk's file in the spool. Where rows of the chunk were deferred, the chunk comes a second time
    with those rows only: its `last_try`.
    """

    number: int
    rows: tuple[Row, ...]
    file: str
    superseded: int = 0
    last_try: bool = False
    keys: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", frozenset(row.key for row in self.rows if row.key is not None))

    @property
    def table(self) -> str:
        """The table all rows go to."""
        return self.rows[0].table

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns all rows have, sorted."""
        return self.rows[0].columns

    def __str__(self) -> str:
        return f"chunk {self.number} ({len(self.rows)} rows for {self.table})"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that is not in the database because of what it is, with the server's own words (or ours, before sending).

    `data` is the row as JSON, or a printed form of the item where it could not be encoded.
    """

    table: str
    data: bytes
    code: str
    message: str
    details: str | None = None
    hint: str | None = None


@dataclass(slots=True)
class Effort:
    """What it took to upload a chunk: counted while it happens, read when it is over. Seconds are wall time."""

    requests: int = 0
    request_bytes: int = 0
    retries: int = 0
    ambiguous_retries: int = 0
    splits: int = 0
    fallbacks: int = 0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where each row of a chunk is now: `uploaded + len(rejections) + len(deferred) + len(left) == len(chunk.rows)`.

    Among the `deferred` rows one refers to a row that may still be on its way: they are tried once more. `left` rows
    got no verdict and stay in the spool. `fatal` is set where no further upload makes sense.
    """

    chunk: Chunk
    uploaded: int
    rejections: tuple[Rejection, ...] = ()
    deferred: tuple[Row, ...] = ()
    left: tuple[Row, ...] = ()
    fatal: FatalError | None = None
    effort: Effort = field(default_factory=Effort)
