"""The protocol of a backend: what the uploader and the schema check ask of a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import Any, Protocol

import msgspec

from scrapy_supabase.models import Mode


class Write(msgspec.Struct, frozen=True):
    """One request: `body` is a JSON array of objects; only `columns` of them are stored.

    An empty `on_conflict` means the primary key. The body of a probe is `[]`: it is checked like any other and
    writes nothing.
    """

    table: str
    columns: tuple[str, ...]
    body: bytes
    mode: Mode
    on_conflict: tuple[str, ...] = ()


class View(msgspec.Struct, frozen=True):
    """What is known of a view: whether an INSTEAD OF trigger takes inserted rows, and which columns it shows.

    `shows` maps a column to the database schema, table and column that it shows, where inserts into the view are
    inserts into that one table.
    """

    has_trigger: bool = False
    shows: Mapping[str, tuple[str, str, str]] = msgspec.field(default_factory=dict)


class TableInfo(msgspec.Struct, frozen=True):
    """What the server tells of a table: column → type, the primary key, columns that need a value.

    Those of `perhaps_required` may have a default that the server does not tell. `partial_indexes` are the unique ones
    that have a WHERE clause: name → columns. `made` are columns that the database makes itself, with their kind:
    "generated" or "identity". `deferrable` are the unique constraints that an upsert cannot use, with their columns.
    `key_types` are the types by which keys are compared, where these are others: of a domain its base type, "enum" for
    any enum, nothing where the collation is nondeterministic.
    `newest` is the column by which a trigger keeps newer rows (`ddl --newest`), empty without one, None if not known.
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
    """Who answers: its `name` and version, and its clock (UTC, to the second), as far as it tells.

    A database also tells which role it has connected, and whether row-level security is passed by that (`bypasses`).
    """

    name: str
    clock: datetime | None
    role: str = ""
    bypasses: bool | None = None


class WriteState(Enum):
    """What is known of a write that was sent."""

    NO_ANSWER = auto()
    STORED = auto()
    UNCLEAR = auto()  # `PendingWrite.finish` returns or raises


class PendingWrite(Protocol):
    """A write that was sent and whose answer is still to come. For one thread at a time."""

    def poll(self) -> WriteState:
        """Return what is known of the write. Never waits."""

    def has_answer(self) -> bool:
        """Return whether the whole answer has arrived, after `poll` returned UNCLEAR: `finish` then does not wait."""

    def silence(self) -> float:
        """Return for how many seconds the answer had been there when `poll` returned STORED; 0 if not known."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when an answer arrives."""

    def finish(self) -> None:
        """Wait for the answer. Raises `ServerError`, as `Backend.write` does."""

    def abandon(self) -> None:
        """Hang up."""


class Backend(Protocol):
    """A server that takes rows. All methods may be called from several threads at once; all but `send` block."""

    def send(self, write: Write) -> PendingWrite | None:
        """Send a write, as far as that needs no waiting; None where it does. Never raises for what a server does."""

    def write(self, write: Write) -> None:
        """Store the rows, all or none. Raises `ServerError`, classified by `answers.classify`."""

    def insert_new(self, write: Write, returning: Sequence[str]) -> bytes:
        """Insert the rows whose key is not there, in insert mode all. Rows may differ in the fields they have.

        A field that a row lacks gets its column's default. Returns the columns `returning` of the rows that were
        inserted, as a JSON array of objects. Raises `ServerError`.
        """

    def describe(self) -> Mapping[str, TableInfo] | None:
        """Return what is known of every table this key may see, or None where the server does not tell."""

    def view(self, table: str) -> View | None:
        """Return what is known of a view; None for a table, and if the server does not tell. Raises `ServerError`."""

    def type_of(self, table: str, column: str) -> str:
        """The type of a column by which keys are compared; empty if the server does not tell. Raises `ServerError`."""

    def facts(self) -> ServerFacts:
        """Ask the server who it is. Raises `ServerError`."""

    def dry_run(self, write: Write) -> None:
        """Let the server judge two rows as it would in `write`, and store none.

        Raises `ServerError` where it refuses them, and `TrialStoredError` where a trigger of the table outwits that.
        """

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call a function of the database and return its (scalar) result. Raises `ServerError`."""

    def close(self) -> None:
        """Close idle connections. Requests under way are not interrupted."""
