"""The values that travel down the line: item → `Row` → `Chunk` → `Outcome`. They carry data and decide nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from enum import StrEnum
from typing import NamedTuple

import msgspec

from scrapy_supabase.errors import FatalError, ServerError, TooLargeError, TransientError
from scrapy_supabase.messages import pluralize


class Mode(StrEnum):
    """What happens to a row whose key is in the table already."""

    UPSERT = "upsert"  # the columns sent replace the stored ones
    INSERT = "insert"  # the database refuses it
    IGNORE = "ignore"  # the stored row is kept


NO_TABLE = "(none)"
"""What stands for the table of items whose class has none."""

SNAPSHOT_STAMPS = ("snapshot_date", "snapshot_version")
"""The columns, and the stamps of the same names, that tell the rows of one run from those of another."""


ANY = "\0"  # in no text that PostgreSQL stores


class Unsure(NamedTuple):
    """A key that may equal others: all that have the same `near`; where that is `ANY`, all of the table.

    It surely equals one that has the same `texts`, too.
    """

    near: str
    texts: tuple[str, ...]


Key = str | Unsure


def near_of(key: Key) -> str:
    """What a key has in common with each that may equal it."""
    return key if type(key) is str else key[0]


def may_meet(some: Set[str], others: Set[str]) -> bool:
    """Whether a key of `some` may equal one of `others`; both are sets of what `near_of` returns."""
    if not some.isdisjoint(others):
        return True
    return (ANY in some and bool(others)) or (ANY in others and bool(some))


class Row(msgspec.Struct, frozen=True, gc=False):
    """One scraped item, encoded. A `msgspec.Struct` because one is made per item: 0.15 µs instead of 0.7.

    `columns` is sorted and names what of `data` is sent; `data` (a JSON object) may hold more keys than that.
    `key` stands for the conflict columns' values; None where the row has none, so that it equals no other.
    """

    table: str
    columns: tuple[str, ...]
    key: Key | None
    data: bytes


class TableSpec(msgspec.Struct, frozen=True):
    """What the user said of a table. An empty `on_conflict` means the primary key."""

    name: str
    mode: Mode = Mode.UPSERT
    on_conflict: tuple[str, ...] = ()
    columns: Mapping[str, str] = msgspec.field(default_factory=dict)  # field of the item → column
    stamps: Mapping[str, str] = msgspec.field(default_factory=dict)  # column → name of a stamp
    snapshots: bool = False  # the rows of each run are kept


Routes = Mapping[type | None, TableSpec]
"""Class of item (None: any other) → its table."""


class Origin(msgspec.Struct, frozen=True):
    """The earlier run that scraped the rows of a recovered chunk, and what it was told to do with them.

    `sent` says whether they may be stored already; rows that had been rejected are not.
    """

    run: str
    spider: str
    mode: Mode
    on_conflict: tuple[str, ...]
    key: tuple[str, ...] = ()
    sent: bool = True


MIXED: tuple[str, ...] = ()
"""What stands for the columns of a chunk whose rows differ in them."""

_OF_THE_ROWS: frozenset[str] = frozenset({""})  # told from others by its identity


class Chunk(msgspec.Struct, frozen=True, eq=False):
    """Rows of one table and one column set that travel in one request, sorted by key, each key once.

    The rows of a `mixed` one differ in their columns. They have keys that the database compares as texts are compared.
    Rows whose keys may be equal are in the order in which they came; `keys` is what rows with equal keys share.
    The lower `number` is the older chunk; `file` names its file in the spool. Where rows of the chunk were deferred, it
    comes a second time with those rows only: its `last_try`. `tries` says how often it was given up for a while;
    `origin` is None for the rows of this run. The file also holds `superseded` rows: older versions of others.
    """

    number: int
    rows: tuple[Row, ...]
    file: str
    superseded: int = 0
    last_try: bool = False
    tries: int = 0
    origin: Origin | None = None
    mixed: bool = False
    keys: frozenset[str] = _OF_THE_ROWS

    def __post_init__(self) -> None:
        if self.keys is _OF_THE_ROWS:
            keys = frozenset([near_of(row.key) for row in self.rows if row.key is not None])
            msgspec.structs.force_setattr(self, "keys", keys)

    def again(self, rows: tuple[Row, ...], *, last_try: bool = False, tries: int | None = None) -> Chunk:
        """Some of its rows, to be tried once more."""
        tries = self.tries if tries is None else tries
        superseded = self.superseded if len(rows) == len(self.rows) and not last_try else 0
        return Chunk(self.number, rows, self.file, superseded, last_try, tries, self.origin, self.mixed)

    @property
    def is_ordered(self) -> bool:
        """Whether rows of it may be equal, so that they must be stored in their order."""
        return any(type(row.key) is Unsure for row in self.rows)

    @property
    def table(self) -> str:
        """The table all rows go to."""
        return self.rows[0].table

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns all rows have, sorted."""
        return self.rows[0].columns

    @property
    def possibly_duplicated(self) -> int:
        """How many rows are there twice if an earlier run had stored them: those that no unique key tells apart."""
        origin = self.origin
        if origin is None or not origin.sent:
            return 0
        if origin.mode is Mode.INSERT and origin.on_conflict:  # for which nobody checked that there is a unique index
            return len(self.rows)
        return sum(row.key is None for row in self.rows)

    def __str__(self) -> str:
        return f"Chunk {self.number} ({pluralize(len(self.rows), 'row')} for {self.table})"


class Stored(msgspec.Struct, frozen=True):
    """A chunk that is in the spool and not in memory: `size` bytes and `rows`, superseded ones too, in `file`.

    Of a `recovered` one, table and number of rows are not known before it is read.
    """

    number: int
    file: str
    size: int
    table: str = ""
    rows: int | None = None
    tries: int = 0
    recovered: bool = False


class Rejection(msgspec.Struct, frozen=True):
    """A row that is not in the database because of what it is, with the server's own words (or ours, before sending).

    `data` is the row as JSON, and `columns` are those that were sent. An item that could not become a row has none;
    fields that cannot be stored are `printed` in its `data`.
    """

    table: str
    data: bytes
    code: str
    message: str
    details: str | None = None
    hint: str | None = None
    columns: tuple[str, ...] | None = None
    printed: tuple[str, ...] = ()


class Loaded(msgspec.Struct, frozen=True):
    """What was found in a chunk's file: None where it holds no rows.

    `torn` lines were being written when the machine or the process ended; `damaged` ones are rejected.
    """

    chunk: Chunk | None
    torn: int = 0
    damaged: tuple[Rejection, ...] = ()


class Effort(msgspec.Struct):
    """What it took to upload a chunk: counted while it happens, read when it is over. Seconds are wall time."""

    requests: int = 0
    request_bytes: int = 0
    retries: int = 0
    ambiguous_retries: int = 0
    splits: int = 0
    fallbacks: int = 0
    seconds: float = 0.0
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    overloads: int = 0  # answers that say that the server has too much to do
    too_large: int = 0  # answers that refuse a request for its size
    timeouts: int = 0  # a gateway gave up waiting: fewer rows at once may help

    def count_request(self, body: bytes) -> None:
        """A request with this body is sent."""
        self.requests += 1
        self.request_bytes += len(body)

    def count(self, error: ServerError, rows: int) -> None:
        """An answer to a request with so many rows was no success."""
        self.errors[error.code] += 1
        if isinstance(error, TransientError):
            self.overloads += error.overload
            self.timeouts += error.splittable and rows > 1
        elif isinstance(error, TooLargeError):
            self.too_large += 1


class Outcome(msgspec.Struct, frozen=True):
    """Where each row of a chunk is now: `uploaded + len(rejections) + len(deferred) + len(left) == len(chunk.rows)`.

    `deferred` rows wait for a row that one of them refers to: they are tried once more. `left` rows got no verdict and
    stay in the spool; `transient` is the error if the server could not be reached, so that they can be stored later.
    `fatal` is set if no further upload makes sense.
    """

    chunk: Chunk
    uploaded: int
    rejections: tuple[Rejection, ...] = ()
    deferred: tuple[Row, ...] = ()
    left: tuple[Row, ...] = ()
    fatal: FatalError | None = None
    effort: Effort = msgspec.field(default_factory=Effort)
    transient: TransientError | None = None

    @property
    def superseded(self) -> int:
        """Older versions of rows that are done with: they stay in the chunk's file only where all of its rows do."""
        return 0 if len(self.left) == len(self.chunk.rows) else self.chunk.superseded
