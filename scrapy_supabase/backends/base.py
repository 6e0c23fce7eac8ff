"""The protocol of a backend: the requests that the uploader and the schema check make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import Any, Protocol

import msgspec

from scrapy_supabase.backends.filters import Filter
from scrapy_supabase.models import Mode, RowCounts, WriteOptions


class Merge(msgspec.Struct, frozen=True):
    """What a write needs beyond a plain upsert (`merge_sql.py`); `optional`: the columns that not every row has."""

    options: WriteOptions
    optional: tuple[str, ...] = ()


class Write(msgspec.Struct, frozen=True):
    """One request: `body` is a JSON array of objects, of which only `columns` are stored.

    An empty `on_conflict` means the primary key. A probe has the body `[]`: the server checks it like any other and
    writes nothing. With `fills`, a column that a row lacks is NULL, also where an insert would use its default. With
    `merge`, the counting statement is sent instead of a plain upsert; `on_conflict` then names the key.
    """

    table: str
    columns: tuple[str, ...]
    body: bytes
    mode: Mode
    on_conflict: tuple[str, ...] = ()
    fills: bool = False
    merge: Merge | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """What the statement or the URL depends on: all but the rows."""
        return self.table, self.columns, self.mode, self.on_conflict, self.fills, self.merge


class Merged(msgspec.Struct):
    """The result of a write with `merge`. `missed` rows were not stored and must be sent again, in their order.

    They share their key with another row of the request, or another transaction has inserted their key meanwhile.
    """

    counts: RowCounts
    missed: int


class Order(msgspec.Struct, frozen=True):
    """A column to sort by. NULLs come last, with `descending` first, as in PostgreSQL: an index then has this order."""

    column: str
    descending: bool = False


class Select(msgspec.Struct, frozen=True):
    """A request for at most `limit` rows that meet all conditions in `where`. No `columns` means all columns."""

    table: str
    columns: tuple[str, ...] = ()
    where: tuple[Filter, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int = 1000


class View(msgspec.Struct, frozen=True):
    """A view: whether an INSTEAD OF trigger takes inserted rows, and the table columns behind its own.

    `shows` maps a column of the view to the database schema, table and column behind it; it is filled if inserts into
    the view are inserts into that one table.
    """

    has_trigger: bool = False
    shows: Mapping[str, tuple[str, str, str]] = msgspec.field(default_factory=dict)


class TableInfo(msgspec.Struct, frozen=True):
    """A table as the server describes it: column → type, primary key, columns that need a value.

    `perhaps_required`: columns that may have a default which the server does not report. `partial_indexes`: unique
    indexes with a WHERE clause, name → columns. `made`: columns whose values the database makes, with their kind,
    "generated" or "identity". `deferrable`: unique constraints that an upsert cannot use, name → columns.
    `key_types`: column → type by which keys are compared, if that differs: a domain's base type, "enum" for any enum,
    empty for a nondeterministic collation. `newest`: the column by which a trigger keeps newer rows (`ddl --newest`),
    empty without such a trigger, None if not known.
    """

    columns: Mapping[str, str]
    primary_key: tuple[str, ...]
    required: frozenset[str]
    perhaps_required: frozenset[str] = frozenset()
    partial_indexes: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    made: Mapping[str, str] = msgspec.field(default_factory=dict)
    deferrable: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    key_types: Mapping[str, str] = msgspec.field(default_factory=dict)
    newest: str | None = None


class ServerFacts(msgspec.Struct, frozen=True):
    """The server's `name` and version, and its clock in UTC, to the second (None if it sends none).

    A database also reports the connected `role`, and whether that role `bypasses` row-level security.
    """

    name: str
    clock: datetime | None
    role: str = ""
    bypasses: bool | None = None


class WriteState(Enum):
    """The state of a write that was sent."""

    NO_ANSWER = auto()
    STORED = auto()
    UNCLEAR = auto()  # `PendingWrite.finish` returns or raises


class PendingWrite(Protocol):
    """A write that was sent and has no answer yet. For one thread at a time."""

    def poll(self) -> WriteState:
        """Return the state of the write. Never waits."""

    def has_answer(self) -> bool:
        """Return whether the whole answer has arrived, after `poll` returned UNCLEAR: `finish` then does not wait."""

    def silence(self) -> float:
        """Return the seconds between the arrival of the answer and the `poll` that returned STORED; 0 if not known."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when an answer arrives."""

    def finish(self) -> None:
        """Wait for the answer. Raises `ServerError`, as `Backend.write` does."""

    def abandon(self) -> None:
        """Close the connection without waiting for the answer."""


class Backend(Protocol):
    """A server that takes rows. All methods may be called from several threads at once; all but `send` block."""

    def send(self, write: Write) -> PendingWrite | None:
        """Send a plain write without waiting; return None if that is not possible.

        Server errors come from the result.
        """

    def write(self, write: Write) -> Merged | None:
        """Store the rows, all or none; a write with `merge` returns their counts.

        Raises `ServerError`, classified by `answers.classify`.
        """

    def merges(self) -> bool:
        """Return whether writes with `merge` are possible: over REST, if `scrapy_upsert` is there in this version.

        Raises `ServerError`.
        """

    def insert_new(self, write: Write, returning: Sequence[str]) -> bytes:
        """Insert the rows whose key is not stored yet; in insert mode, all rows. Rows may differ in their fields.

        A field that a row lacks gets its column's default. Returns the columns `returning` of the inserted rows as a
        JSON array of objects. Raises `ServerError`.
        """

    def select(self, select: Select) -> bytes:
        """Return rows as a JSON array of objects. A server may have a limit of its own, and then return fewer rows.

        Raises `ServerError`; `TooLargeError` if fewer rows may be possible.
        """

    def count(self, table: str, where: Sequence[Filter]) -> int:
        """Return the number of rows that meet all conditions. Raises `ServerError`."""

    def update(self, table: str, where: Sequence[Filter], columns: Sequence[str], values: bytes) -> int:
        """Set `columns` of the rows that meet all conditions to the values of a JSON object; return their number.

        One statement changes all rows or none. Raises `ServerError`.
        """

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        """Delete the rows that meet all conditions, all or none; return their number. Raises `ServerError`."""

    def describe(self) -> Mapping[str, TableInfo] | None:
        """Describe every table this key may see; return None if the server refuses that. Raises `ServerError`."""

    def view(self, table: str) -> View | None:
        """Describe a view; return None for a table, and if the server does not answer that. Raises `ServerError`."""

    def type_of(self, table: str, column: str) -> str:
        """Return the type by which a column's keys are compared; empty if not known. Raises `ServerError`."""

    def facts(self) -> ServerFacts:
        """Ask the server for its version, clock and role. Raises `ServerError`."""

    def dry_run(self, write: Write) -> None:
        """Let the server check two rows as `write` would, and store none.

        Raises `ServerError` if it refuses them, and `TrialStoredError` if a trigger of the table stores them anyway.
        """

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function of the database and return its (scalar) result. Raises `ServerError`."""

    def lacks_function(self, function: str, arguments: Sequence[str]) -> bool:
        """Return whether the database has no function with these named arguments. Do not call it.

        Return False if that is not known. Raises `ServerError`.
        """

    def close(self) -> None:
        """Close idle connections. Requests in flight are not interrupted."""
