"""The check of the tables when a run opens: does each accept the rows to come? It writes nothing and runs once.

If the key may read it, the OpenAPI document lists all columns in one request. A probe without rows (an upload of `[]`)
works with any key. A problem that makes every upload fail is raised before the first page.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from scrapy_supabase.backends.base import Backend, TableInfo, Write
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.delivery.options_check import bad_key, check_options, check_table, probe_of
from scrapy_supabase.delivery.parents_check import ParentsCheck, no_column
from scrapy_supabase.delivery.snapshot_check import check_snapshots
from scrapy_supabase.delivery.table_writer import UPSERTS_REFUSED
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    SchemaDriftError,
    ServerError,
    TooLargeError,
    TransientError,
    UpsertRefusedError,
    fatal,
)
from scrapy_supabase.models import Mode
from scrapy_supabase.schema.declared import DeclaredItems
from scrapy_supabase.schema.remedies import (
    GENERATED_COLUMN,
    deferrable_constraint,
    for_denied,
    for_upserts,
    lacks,
    no_collector,
    unknown_columns,
)
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

if TYPE_CHECKING:
    from scrapy_supabase.delivery.table_creator import TableCreator

logger = logging.getLogger(__name__)

_LOCKED = "A request without rows took too long: a migration or another long transaction may hold a lock on the table."


@contextmanager
def _locks_are_passing() -> Iterator[None]:
    """Turn `TooLargeError` into `TransientError`: a request without rows takes long because of a lock, not its size."""
    try:
        yield
    except TooLargeError as error:
        locked = TransientError(error.message, code=error.code, status=error.status, hint=_LOCKED)
        locked.busy, locked.remedy = True, "Start the run again when that has ended."
        raise locked from error


class SchemaCheck:
    """Checks the tables of `schema` against a backend, and adds what it finds to `schema`.

    `fields` maps a table to the known columns of its items; items for the tables in `partly` may have more. `declared`
    is what messages need of the item classes. `policy` makes the requests. Warnings go to `log`.
    """

    def __init__(
        self,
        backend: Backend,
        schema: Schema,
        fields: Mapping[str, Iterable[str]],
        *,
        policy: OpenPolicy,
        partly: Collection[str] = (),
        declared: DeclaredItems | None = None,
        log: logging.Logger = logger,
    ) -> None:
        self._backend = backend
        self._schema = schema
        self._fields = fields
        self._partly = partly
        self._declared = declared or DeclaredItems({})
        self._wait = policy.wait_for_schema
        self._ends_run = policy.unavailable_is_fatal
        self._logger = log
        self._reread_done = False
        self._creator: TableCreator | None = None
        self._policy = partial(policy.run, "Checking the tables")
        self._parents = ParentsCheck(backend, schema, policy, log)

    def run(self, creator: TableCreator | None = None) -> None:
        """Let `creator` create what is missing, then check all tables. Raises `FatalError` if no upload can succeed."""
        self._creator = creator
        with self._ends_run():
            self.learn()
            if creator is not None:
                creator.prepare(self.check)
            for spec in self._schema.specs.values():
                if creator is None or not creator.is_pending(spec.name):
                    self.check(spec)
                else:
                    self._parents.check(spec)

    def learn(self) -> None:
        """Add the columns of all tables that the server describes to the schema. Raises `ServerError`.

        Tables that this run does not use are included: an earlier run may have left rows for them.
        """
        for table, info in (self._policy(self._describe) or {}).items():
            self._schema.learn(table, info)

    def check(self, spec: TableSpec) -> None:
        """Check one table. Raises `FatalError`, or `TransientError` if the server is unreachable."""
        table, schema = spec.name, self._schema
        known = schema.info(table)
        if known:
            missing = [column for column in spec.on_conflict if column not in known.columns]
            if missing:
                error = ServerError(lacks(table, missing[:1]), code="PGRST204")
                raise bad_key(spec, schema, missing[0], error)
            collector = schema.collector(table)
            if collector and collector not in known.columns:
                error = ServerError(lacks(table, [collector]), code="PGRST204")
                raise fatal(error, "supabase_schema", no_collector(schema, table))
        later = schema.creatable(table, self._fields.get(table, ()))  # created before the first row with a value
        fields = tuple(column for column in self._fields.get(table, ()) if column not in later)
        _, unknown = schema.split(table, fields)
        if unknown and known:
            self._reread_columns(table, unknown)
            known = schema.info(table)
        check_options(spec, schema, self._backend, self._policy)
        self._parents.check(spec)
        if spec.writing.fills:
            schema.learn_fields(table, fields)
        self._probe(spec, fields)
        check_table(spec, schema, self._backend, self._policy)
        self._check_generated(spec, fields)
        self._check_deferrable(spec)
        if not known and schema.mode(table) is not Mode.INSERT:
            ask = self._backend.type_of
            schema.learn_key_types(table, {column: self._policy(ask, table, column) for column in schema.key(table)})
        if spec.snapshots:
            check_snapshots(spec, schema)
        _, unknown = schema.split(table, fields)
        if unknown and known:
            self._warn_unknown_columns(table, tuple(column for column in unknown if column not in known.columns))
        self._warn_missing_key(spec, fields)

    def _probe(self, spec: TableSpec, fields: Collection[str]) -> None:
        """Send requests without rows but with all known columns, until one succeeds. Raises `FatalError`."""
        table, schema = spec.name, self._schema
        collector = {schema.collector(table)} - {""}
        waited = False
        while True:
            columns, _ = schema.split(table, {*schema.key(table), *fields, *collector})
            mode = schema.mode(table)
            try:
                self._policy(self._send, probe_of(spec, schema, columns))
            except UpsertRefusedError as error:
                if (view := self._policy(self._backend.view, table)) is not None:
                    schema.learn_view(table, view)
                self._fall_back(spec, error, "supabase_no_unique_index", for_upserts(schema, table, error))
            except (SchemaDriftError, FatalError) as error:
                if error.stale_schema and not waited:
                    waited = True  # a new table or column may be missing in the server's schema cache
                    self._wait()
                elif isinstance(error, SchemaDriftError):
                    self._leave_out(spec, columns, error)
                elif error.reason == "supabase_permission_denied":
                    remedy = for_denied(schema, table, error)
                    if mode is Mode.INSERT or not self._may_insert(table, columns):
                        raise fatal(error, error.reason, remedy) from error
                    self._fall_back(spec, error, error.reason, remedy)
                elif error.reason == "supabase_no_table":
                    remedy = self._creator.remedy(table) if self._creator else ""
                    remedy = remedy or self._declared.for_missing_table(schema, table)
                    raise fatal(error, error.reason, remedy) from error
                else:
                    raise
            else:
                return

    def _leave_out(self, spec: TableSpec, sent: tuple[str, ...], error: SchemaDriftError) -> None:
        """Stop sending the column that `error` names. Raises `FatalError` if it must be sent."""
        table, column, schema = spec.name, error.column, self._schema
        if column not in sent or (column in schema.key(table) and not error.is_generated):
            raise bad_key(spec, schema, column, error) from error
        if column == schema.collector(table):
            raise fatal(error, "supabase_schema", no_collector(schema, table)) from error
        if column in spec.references and not error.is_generated:
            raise no_column(spec, schema, column) from error
        if error.is_generated:
            schema.learn_generated(table, error)  # `_check_generated` logs it
        elif schema.drop(table, column) and (column not in spec.consumed_fields or column in spec.explicit_columns):
            self._warn_unknown_columns(table, (column,))

    def _check_generated(self, spec: TableSpec, fields: Collection[str]) -> None:
        """Log the fields that are not sent because the database generates their columns.

        Raises `FatalError` for an identity column as conflict column: it has another value for each row.
        """
        table, generated = spec.name, self._schema.generated_columns(spec.name)
        identity = next((column for column in spec.on_conflict if generated.get(column) == "identity"), None)
        if identity is not None and self._schema.mode(table) is not Mode.INSERT:
            text = f"identity column {identity!r} of table {table} gets a new value for each row"
            error = ServerError(text, code="428C9")
            remedy = "SUPABASE_ON_CONFLICT must name columns that the items have, or that are generated from them."
            raise fatal(error, "supabase_schema", remedy)
        for column in self._schema.first_mention(table, generated.keys() & fields):
            self._logger.warning(GENERATED_COLUMN, table, column)

    def _check_deferrable(self, spec: TableSpec) -> None:
        """Fall back to inserts if the conflict columns have a deferrable constraint.

        The probe without rows does not find it (measured), so the constraints that the server lists are searched.
        """
        if self._schema.mode(spec.name) is Mode.INSERT or not deferrable_constraint(self._schema, spec.name):
            return
        error = UpsertRefusedError("the unique constraint on its conflict columns is deferrable.", code="55000")
        remedy = for_upserts(self._schema, spec.name, error)
        self._fall_back(spec, error, "supabase_no_unique_index", remedy)

    def _reread_columns(self, table: str, unknown: tuple[str, ...]) -> None:
        """Read the columns again, once after a wait: new ones may be missing in the server's schema cache."""
        try:
            self._policy(self._send, Write(table, unknown, b"[]", Mode.INSERT))
        except TransientError:
            raise
        except ServerError as error:
            if not error.stale_schema or self._reread_done:
                return
            self._reread_done = True
            self._wait()
        self.learn()

    def _send(self, write: Write) -> None:
        """Send a request without rows. A refusal of rows passes: a statement-level trigger may raise one."""
        with suppress(BadRowsError), _locks_are_passing():
            self._backend.write(write)

    def _describe(self) -> Mapping[str, TableInfo] | None:
        with _locks_are_passing():
            return self._backend.describe()

    def _fall_back(self, spec: TableSpec, error: ServerError, reason: str, remedy: str) -> None:
        if not self._schema.may_fall_back(spec.name) or self._schema.mode(spec.name) is Mode.INSERT:
            raise fatal(error, reason, remedy) from error
        self._schema.fall_back(spec.name)
        self._logger.warning(UPSERTS_REFUSED, spec.name, error.answer, remedy)

    def _may_insert(self, table: str, columns: tuple[str, ...]) -> bool:
        try:
            self._policy(self._send, Write(table, columns, b"[]", Mode.INSERT))
        except TransientError:
            raise
        except ServerError:
            return False
        return True

    def _warn_unknown_columns(self, table: str, unknown: tuple[str, ...]) -> None:
        new = self._schema.first_mention(table, unknown)
        if new:
            declared = self._declared.types(table)
            types = {column: declared.get(column) or "text" for column in new}
            self._logger.warning("%s", unknown_columns(self._schema, table, types))

    def _is_sent(self, table: str, key: tuple[str, ...], fields: Collection[str]) -> bool:
        """Return whether rows with these fields have a value for each column of the key."""
        generated = self._schema.generated_columns(table)
        return all(generated[column] == "generated" if column in generated else column in fields for column in key)

    def _warn_missing_key(self, spec: TableSpec, fields: tuple[str, ...]) -> None:
        """Warn if rows have no value for the key: an upsert is then silently a plain insert (measured)."""
        if self._schema.mode(spec.name) is Mode.INSERT:
            return
        key = self._schema.key(spec.name)
        if not key and self._schema.info(spec.name):
            problem = "has no primary key:"
        elif not key:
            problem = "has no primary key that SUPABASE_KEY may read: if items lack the key's columns,"
        elif fields and spec.name not in self._partly and not self._is_sent(spec.name, key, fields):
            problem = f"gets no value for its key ({', '.join(key)}) from the items:"
        else:
            return
        self._logger.warning(
            "Table %s %s every row is inserted, and a row sent twice is stored twice. To prevent that, set "
            "SUPABASE_ON_CONFLICT to columns that make a row unique, with a unique index on them. To accept it, set "
            'SUPABASE_MODE = "insert".',
            spec.name,
            problem,
        )
