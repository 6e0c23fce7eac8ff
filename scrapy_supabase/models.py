"""The values of the data flow: item → `Row` → `Chunk` → `Outcome`. They hold data and make no decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from enum import StrEnum
from typing import NamedTuple

import msgspec

from scrapy_supabase.errors import FatalError, ServerError, TooLargeError, TransientError
from scrapy_supabase.messages import pluralize


class Mode(StrEnum):
    """The treatment of a row whose key is already in the table."""

    UPSERT = "upsert"  # update the columns that are sent
    INSERT = "insert"  # let the database reject the new row
    IGNORE = "ignore"  # keep the stored row
    UPDATE = "update"  # update the columns that are sent; a row whose key is not in the table is not stored

    @property
    def updates(self) -> bool:
        """Whether stored rows are changed."""
        return self in (Mode.UPSERT, Mode.UPDATE)


class Parent(msgspec.Struct, frozen=True):
    """The table whose rows the rows of a child table belong to.

    The child's `columns` have the values that the `referenced` columns of the parent's row have, in this order.
    """

    table: str
    columns: tuple[str, ...]
    referenced: tuple[str, ...]


class Reference(msgspec.Struct, frozen=True, omit_defaults=True):
    """A column that gets the id of a row of another table, the parent, which is found by its natural key.

    `match` are the parent's columns of the natural key, `id` is its column with the id. `create`: a parent that is not
    there is made. Until it is sent, a row has `{"match": {parent column: value}, "columns": {…}}` in place of the id.
    """

    column: str
    table: str
    match: tuple[str, ...]
    id: str = "id"
    create: bool = False


class WriteOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """The options of a table for the write of its rows. The spool keeps them with the rows.

    `insert_only`: only a new row gets these columns. `merge`: the stored object or array is merged with the new one.
    `if_changed`: an equal row is not written; `ignored` columns are not compared. `fills`: a missing column is NULL.
    `parent`: the table is a child table. `references`: the columns that get the id of a row of another table.
    """

    insert_only: tuple[str, ...] = ()
    merge: tuple[str, ...] = ()
    if_changed: bool = False
    ignored: tuple[str, ...] = ()
    fills: bool = False
    parent: Parent | None = None
    references: tuple[Reference, ...] = ()

    @property
    def keeps_versions(self) -> bool:
        """Whether each version of a row must be written, in order: a later one does not replace an earlier one."""
        return bool(self.insert_only or self.merge)


class RowCounts(msgspec.Struct):
    """The number of rows by what the server did with them. A plain upsert does not count them."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0  # equal to the stored ones, or a trigger kept these
    not_found: int = 0  # not stored: their key is not in the table (`Mode.UPDATE`)

    def add(self, other: RowCounts) -> None:
        """Add the counts of another request."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


NO_TABLE = "(none)"
"""The placeholder for the table of an item whose class has no table."""

SNAPSHOT_STAMPS = ("snapshot_date", "snapshot_version")
"""The columns of daily snapshots, and the stamps of the same names. Together they identify a run."""


ANY = "\0"  # PostgreSQL cannot store this character in a text


class UncertainKey(NamedTuple):
    """A key that may equal any key of the same `group`; with the group `ANY`, any key of its table.

    Two keys with equal `group` and `texts` are surely equal.
    """

    group: str
    texts: tuple[str, ...]


Key = str | UncertainKey


def group_of(key: Key) -> str:
    """Return a text that is the same for all keys that may equal `key`."""
    return key if type(key) is str else key[0]


def may_overlap(some: Set[str], others: Set[str]) -> bool:
    """Return whether a key of `some` may equal a key of `others`; both are sets of `group_of` texts."""
    if not some.isdisjoint(others):
        return True
    return (ANY in some and bool(others)) or (ANY in others and bool(some))


class Row(msgspec.Struct, frozen=True, gc=False):
    """One scraped item, encoded. A `msgspec.Struct` takes 0.15 µs to create, a dataclass 0.7 µs.

    `columns` are the columns to send, sorted; `data`, a JSON object, may have more keys. `key` represents the values of
    the conflict columns; it is None if the row has no key and so equals no other row.
    """

    table: str
    columns: tuple[str, ...]
    key: Key | None
    data: bytes

    @property
    def location(self) -> str:
        """Where the row comes from, if it is a row of a file."""
        return ""


class Origin(msgspec.Struct, frozen=True):
    """The earlier run that scraped the rows of a recovered chunk, with that run's mode, key and options.

    `sent`: the rows may already be stored. Rows that were rejected are not.
    """

    run: str
    spider: str
    mode: Mode
    on_conflict: tuple[str, ...]
    key: tuple[str, ...] = ()
    sent: bool = True
    writing: WriteOptions = WriteOptions()


MIXED: tuple[str, ...] = ()
"""The placeholder for the columns of a chunk whose rows have different columns."""

# The default of `Chunk.keys`, compared by identity. `Chunker` has the keys at hand: a chunk of 100 rows is sealed in
# 40 µs instead of 99 with that and without `in_key_order`, which is 0.6 % of the CPU of a crawl without downloads.
_OF_THE_ROWS: frozenset[str] = frozenset({""})


class Chunk(msgspec.Struct, frozen=True, eq=False):
    """Rows of one table and one column set for one request, sorted by key, with one row per key.

    `number`: chunks are numbered by age; the lower number is older.
    `file`: the name of the chunk's file in the spool.
    `superseded`: the number of rows in the file that are older versions of rows in the chunk.
    `last_try`: the chunk has the deferred rows of an earlier upload, which are not deferred again.
    `tries`: how often the upload was given up for a while.
    `origin`: the earlier run that scraped the rows; None for this run.
    `mixed`: the rows have different columns, and their keys are texts that the database compares as such.
    `keys`: the `group_of` texts of the rows' keys. Rows whose keys may be equal keep their order of arrival.
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
            keys = frozenset([group_of(row.key) for row in self.rows if row.key is not None])
            msgspec.structs.force_setattr(self, "keys", keys)

    def subset(self, rows: tuple[Row, ...], *, last_try: bool = False, tries: int | None = None) -> Chunk:
        """Return the same chunk with only some of its rows, for another try."""
        tries = self.tries if tries is None else tries
        superseded = self.superseded if len(rows) == len(self.rows) and not last_try else 0
        return Chunk(self.number, rows, self.file, superseded, last_try, tries, self.origin, self.mixed)

    @property
    def is_ordered(self) -> bool:
        """Whether keys of its rows may be equal, so that the rows must be stored in their order."""
        return any(type(row.key) is UncertainKey for row in self.rows)

    @property
    def table(self) -> str:
        """The table of all rows."""
        return self.rows[0].table

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the rows, sorted; in a mixed chunk, those of the first row."""
        return self.rows[0].columns

    @property
    def possibly_duplicated(self) -> int:
        """The number of rows that will be stored twice if an earlier run has stored them: rows without a unique key."""
        origin = self.origin
        if origin is None or not origin.sent:
            return 0
        if origin.mode is Mode.INSERT and origin.on_conflict:  # the unique index was never checked
            return len(self.rows)
        return sum(row.key is None for row in self.rows)

    def __str__(self) -> str:
        return f"Chunk {self.number} ({pluralize(len(self.rows), 'row')} for {self.table})"


class Rejection(msgspec.Struct, frozen=True):
    """A row that the server, or this package before sending, rejected, with the reason.

    `data` is the row as JSON, `columns` are the columns that were sent. For an item that could not become a row,
    `columns` is None, and the fields in `printed`, which cannot be stored, are in `data` as text. `location` is that of
    the row in its file ("books.csv, line 3"), if it comes from one.
    """

    table: str
    data: bytes
    code: str
    message: str
    details: str | None = None
    hint: str | None = None
    columns: tuple[str, ...] | None = None
    printed: tuple[str, ...] = ()
    location: str = ""


class Effort(msgspec.Struct):
    """The counters of one chunk's upload. `seconds` is wall time."""

    requests: int = 0
    request_bytes: int = 0
    retries: int = 0
    ambiguous_retries: int = 0
    splits: int = 0
    fallbacks: int = 0
    seconds: float = 0.0
    errors: Counter[str] = msgspec.field(default_factory=Counter)
    overloads: int = 0  # answers of an overloaded server
    too_large: int = 0  # requests refused for their size
    timeouts: int = 0  # timeouts of a gateway, which fewer rows per request may avoid

    def count_request(self, body: bytes) -> None:
        """Count a request with this body."""
        self.requests += 1
        self.request_bytes += len(body)

    def count(self, error: ServerError, rows: int) -> None:
        """Count an error answer to a request with this number of rows."""
        self.errors[error.code] += 1
        if isinstance(error, TransientError):
            self.overloads += error.overload
            self.timeouts += error.splittable and rows > 1
        elif isinstance(error, TooLargeError):
            self.too_large += 1


class Outcome(msgspec.Struct, frozen=True):
    """The result of a chunk's upload: each row is uploaded, rejected, deferred, left, or not found (`counts`).

    `deferred` rows are tried once more, after the row that one of them refers to. `left` rows were neither stored nor
    rejected and stay in the spool; `transient` is the error if they can be stored later. `fatal` is the error if no
    further upload can succeed.
    """

    chunk: Chunk
    uploaded: int
    rejections: tuple[Rejection, ...] = ()
    deferred: tuple[Row, ...] = ()
    left: tuple[Row, ...] = ()
    fatal: FatalError | None = None
    effort: Effort = msgspec.field(default_factory=Effort)
    transient: TransientError | None = None
    counts: RowCounts = msgspec.field(default_factory=RowCounts)

    @property
    def superseded(self) -> int:
        """The number of superseded rows that leave the spool. They stay if all of the chunk's rows stay."""
        return 0 if len(self.left) == len(self.chunk.rows) else self.chunk.superseded
