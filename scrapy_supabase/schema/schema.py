"""The known facts of each table: columns, key, and what the server has refused. Shared by all chunks and threads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

import msgspec

from scrapy_supabase.backends.base import TableInfo, View
from scrapy_supabase.errors import SchemaDriftError
from scrapy_supabase.models import Mode, WriteOptions
from scrapy_supabase.schema.column_types import kind_of
from scrapy_supabase.schema.families import Families
from scrapy_supabase.schema.table_spec import TableSpec


class UnknownColumns(msgspec.Struct, frozen=True):
    """The policy for fields without a column: `drop` them, `reject` the row, or `collect` them in a jsonb `column`."""

    policy: str = "drop"
    column: str = ""

    def __str__(self) -> str:
        return self.column or self.policy


class Schema:
    """The tables of one crawl. Thread-safe. `version` grows with every new fact.

    Facts are kept until the end of the crawl, so that a refusal costs one request, not one per chunk. `role` is the
    database role of the key, for the SQL in messages.
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
        self.families = Families(specs.values())
        self.unstamped: set[str] = set()  # tables with `unseen` of which an item has a value in place of the stamp
        self.stored: set[str] = {*specs}  # the tables whose rows this run uploads, also those of earlier runs
        self._known: dict[str, TableInfo] = {}
        self._views: dict[str, View] = {}
        self._key_types: dict[str, Mapping[str, str]] = {}
        self._dropped: dict[str, set[str]] = {}
        self._generated: dict[str, dict[str, str]] = {}
        self._modes: dict[str, Mode] = {}
        self._references = {name: _parents(spec) for name, spec in specs.items() if _parents(spec)}
        self._fields: dict[str, frozenset[str]] = {}
        self._mentioned: set[tuple[str, str]] = set()
        self._creatable: dict[str, frozenset[str]] = {}
        self._item_classes: dict[str, tuple[type, ...]] = {}
        self._lock = threading.Lock()

    def with_table(self, spec: TableSpec) -> Schema:
        """Return a new schema of one table with another spec, and the server's description of it and its parents."""
        other = Schema({spec.name: spec}, unknown=self.unknown, role=self.role, database_schema=self.database_schema)
        other.insert_fallback, other.stored = self.insert_fallback, self.stored
        for table in (spec.name, *_parents(spec)):
            if (info := self._known.get(table)) is not None:
                other.learn(table, info)
            elif table in self._key_types:
                other.learn_key_types(table, self._key_types[table])
        return other

    def learn(self, table: str, info: TableInfo) -> None:
        """Record the server's description of a table."""
        with self._lock:
            self._known[table] = info
            self._generated.setdefault(table, {}).update(info.made)
            self.version += 1

    def learn_key_types(self, table: str, types: Mapping[str, str]) -> None:
        """Record the types of a table's key columns, if the server does not describe the table."""
        with self._lock:
            self._key_types[table] = types
            self.version += 1

    def key_types(self, table: str) -> Mapping[str, str]:
        """Return column → the type by which its values are compared, for columns whose type is known."""
        info = self._known.get(table)
        return {**info.columns, **info.key_types} if info else self._key_types.get(table, {})

    def info(self, table: str) -> TableInfo | None:
        """Return the server's description of `table`, or None."""
        return self._known.get(table)

    def learn_view(self, table: str, view: View) -> None:
        """Record that `table` is a view."""
        with self._lock:
            self._views[table] = view

    def view(self, table: str) -> View | None:
        """Return the description of `table` if it is known to be a view, else None."""
        return self._views.get(table)

    def mode(self, table: str) -> Mode:
        """Return the mode in force: that of the settings, or `Mode.INSERT` after a refused upsert."""
        return self._modes.get(table, self.specs[table].mode)

    def writing(self, table: str) -> WriteOptions:
        """Return the options of the settings for the write of a table's rows."""
        return self.specs[table].writing

    def is_plain(self, table: str) -> bool:
        """Return whether plain requests do all that the settings ask for a table."""
        spec = self.specs[table]
        writing = spec.writing
        return not (spec.mode is Mode.UPDATE or writing.keeps_versions or writing.if_changed)

    def may_fall_back(self, table: str) -> bool:
        """Return whether rows may be inserted if the table refuses upserts."""
        return self.insert_fallback and self.is_plain(table)

    def learn_fields(self, table: str, columns: Iterable[str]) -> None:
        """Record columns that the items of a table have: with `missing: null`, an item without one gets NULL."""
        known = self._fields.get(table, frozenset())
        if not known.issuperset(columns):
            with self._lock:
                self._fields[table] = self._fields.get(table, frozenset()).union(columns)

    def fields(self, table: str) -> frozenset[str]:
        """Return the columns that items of a table have had in this run."""
        return self._fields.get(table, frozenset())

    def fall_back(self, table: str) -> bool:
        """Use plain inserts for `table` from now on. Return True the first time."""
        with self._lock:
            first = self.mode(table) is not Mode.INSERT
            self._modes[table] = Mode.INSERT
            return first

    def key(self, table: str) -> tuple[str, ...]:
        """Return the columns that make a row unique: those of the settings, else the primary key; empty if unknown."""
        spec = self.specs[table]
        if spec.on_conflict:
            return spec.on_conflict
        info = self._known.get(table)
        return info.primary_key if info else ()

    def has_unknown_key(self, table: str) -> bool:
        """Return whether rows update each other by a key whose columns or values are unknown here."""
        spec = self.specs.get(table)
        if spec is None or self.mode(table) is Mode.INSERT:
            return False
        return self.generates_key(table) or not (self.key(table) or self._known.get(table))

    def may_mix(self, table: str) -> bool:
        """Return whether rows with different columns may share a request.

        PostgreSQL reads such a request as jsonb, which rewrites values of `json` columns.
        """
        info = self._known.get(table)
        return info is not None and not any(kind.removesuffix("[]") == "json" for kind in info.columns.values())

    def learn_reference(self, table: str, parent: str) -> None:
        """Record that rows of `table` refer to rows of `parent` (a foreign key), which must be stored first."""
        with self._lock:
            self._references[table] = self.references(table) | {parent}

    def references(self, table: str) -> frozenset[str]:
        """Return the tables that `table` is known to refer to."""
        return self._references.get(table, frozenset()) | self.families.parents(table)

    def let_create(self, table: str, columns: Iterable[str]) -> None:
        """Record that this run creates `columns` of a table, and any other for a field that has none.

        Only these if the settings have a rule for fields without a column (`SUPABASE_UNKNOWN_COLUMNS`).
        """
        self._creatable[table] = frozenset(columns)

    def creatable(self, table: str, columns: Iterable[str]) -> list[str]:
        """Return those of `columns`, which the table lacks, that this run creates before the first row with a value."""
        declared = self._creatable.get(table)
        if declared is None:
            return []
        info, dropped = self._known.get(table), self._dropped.get(table, ())
        lacking = [column for column in columns if column not in dropped and (not info or column not in info.columns)]
        is_free = info is None or self.policy(table) == "drop"
        return lacking if is_free else [column for column in lacking if column in declared]

    def creates(self, table: str) -> bool:
        """Return whether this run may create a table."""
        return table in self._creatable

    def learn_item_class(self, table: str, item_class: type) -> None:
        """Record a class of items for a table that this run may create: it may declare the types of the columns."""
        if table in self._creatable:
            self._item_classes[table] = (*self.item_classes(table), item_class)

    def item_classes(self, table: str) -> tuple[type, ...]:
        """Return the recorded classes of items for a table."""
        return self._item_classes.get(table, ())

    def drop(self, table: str, column: str) -> bool:
        """Leave `column` out of requests from now on. Return True the first time."""
        with self._lock:
            dropped = self._dropped.setdefault(table, set())
            if column in dropped:
                return False
            dropped.add(column)
            self.version += 1
            return True

    def learn_generated(self, table: str, error: SchemaDriftError) -> bool:
        """Record that the database generates the column that `error` names. Return True the first time."""
        info, column = self._known.get(table), error.column
        # If the answer has no details, decide by the type: an identity column is an integer.
        is_integer = info is not None and kind_of(info.columns.get(column, "")) == "integer"
        identity = "identity" in error.details if error.details else is_integer
        with self._lock:
            generated = self._generated.setdefault(table, {})
            if column in generated:
                return False
            generated[column] = "identity" if identity else "generated"
            self.version += 1
            return True

    def generated_columns(self, table: str) -> Mapping[str, str]:
        """Return column → kind ("generated" or "identity") of the columns that must not be sent."""
        return self._generated.get(table, {})

    def generates_key(self, table: str) -> bool:
        """Return whether a conflict column is generated, so that the rows' keys are unknown here."""
        return any(self.generated_columns(table).get(column) == "generated" for column in self.key(table))

    def policy(self, table: str) -> str:
        """Return the policy for fields without a column: "drop" if the whole item is stored anyway."""
        spec = self.specs.get(table)
        return "drop" if spec is not None and spec.json_column else self.unknown.policy

    def collector(self, table: str) -> str:
        """Return the jsonb column for the whole item, or for fields without a column; empty if there is none."""
        spec = self.specs.get(table)
        return (spec and spec.json_column) or self.unknown.column

    def first_mention(self, table: str, columns: Iterable[str]) -> list[str]:
        """Return those of `columns` that no warning has mentioned yet, and mark them as mentioned."""
        with self._lock:
            new = [column for column in columns if (table, column) not in self._mentioned]
            self._mentioned.update((table, column) for column in new)
            return new

    def split(self, table: str, columns: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Split `columns` into those that can be stored and those that the table is known to lack.

        Both are sorted. Columns that the database generates are in neither, and of those that the table lacks:
        fields that options have used, and fields that are stored in the JSON column for the whole item.
        """
        info, dropped, generated = self._known.get(table), self._dropped.get(table, ()), self.generated_columns(table)
        can: list[str] = []
        cannot: list[str] = []
        spec = self.specs.get(table)
        consumed = spec.consumed_by(self.policy(table)) if spec and (spec.references or spec.routed_by) else frozenset()
        explicit = spec.explicit_columns if spec is not None and (spec.json_column or consumed) else None
        for column in sorted(columns):
            if column in generated:
                continue
            known = column not in dropped and (info is None or column in info.columns)
            if explicit is not None and spec is not None and column not in explicit:
                in_json = bool(spec.json_column) and (info is None or not known)
                is_new = info is None and table in self._creatable
                if in_json or (column in consumed and (is_new or not known)):
                    continue
            (can if known else cannot).append(column)
        return tuple(can), tuple(cannot)


def _parents(spec: TableSpec) -> frozenset[str]:
    """Return the other tables whose ids the rows of a table get."""
    return frozenset(one.table for one in spec.writing.references) - {spec.name}
