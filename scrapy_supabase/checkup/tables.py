"""Checks of one table: the check that a crawl makes at open, row-level security, and the columns that items need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scrapy_supabase.backends.base import Backend, ServerFacts, TableInfo, Write
from scrapy_supabase.backends.catalog import KEEP_NEWEST
from scrapy_supabase.backends.merge_sql import FUNCTION, VERSION
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.checkup.fields import check_fields
from scrapy_supabase.checkup.finding import Finding, Level, error, ok, warning
from scrapy_supabase.checkup.policies import check_policies, check_upserts
from scrapy_supabase.checkup.recorder import Recorder
from scrapy_supabase.checkup.repeats import check_repeats
from scrapy_supabase.delivery.schema_check import SchemaCheck
from scrapy_supabase.errors import FatalError, SchemaDriftError, ServerError, TransientError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Mode
from scrapy_supabase.schema.column_types import Fit, fit, kind_of, sql_name
from scrapy_supabase.schema.declared import DeclaredItems
from scrapy_supabase.schema.item_fields import ItemField, columns_sent
from scrapy_supabase.schema.remedies import BYPASS_POLICIES, add_column_sql, identifier, qualified
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import EmptyText, TableSpec
from scrapy_supabase.settings.config import Config


@dataclass(frozen=True, slots=True)
class ItemKind:
    """Kind of items that go to a table: name of the class, its fields if it declares them, and the options for it."""

    name: str
    fields: tuple[ItemField, ...] | None
    spec: TableSpec


class TableCheck:
    """Check of the tables of a `schema` that has been read from the server. Stores nothing."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        schema: Schema,
        facts: ServerFacts,
        declared: DeclaredItems,
        policy: OpenPolicy,
        *,
        drop_is_explicit: bool,
    ) -> None:
        self._config = config
        self._role = facts.role or config.server.role
        self._bypasses_policies = self._role in BYPASS_POLICIES if facts.bypasses is None else facts.bypasses
        self._backend = backend
        self._schema = schema
        self._declared = declared
        self._policy = policy
        self._drop_is_explicit = drop_is_explicit

    def findings(self, spec: TableSpec, kinds: Sequence[ItemKind]) -> Iterator[Finding]:
        """Yield all findings about a table. Raises `TransientError` if the server does not answer."""
        subject = f"table {spec.name}"
        names = {name for kind in kinds for name in self._columns_of(spec, kind)}
        self._schema.first_mention(spec.name, names)  # reported below, by class
        recorder = Recorder()
        check = SchemaCheck(
            self._backend,
            self._schema,
            {spec.name: tuple(sorted(names))},
            policy=self._policy,
            partly=[spec.name] if any(kind.fields is None for kind in kinds) else (),
            declared=self._declared,
            log=recorder.logger,
        )
        try:
            check.check(spec)
        except FatalError as failed:
            yield error(subject, failed.answer, failed.remedy)
            return
        fell_back = self._schema.mode(spec.name) is not spec.mode
        for text, remedy in recorder.problems:
            level = Level.ERROR if fell_back else Level.WARNING
            yield Finding(level, subject, text.removeprefix(f"Table {spec.name} "), remedy)
        if not fell_back:
            yield ok(subject, f"exists{self._size(spec.name)}; {self._role} has the grants to {self._writes(spec)}")
            sent = [None if kind.fields is None else self._columns_of(spec, kind) for kind in kinds]
            yield from check_repeats(self._backend, self._schema, spec, sent)
        if not self._schema.is_plain(spec.name) and not self._config.server.db_url:
            there = f"the function {FUNCTION} (version {VERSION}) does what its options need"
            without = f"without the function {FUNCTION}, insert_only takes two requests per chunk"
            yield ok(subject, there if self._backend.merges() else without)
        yield from self._newest(spec, subject)
        yield from self._policies(spec, subject, names)
        for kind in kinds:
            yield from self._items(spec, subject, kind)
        yield from self._options(spec, subject, kinds)
        yield from self._collecting(spec, subject)

    def _size(self, table: str) -> str:
        info = self._schema.info(table)
        return f" ({pluralize(len(info.columns), 'column')})" if info else ""

    def _writes(self, spec: TableSpec) -> str:
        if spec.mode is Mode.INSERT:
            return "insert"
        key = ", ".join(self._schema.key(spec.name))
        writes = {Mode.UPSERT: "upsert", Mode.UPDATE: "update"}.get(spec.mode, "insert new rows (ignore)")
        return f"{writes} on ({key})" if key else writes

    def _newest(self, spec: TableSpec, subject: str) -> Iterator[Finding]:
        """Report whether a trigger keeps the newest row, if the backend knows triggers and rows are upserted."""
        info = self._schema.info(spec.name)
        if info is None or info.newest is None or not self._schema.mode(spec.name).updates:
            return
        if info.newest:
            yield ok(subject, f"the trigger {KEEP_NEWEST} keeps stored rows whose {info.newest!r} is newer")
        else:
            yield ok(subject, f"no trigger {KEEP_NEWEST} (ddl --newest): the row that arrives last is stored")

    def _policies(self, spec: TableSpec, subject: str, names: set[str]) -> Iterator[Finding]:
        info = self._schema.info(spec.name)
        if self._bypasses_policies:
            yield ok(subject, f"row-level security does not apply to {self._role}")
            knows_constraints = info is not None and info.newest is not None  # over a database connection
            if spec.on_conflict and not knows_constraints and self._schema.mode(spec.name) is not Mode.INSERT:
                yield from check_upserts(self._backend, self._schema, spec, spec.on_conflict[0])
            return
        known = names or {*self._schema.key(spec.name), *(info.columns if info else ())}
        columns, _ = self._schema.split(spec.name, known)
        yield from check_policies(self._backend, self._schema, spec, self._role, next(iter(columns), None))

    def _columns_of(self, spec: TableSpec, kind: ItemKind) -> dict[str, ItemField]:
        """Return column → field for the columns that are known to be sent before an item exists."""
        declared = kind.fields if kind.fields is not None else [ItemField(name) for name in kind.spec.columns]
        sent = columns_sent(kind.spec, declared)
        can, cannot = self._schema.split(spec.name, sent)  # not: fields that are stored in the JSON column only
        known = {*can, *cannot, *self._schema.generated_columns(spec.name)} - {
            *self._schema.creatable(spec.name, cannot)
        }
        return {column: one for column, one in sent.items() if column in known}

    def _items(self, spec: TableSpec, subject: str, kind: ItemKind) -> Iterator[Finding]:
        sent = self._columns_of(spec, kind)
        _, unknown = self._schema.split(spec.name, sent)
        problems = list(self._unknown(spec, subject, kind, sent, unknown))
        info = self._schema.info(spec.name)
        if info is not None:
            problems += self._types(spec, subject, kind, sent, info)
            if kind.fields is not None:
                problems += self._missing(spec, subject, kind, sent, info)
        yield from problems
        if kind.fields is not None and not problems:
            columns = pluralize(len(sent), "column")
            checked = f"names and types of {columns}" if info else f"names of {columns}; this key may not read types"
            yield ok(subject, f"items of {kind.name} match the table ({checked})")

    def _generated(self, spec: TableSpec, subject: str, kind: ItemKind, column: str) -> Finding:
        """Return the finding for a generated or identity column, for which values of items are not stored."""
        text = f"column {column!r} is generated by the database: its value in items of {kind.name} is not stored"
        is_key = column in self._schema.key(spec.name) and not self._schema.generates_key(spec.name)
        if not is_key or self._schema.mode(spec.name) is Mode.INSERT:
            return warning(subject, text, "Remove the field, or make the column an ordinary one.")
        return error(
            subject,
            f"{text}. The column is the key, so rows sent twice are stored twice",
            "Set SUPABASE_ON_CONFLICT to columns that make a row unique, or make the column an ordinary one.",
        )

    def _unknown(
        self, spec: TableSpec, subject: str, kind: ItemKind, sent: Mapping[str, ItemField], unknown: Sequence[str]
    ) -> Iterator[Finding]:
        for column in sorted(self._schema.generated_columns(spec.name).keys() & sent):
            yield self._generated(spec, subject, kind, column)
        for column in unknown:
            policy = self._schema.policy(spec.name)
            effect = {"drop": "the field is dropped", "reject": "rows with the field are rejected"}.get(policy)
            text = f"no column {column!r} for items of {kind.name}"
            if effect is None:
                yield ok(subject, f"{text}: the field is stored in {self._schema.unknown.column!r}")
                continue
            level = Level.WARNING if policy == "drop" and self._drop_is_explicit else Level.ERROR
            sql_type = sent[column].sql_type or "text"
            remedy = f"Run: {add_column_sql(self._schema, spec.name, {column: sql_type})}"
            yield Finding(level, subject, f"{text}: {effect} (SUPABASE_UNKNOWN_COLUMNS)", remedy)

    def _types(
        self, spec: TableSpec, subject: str, kind: ItemKind, sent: dict[str, ItemField], info: TableInfo
    ) -> Iterator[Finding]:
        for column, one in sent.items():
            has = info.columns.get(column, "")
            fits = fit(one.sql_type, has)
            if fits is Fit.GOOD:
                continue
            text = f"column {column!r} is {sql_name(has)}, but items of {kind.name} have {one.sql_type}"
            change = f"ALTER COLUMN {identifier(column)} TYPE {one.sql_type} USING {_cast(column, has, one.sql_type)}"
            remedy = f"If the field is right, run: ALTER TABLE {qualified(self._schema, spec.name)} {change};"
            if fits is Fit.NEVER:
                yield error(subject, f"{text}: rows are rejected", remedy)
            else:
                rejected = f"rows whose value is not a valid {sql_name(has)} are rejected"
                effect = "part of each value is lost" if kind_of(one.sql_type) == "timestamptz" else rejected
                yield warning(subject, f"{text}: {effect}", remedy)

    def _missing(
        self, spec: TableSpec, subject: str, kind: ItemKind, sent: dict[str, ItemField], info: TableInfo
    ) -> Iterator[Finding]:
        """Yield findings for columns that require a value and get none."""
        for column in sorted((info.required | info.perhaps_required) - set(sent)):
            if column in self._schema.generated_columns(spec.name) or self._is_generated(spec.name, column):
                continue
            sql_type = sql_name(info.columns[column])
            text = f"column {column!r} ({sql_type}) requires a value, but items of {kind.name} have none"
            add = "Add the field" if column in info.required else "If it does not, add the field"
            if column in info.primary_key:
                remedy = f"{add}, or give the column a default."
            else:
                table = qualified(self._schema, spec.name)
                remedy = f"{add}, or run: ALTER TABLE {table} ALTER COLUMN {identifier(column)} DROP NOT NULL;"
            if column in info.required:
                yield error(subject, f"{text}: rows are rejected", remedy)
            else:
                effect = (
                    "rows are rejected unless the database generates one (identity, serial), which it does not show"
                )
                yield warning(subject, f"{text}: {effect}", remedy)

    def _is_generated(self, table: str, column: str) -> bool:
        """Return whether a column without a visible default is an identity or generated one, which refuses values."""
        try:
            self._backend.write(Write(table, (column,), b"[]", Mode.INSERT))
        except SchemaDriftError:
            return True
        except TransientError:
            raise
        except ServerError:
            return False
        return False

    def _collecting(self, spec: TableSpec, subject: str) -> Iterator[Finding]:
        info, collector = self._schema.info(spec.name), self._schema.collector(spec.name)
        if not collector or info is None:
            return
        has = info.columns[collector]
        if kind_of(has) == "json":
            return
        if spec.json_column:
            text, remedy = "it cannot store whole items", "Set json_column to the name of a jsonb column."
        else:
            text = "it cannot store fields that have no column"
            remedy = "Set SUPABASE_UNKNOWN_COLUMNS to drop, reject or the name of a jsonb column."
        yield error(subject, f"column {collector!r} is {sql_name(has)}: {text}", remedy)

    def _options(self, spec: TableSpec, subject: str, kinds: Sequence[ItemKind]) -> Iterator[Finding]:
        """Report options that name fields which no item has, and one that this key cannot use."""
        for kind in kinds:
            if kind.fields is not None:
                yield from check_fields(subject, kind.spec, kind.name, {one.name for one in kind.fields})
        if spec.empty_text is EmptyText.NULL and self._schema.info(spec.name) is None:
            text = "empty_text is 'null', but this key may not read the types of the columns: blank texts are kept"
            yield warning(subject, text, "Use the secret key, or set empty_text to null_everywhere.")


def _cast(column: str, has: str, wanted: str) -> str:
    """Return SQL that casts a column to another type, by way of text: every type can be cast to text and from it."""
    name = identifier(column)
    if kind_of(wanted) == "json":
        return f"to_jsonb({name})"
    if wanted.endswith("[]") and not has.endswith("[]"):
        return f"ARRAY[{name}]::{wanted}"
    return f"{name}::text" if wanted == "text" else f"{name}::text::{wanted}"
