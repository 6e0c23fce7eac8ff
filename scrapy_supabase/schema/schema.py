"""What is known of each table: columns, key, what the server refused so far. Shared by all chunks and threads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

import msgspec

from scrapy_supabase.backends.base import TableInfo, View
from scrapy_supabase.errors import SchemaDriftError
from scrapy_supabase.models import Mode, TableSpec
from scrapy_supabase.schema.column_types import kind_of


class UnknownColumns(msgspec.Struct, frozen=True):
    """What happens to a field without a column: `drop` it, `reject` the row, or `collect` it in a jsonb `column`."""

    policy: str = "drop"
    column: str = ""

    def __str__(self) -> str:
        return self.column or self.policy


class Schema:
    """The tables of one crawl. All methods are thread-safe; `version` grows whenever something was learnt.

    What is remembered here is never forgotten within a crawl, so that a refusal costs one request, not one a chunk.
    `role` is the database role of the key, for the SQL that messages print.
    """

    def __init__(
        self,
        specs: Mapping[str, TableSpec],
        *,
        unknown: UnknownColumns | None = None,
        insert_fallback: bool = True,
        database_schema: str = "public",
        role: str = "service_role",
    ) -> None:
        self.specs = dict(specs)
        self.unknown = unknown or UnknownColumns()
        self.insert_fallback = insert_fallback
        self.database_schema = database_schema
        self.role = role
        self.version = 0
        self._known: dict[str, TableInfo] = {}
        self._views: dict[str, View] = {}
        self._key_types: dict[str, Mapping[str, str]] = {}
        self._dropped: dict[str, set[str]] = {}
        self._made: dict[str, dict[str, str]] = {}
        self._modes: dict[str, Mode] = {}
        self._references: dict[str, frozenset[str]] = {}
        self._mentioned: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def with_table(self, spec: TableSpec) -> Schema:
        """A schema of one other table, or of the same for another use, with what the server told of it."""
        other = Schema(
            {spec.name: spec},
            unknown=self.unknown,
            insert_fallback=self.insert_fallback,
            database_schema=self.database_schema,
            role=self.role,
        )
        if (info := self._known.get(spec.name)) is not None:
            other.learn(spec.name, info)
        return other

    def learn(self, table: str, info: TableInfo) -> None:
        """Remember what the server told of a table."""
        with self._lock:
            self._known[table] = info
            self._made.setdefault(table, {}).update(info.made)
            self.version += 1

    def learn_key_types(self, table: str, types: Mapping[str, str]) -> None:
        """Remember the types of key columns of a table of which the server tells nothing else."""
        with self._lock:
            self._key_types[table] = types
            self.version += 1

    def key_types(self, table: str) -> Mapping[str, str]:
        """Column → the type by which its values are compared, as far as that is known."""
        info = self._known.get(table)
        return {**info.columns, **info.key_types} if info else self._key_types.get(table, {})

    def info(self, table: str) -> TableInfo | None:
        """What the server told of `table`, or None where it does not tell."""
        return self._known.get(table)

    def learn_view(self, table: str, view: View) -> None:
        """Remember that `table` is a view."""
        with self._lock:
            self._views[table] = view

    def view(self, table: str) -> View | None:
        """What was learnt of `table`, if it is a view."""
        return self._views.get(table)

    def mode(self, table: str) -> Mode:
        """The mode in force: the user's, or a plain insert after a refused upsert."""
        return self._modes.get(table, self.specs[table].mode)

    def fall_back(self, table: str) -> bool:
        """From now on send plain inserts to `table`. True the first time."""
        with self._lock:
            first = self.mode(table) is not Mode.INSERT
            self._modes[table] = Mode.INSERT
            return first

    def key(self, table: str) -> tuple[str, ...]:
        """The columns that make a row unique, as far as they are known: the user's, else the primary key."""
        spec = self.specs[table]
        if spec.on_conflict:
            return spec.on_conflict
        info = self._known.get(table)
        return info.primary_key if info else ()

    def has_unknown_key(self, table: str) -> bool:
        """Whether rows replace each other by a key that the server does not tell, or makes itself."""
        spec = self.specs.get(table)
        if spec is None or self.mode(table) is Mode.INSERT:
            return False
        return self.generates_key(table) or not (self.key(table) or self._known.get(table))

    def may_mix(self, table: str) -> bool:
        """Whether rows with other columns may share a request. That is read as jsonb, which rewrites `json` values."""
        info = self._known.get(table)
        return info is not None and not any(kind.removesuffix("[]") == "json" for kind in info.columns.values())

    def learn_reference(self, table: str, parent: str) -> None:
        """Remember that rows of `table` refer to rows of `parent` (a foreign key), which must be stored first."""
        with self._lock:
            self._references[table] = self.references(table) | {parent}

    def references(self, table: str) -> frozenset[str]:
        """The tables that `table` is known to refer to."""
        return self._references.get(table, frozenset())

    def drop(self, table: str, column: str) -> bool:
        """From now on leave `column` out. True the first time."""
        with self._lock:
            dropped = self._dropped.setdefault(table, set())
            if column in dropped:
                return False
            dropped.add(column)
            self.version += 1
            return True

    def learn_generated(self, table: str, error: SchemaDriftError) -> bool:
        """Remember that the database makes a column itself, as `error` says. True the first time."""
        info, column = self._known.get(table), error.column
        # Where the server leaves out the details, the type must tell: an identity column is an integer.
        is_integer = info is not None and kind_of(info.columns.get(column, "")) == "integer"
        identity = "identity" in error.details if error.details else is_integer
        with self._lock:
            made = self._made.setdefault(table, {})
            if column in made:
                return False
            made[column] = "identity" if identity else "generated"
            self.version += 1
            return True

    def generated_columns(self, table: str) -> Mapping[str, str]:
        """The columns that the database makes itself, as far as is known, with their kind. They may not be sent."""
        return self._made.get(table, {})

    def generates_key(self, table: str) -> bool:
        """Whether the database makes a conflict column from what is sent: rows have keys that are not known here."""
        made = self.generated_columns(table)
        return any(made.get(column) == "generated" for column in self.key(table))

    def first_mention(self, table: str, columns: Iterable[str]) -> list[str]:
        """Those of `columns` that no warning has named yet; they are named now."""
        with self._lock:
            new = [column for column in columns if (table, column) not in self._mentioned]
            self._mentioned.update((table, column) for column in new)
            return new

    def split(self, table: str, columns: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Split `columns` into those that can be stored and those that the table lacks, as far as is known.

        Both are sorted. Columns that the database makes itself are in neither.
        """
        info, dropped, made = self._known.get(table), self._dropped.get(table, ()), self.generated_columns(table)
        can: list[str] = []
        cannot: list[str] = []
        for column in sorted(columns):
            if column in made:
                continue
            known = column not in dropped and (info is None or column in info.columns)
            (can if known else cannot).append(column)
        return tuple(can), tuple(cannot)
