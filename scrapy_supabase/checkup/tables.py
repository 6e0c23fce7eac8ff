"""One table: what the crawl's own check at open says of it, row-level security, and the columns that items need."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scrapy_supabase.backends.base import Backend, ServerFacts, TableInfo, Write
from scrapy_supabase.backends.catalog import KEEP_NEWEST
from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.checkup.finding import Finding, Level, error, ok, warning
from scrapy_supabase.checkup.policies import check_policies, check_upserts, upserts_refused
from scrapy_supabase.delivery.schema_check import SchemaCheck
from scrapy_supabase.delivery.table_writer import UPSERTS_REFUSED
from scrapy_supabase.errors import FatalError, SchemaDriftError, ServerError, TransientError
from scrapy_supabase.models import Mode, TableSpec
from scrapy_supabase.schema.column_types import Fit, fit, kind_of, sql_name
from scrapy_supabase.schema.item_fields import ItemField, columns_sent
from scrapy_supabase.schema.remedies import add_column_sql, identifier, qualified
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.settings.config import Config

_ABOVE_POLICIES = ("service_role", "postgres")


@dataclass(frozen=True, slots=True)
class ItemKind:
    """Items that go to a table: their class's name and, where it declares them, its fields."""

    name: str
    fields: tuple[ItemField, ...] | None


class _Said(logging.Handler):
    """Keeps what a crawl would log, as (what is wrong, what to do)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.logger = logging.Logger("check")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == UPSERTS_REFUSED and isinstance(record.args, tuple):  # which says what a crawl does now
            _, answer, remedy = record.args
            self.found.append((upserts_refused(str(answer)), str(remedy)))
            return
        # What to do stands last, and begins with "To …".
        text, *remedy = re.split(r" (?=To [a-z ]+, (?:run|set)\b)", record.getMessage(), maxsplit=1)
        self.found.append((text, "".join(remedy)))


class TableCheck:
    """Checks the tables of one `schema`, which is learnt by then. Stores nothing."""

    def __init__(
        self, config: Config, backend: Backend, schema: Schema, facts: ServerFacts, *, drop_is_meant: bool
    ) -> None:
        self._config = config
        self._role = facts.role or config.server.role
        self._passes_policies = self._role in _ABOVE_POLICIES if facts.bypasses is None else facts.bypasses
        self._backend = backend
        self._schema = schema
        self._drop_is_meant = drop_is_meant

    def findings(self, spec: TableSpec, kinds: Sequence[ItemKind]) -> Iterator[Finding]:
        """All there is to say of a table. Raises `TransientError` where the server does not answer."""
        subject = f"table {spec.name}"
        names = {name for kind in kinds for name in self._columns_of(spec, kind)}
        self._schema.first_mention(spec.name, names)  # said below, by class
        said = _Said()
        check = SchemaCheck(
            self._backend,
            self._schema,
            {spec.name: tuple(sorted(names))},
            attempts=1,
            delay=self._config.upload.delay,
            deadline=Deadline(),
            partly=[spec.name] if any(kind.fields is None for kind in kinds) else (),
            log=said.logger,
        )
        try:
            check.check(spec)
        except FatalError as failed:
            yield error(subject, failed.answer, failed.remedy)
            return
        fell_back = self._schema.mode(spec.name) is not spec.mode
        for text, remedy in said.found:
            level = Level.ERROR if fell_back else Level.WARNING
            yield Finding(level, subject, text.removeprefix(f"Table {spec.name} "), remedy)
        if not fell_back:
            yield ok(subject, f"there{self._size(spec.name)}, with the rights for {self._way(spec)}")
        yield from self._newest(spec, subject)
        yield from self._policies(spec, subject, names)
        for kind in kinds:
            yield from self._items(spec, subject, kind)
        yield from self._collecting(spec, subject)

    def _size(self, table: str) -> str:
        info = self._schema.info(table)
        return f" ({len(info.columns)} columns)" if info else ""

    def _way(self, spec: TableSpec) -> str:
        if spec.mode is Mode.INSERT:
            return "inserts"
        key = ", ".join(self._schema.key(spec.name))
        what = "upserts" if spec.mode is Mode.UPSERT else "inserts of new rows (ignore)"
        return f"{what} on ({key})" if key else what

    def _newest(self, spec: TableSpec, subject: str) -> Iterator[Finding]:
        """Whether the database keeps the newest row, where the server tells and it matters."""
        info = self._schema.info(spec.name)
        if info is None or info.newest is None or self._schema.mode(spec.name) is not Mode.UPSERT:
            return
        if info.newest:
            yield ok(subject, f"the trigger {KEEP_NEWEST} keeps stored rows whose {info.newest!r} is newer")
        else:
            yield ok(subject, f"no trigger {KEEP_NEWEST} (ddl --newest): the row that arrives last is stored")

    def _policies(self, spec: TableSpec, subject: str, names: set[str]) -> Iterator[Finding]:
        info = self._schema.info(spec.name)
        if self._passes_policies:
            yield ok(subject, f"row-level security is passed by {self._role}")
            is_told = info is not None and info.newest is not None  # by a database
            if spec.on_conflict and not is_told and self._schema.mode(spec.name) is not Mode.INSERT:
                yield from check_upserts(self._backend, self._schema, spec, spec.on_conflict[0])
            return
        known = names or {*self._schema.key(spec.name), *(info.columns if info else ())}
        columns, _ = self._schema.split(spec.name, known)
        yield from check_policies(self._backend, self._schema, spec, self._role, next(iter(columns), None))

    def _columns_of(self, spec: TableSpec, kind: ItemKind) -> dict[str, ItemField]:
        """Column → what is sent to it, as far as it is known before there is an item."""
        declared = kind.fields if kind.fields is not None else [ItemField(name) for name in spec.columns]
        return columns_sent(spec, declared)

    def _items(self, spec: TableSpec, subject: str, kind: ItemKind) -> Iterator[Finding]:
        sent = self._columns_of(spec, kind)
        _, unknown = self._schema.split(spec.name, sent)
        problems = list(self._unknown(spec, subject, kind, sent, unknown))
        info = self._schema.info(spec.name)
        if info is not None:
            problems += self._types(spec, subject, kind, sent, info)
            if kind.fields is not None:
                problems += self._lacking(spec, subject, kind, sent, info)
        yield from problems
        if kind.fields is not None and not problems:
            looked_at = "names and types" if info is not None else "names (this key may not read types)"
            yield ok(subject, f"items of {kind.name} fit: {looked_at} of {len(sent)} columns")

    def _made_by_the_database(self, spec: TableSpec, subject: str, kind: ItemKind, column: str) -> Finding:
        """A generated or identity column: what the items have for it is not stored."""
        text = f"column {column!r} is made by the database: what {kind.name} has for it is not stored"
        is_key = column in self._schema.key(spec.name) and not self._schema.generates_key(spec.name)
        if not is_key or self._schema.mode(spec.name) is Mode.INSERT:
            return warning(subject, text, "Take the field away, or make the column an ordinary one.")
        return error(
            subject,
            f"{text}, and as it is the key, rows sent twice are stored twice",
            "Set SUPABASE_ON_CONFLICT to columns that make a row unique, or make the column an ordinary one.",
        )

    def _unknown(
        self, spec: TableSpec, subject: str, kind: ItemKind, sent: Mapping[str, ItemField], unknown: Sequence[str]
    ) -> Iterator[Finding]:
        for column in sorted(self._schema.generated_columns(spec.name).keys() & sent):
            yield self._made_by_the_database(spec, subject, kind, column)
        for column in unknown:
            policy = self._schema.unknown.policy
            what = {"drop": "the field is left out", "reject": "rows with the field are rejected"}.get(policy)
            text = f"no column {column!r}, which {kind.name} has"
            if what is None:
                yield ok(subject, f"{text}: it goes into {self._schema.unknown.column!r}")
                continue
            level = Level.WARNING if policy == "drop" and self._drop_is_meant else Level.ERROR
            sql_type = sent[column].sql_type or "text"
            remedy = f"Run: {add_column_sql(self._schema, spec.name, {column: sql_type})}"
            yield Finding(level, subject, f"{text}: {what} (SUPABASE_UNKNOWN_COLUMNS)", remedy)

    def _types(
        self, spec: TableSpec, subject: str, kind: ItemKind, sent: dict[str, ItemField], info: TableInfo
    ) -> Iterator[Finding]:
        for column, one in sent.items():
            has = info.columns.get(column, "")
            fits = fit(one.sql_type, has)
            if fits is Fit.GOOD:
                continue
            text = f"column {column!r} is {sql_name(has)}, and {kind.name} has {one.sql_type}"
            change = f"ALTER COLUMN {identifier(column)} TYPE {one.sql_type} USING {_cast(column, has, one.sql_type)}"
            remedy = f"If the field is right, run: ALTER TABLE {qualified(self._schema, spec.name)} {change};"
            if fits is Fit.NEVER:
                yield error(subject, f"{text}: rows are rejected", remedy)
            else:
                no_such = f"rows whose value is no {sql_name(has)} are rejected"
                lost = "part of each value is cut off" if kind_of(one.sql_type) == "timestamptz" else no_such
                yield warning(subject, f"{text}: {lost}", remedy)

    def _lacking(
        self, spec: TableSpec, subject: str, kind: ItemKind, sent: dict[str, ItemField], info: TableInfo
    ) -> Iterator[Finding]:
        """Columns that must have a value and get none."""
        for column in sorted((info.required | info.perhaps_required) - set(sent)):
            if column in self._schema.generated_columns(spec.name) or self._is_made_by_the_database(spec.name, column):
                continue
            text = f"column {column!r} ({sql_name(info.columns[column])}) must have a value, and {kind.name} has none"
            add = "Add the field" if column in info.required else "If it makes none, add the field"
            if column in info.primary_key:
                remedy = f"{add}, or give the column a default."
            else:
                table = qualified(self._schema, spec.name)
                remedy = f"{add}, or run: ALTER TABLE {table} ALTER COLUMN {identifier(column)} DROP NOT NULL;"
            if column in info.required:
                yield error(subject, f"{text}: rows are rejected", remedy)
            else:
                unless = "rows are rejected unless the database makes one (identity, serial), which it does not tell"
                yield warning(subject, f"{text}: {unless}", remedy)

    def _is_made_by_the_database(self, table: str, column: str) -> bool:
        """Whether a column that shows no default is an identity or generated one: it may not be sent."""
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
        info, unknown = self._schema.info(spec.name), self._schema.unknown
        if unknown.policy != "collect" or info is None:
            return
        has = info.columns[unknown.column]
        if kind_of(has) != "json":
            yield error(
                subject,
                f"column {unknown.column!r} is {sql_name(has)}: it cannot take fields without a column",
                "Set SUPABASE_UNKNOWN_COLUMNS to drop, reject or the name of a jsonb column.",
            )


def _cast(column: str, has: str, wanted: str) -> str:
    """The SQL of a column's values as another type. Every type can be cast to text, and text to every type."""
    name = identifier(column)
    if kind_of(wanted) == "json":
        return f"to_jsonb({name})"
    if wanted.endswith("[]") and not has.endswith("[]"):
        return f"ARRAY[{name}]::{wanted}"
    return f"{name}::text" if wanted == "text" else f"{name}::text::{wanted}"
