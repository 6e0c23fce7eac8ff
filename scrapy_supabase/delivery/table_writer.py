"""The write of rows in the form that a table accepts: without columns that it lacks, by insert if it refuses upserts.

Facts learned about a table are kept in the `Schema`, so that they cost a request once, and not once per chunk.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from scrapy_supabase.backends.base import Merge, Write
from scrapy_supabase.backends.merge_sql import FUNCTION, VERSION
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.parents import ParentResolver
from scrapy_supabase.delivery.upload_state import ParentIds, UploadState, body_of, collected
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    SchemaDriftError,
    ServerError,
    TransientError,
    UnknownError,
    UpsertRefusedError,
    fatal,
    is_policy_violation,
    retyped,
)
from scrapy_supabase.models import Chunk, Mode, Row, RowCounts
from scrapy_supabase.schema.remedies import (
    GENERATED_COLUMN,
    for_denied,
    for_upserts,
    lacks,
    no_collector,
    policy_sql,
    unknown_columns,
    update_needs_key,
)
from scrapy_supabase.schema.schema import Schema

logger = logging.getLogger(__name__)

UPSERTS_REFUSED = (
    "Table %s refuses upserts: %s From now on its rows are inserted: rows that exist already are rejected, or stored "
    "twice if no unique index forbids it. %s"
)

NEEDS_FUNCTION = "To create it, run the SQL that this command prints: scrapy supabase ddl --function"
_MISSED = "neither inserted nor updated: a trigger or a row-level security policy of the table skips the row."
# Codes about the table, never about rows: an unknown column, and a deferrable constraint, which only a request with
# rows reveals.
_OF_THE_TABLE = ("PGRST204", "55000")


class RefusedRowsError(Exception):
    """Raised to reject all rows of a slice for one reason, without sending any."""

    def __init__(self, error: ServerError) -> None:
        self.error = error


def no_function(table: str) -> FatalError:
    """Return the error for a table whose options need the function."""
    problem = f"the options of table {table} need the function {FUNCTION} in version {VERSION}."
    return fatal(ServerError(problem, code="PGRST202"), "supabase_no_function", NEEDS_FUNCTION)


class TableWriter:
    """Writes rows of one table in one request. Thread-safe; shared by all upload threads."""

    def __init__(self, sender: Sender, schema: Schema, parents: ParentResolver) -> None:
        self._sender = sender
        self._schema = schema
        self._parents = parents
        self._merges: bool | None = None

    def merges(self) -> bool:
        """Return whether the backend can do more than a plain upsert. Asks it once, and blocks then.

        Raises `TransientError`.
        """
        if self._merges is None:
            try:
                self._merges = self._sender.backend.merges()
            except TransientError:
                raise
            except ServerError:
                self._merges = False
        return self._merges

    def store(
        self,
        state: UploadState[Any],
        rows: tuple[Row, ...],
        sent: tuple[Write, Callable[[], object]] | None = None,
        *,
        once: bool = False,
        mode: Mode | None = None,
    ) -> RowCounts | None:
        """Store the rows in one request, and adapt the request to the table until it accepts it.

        If a request has been sent already, `sent` is that write and a function that waits for its answer. With `once`,
        a failed request is not retried. `mode` replaces that of the settings. Returns the counts of a write with
        `merge`. Raises `RefusedRowsError`, or the `ServerError` to handle.
        """
        again = len(rows) == 1  # a single row that was missed is sent once more
        while True:
            wait_for_answer: Callable[[], object] | None = None
            if sent is not None:
                (write, wait_for_answer), sent = sent, None
            else:
                write, rows = self.write_of(state.chunk, rows, state.ids)
                write = msgspec.structs.replace(write, mode=mode) if mode else write
            try:
                found = self._sender.send(state, rows, write, wait_for_answer, once=once)
            except BadRowsError as error:
                if not self._is_stored_by_insert(state, rows, write, error):
                    raise
                return None
            except (SchemaDriftError, UpsertRefusedError, FatalError) as error:
                self.learn(state, rows, write, error)
                continue
            if found is None or not found.missed:
                return found.counts if found else None
            if not again:
                if len(rows) > 1:
                    raise BadRowsError(_MISSED, code="21000")  # so that each half is sent, in order
                raise BadRowsError(_MISSED, code="not_stored")
            again = False

    def learn(self, state: UploadState[Any], rows: tuple[Row, ...], write: Write, error: ServerError) -> None:
        """Adapt the schema to a refusal, so that the next request differs.

        Raises `BadRowsError` if the rows are at fault, and `FatalError` if no request can succeed. A refusal because of
        the table also refuses a request without rows; a trigger may raise any code for a single row.
        """
        if error.code in state.passed_without_rows:
            raise self._about_rows(state, error)
        if error.code not in _OF_THE_TABLE or not isinstance(error, SchemaDriftError | UpsertRefusedError):
            refusal = self._sender.refusal_without_rows(state, write)
            if refusal is None or isinstance(refusal, BadRowsError):
                state.passed_without_rows.add(error.code)
                raise self._about_rows(state, error)
            error = refusal
        table = state.chunk.table
        if isinstance(error, SchemaDriftError):
            self._drop(rows, write.columns, error)
        elif isinstance(error, UpsertRefusedError):
            if (view := self._sender.backend.view(table)) is not None:
                self._schema.learn_view(table, view)
            remedy = for_upserts(self._schema, table, error)
            if write.mode is Mode.INSERT or not self._schema.may_fall_back(state.chunk.table):
                raise fatal(error, "supabase_no_unique_index", remedy) from error
            self._fall_back(state, error, remedy)
        elif isinstance(error, FatalError) and error.reason == "supabase_permission_denied":
            remedy = for_denied(self._schema, table, error)
            may_insert = write.mode is not Mode.INSERT and self._schema.may_fall_back(table)
            if not may_insert or self._sender.refusal_without_rows(
                state, Write(table, write.columns, b"", Mode.INSERT)
            ):
                raise fatal(error, error.reason, remedy) from error
            self._fall_back(state, error, remedy)
        else:
            raise error

    def _about_rows(self, state: UploadState[Any], error: ServerError) -> ServerError:
        """Return `error` as an error about rows. If it may be about all rows, also set the state's `suspicion`."""
        if error.code.startswith("http_"):  # the refusal of a gateway may be temporary
            state.suspicion = error if isinstance(error, FatalError) else None
            passing = retyped(TransientError, error)
            passing.reachable = passing.about_rows = True
            return passing
        if error.code == "53100" and isinstance(error, FatalError):
            state.suspicion = error
        elif error.is_forbidden and isinstance(error, FatalError) and not isinstance(error, UnknownError):
            state.suspicion = fatal(error, error.reason, for_denied(self._schema, state.chunk.table, error))
        return retyped(BadRowsError, error)

    def _is_stored_by_insert(
        self, state: UploadState[Any], rows: tuple[Row, ...], write: Write, error: BadRowsError
    ) -> bool:
        """Insert rows whose upsert a policy refused, and return whether that stored them. There is no other test."""
        if write.mode is Mode.INSERT or not is_policy_violation(error.code, error.message):
            return False
        if not self._schema.may_fall_back(state.chunk.table):
            return False
        try:
            self._sender.send(state, rows, msgspec.structs.replace(write, mode=Mode.INSERT))
        except (BadRowsError, FatalError):
            return False
        remedy = f"Run: {policy_sql(self._schema, state.chunk.table, 'select', 'update')}"
        self._fall_back(state, error, remedy)
        return True

    def refusal_without_rows(self, state: UploadState[Any], rows: tuple[Row, ...]) -> ServerError | None:
        """Return the refusal of the request for `rows` sent without them; None if it passes."""
        try:
            write, _ = self.write_of(state.chunk, rows, None)
        except RefusedRowsError as refused:
            return refused.error
        except ServerError as error:
            return error
        return self._sender.refusal_without_rows(state, write)

    def write_of(self, chunk: Chunk, rows: tuple[Row, ...], ids: ParentIds | None) -> tuple[Write, tuple[Row, ...]]:
        """Return the request that stores `rows` of a chunk, and the rows in the form it sends: with `ids` of parents.

        Raises `RefusedRowsError`, `NotCachedError`, and `ServerError` if it cannot be written as the settings ask.
        """
        table, schema = chunk.table, self._schema
        fills = schema.writing(table).fills
        wanted: Collection[str] = rows[0].columns
        if chunk.mixed:
            wanted = {*(schema.fields(table) if fills else ()), *(column for row in rows for column in row.columns)}
        columns, rows = self._storable(table, wanted, rows)
        rows = self._parents.with_ids(rows, ids)
        body = body_of(rows)
        write = Write(table, columns, body, schema.mode(table), schema.specs[table].on_conflict, fills)
        if chunk.mixed or not schema.is_plain(table):
            write = self._merging(write, rows)
        return write, rows

    def _merging(self, write: Write, rows: tuple[Row, ...]) -> Write:
        """Return the write with `merge` if a plain request cannot store the rows as the settings ask for."""
        table, options = write.table, self._schema.writing(write.table)
        optional: tuple[str, ...] = ()
        if not write.fills:
            optional = tuple(column for column in write.columns if any(column not in row.columns for row in rows))
        plain = not optional and write.mode is Mode.UPSERT and not options.merge and not options.if_changed
        if plain and not set(options.insert_only) & set(write.columns):
            return write
        key = self._schema.key(table)
        if not write.mode.updates or not key or not set(key) <= set(write.columns):
            if write.mode is Mode.UPDATE:
                raise RefusedRowsError(ServerError(update_needs_key(table, key), code="no_key"))
            return write
        if not self.merges():
            if write.mode is Mode.UPDATE or options.merge or options.if_changed:
                raise no_function(table)
            return write
        return msgspec.structs.replace(write, on_conflict=key, merge=Merge(options, optional))

    def _storable(
        self, table: str, wanted: Collection[str], rows: tuple[Row, ...]
    ) -> tuple[tuple[str, ...], tuple[Row, ...]]:
        """Return the columns to send, and the rows adapted to what was learned since they were built."""
        columns, cannot = self._schema.split(table, wanted)
        policy = self._schema.policy(table)
        self._warn_left_out(table, wanted, cannot, rows)
        if cannot and policy == "reject":
            raise RefusedRowsError(ServerError(lacks(table, cannot), code="unknown_column"))
        if cannot and policy == "collect":
            rows = tuple(collected(row, frozenset(cannot), self._schema.collector(table)) for row in rows)
            columns, _ = self._schema.split(table, {column for row in rows for column in row.columns})
        if not columns:
            message = f"no field of the row is a column of table {table} (fields: {', '.join(cannot)})"
            raise RefusedRowsError(ServerError(message, code="no_column"))
        return columns, rows

    def _warn_left_out(self, table: str, wanted: Collection[str], cannot: Sequence[str], rows: Sequence[Row]) -> None:
        """Warn of columns that are not sent, if the rows were built before that was known."""
        generated = self._schema.generated_columns(table)
        for column in self._schema.first_mention(table, generated.keys() & wanted) if generated else ():
            logger.warning(GENERATED_COLUMN, table, column)
        lacking = {*cannot}.difference(self._schema.creatable(table, cannot)) if cannot else ()
        if lacking and (new := self._schema.first_mention(table, sorted(lacking))):
            from scrapy_supabase.schema.item_fields import type_for  # few crawls need it

            types = {column: type_for(_value(rows, column)) for column in new}
            logger.warning("%s", unknown_columns(self._schema, table, types))

    def _drop(self, rows: Sequence[Row], sent: tuple[str, ...], error: SchemaDriftError) -> None:
        table, column = rows[0].table, error.column
        if column in self._schema.key(table) and not error.is_generated:
            remedy = f"SUPABASE_ON_CONFLICT must name columns of {table}."
            raise fatal(error, "supabase_schema", remedy) from error
        if column not in sent:  # a trigger or a default of the table is at fault
            remedy = f"Fix table {table}: one of its triggers or defaults uses a column that does not exist."
            raise fatal(error, "supabase_schema", remedy) from error
        if error.is_generated:
            self._schema.learn_generated(table, error)
        elif column == self._schema.collector(table):
            raise fatal(error, "supabase_schema", no_collector(self._schema, table)) from error
        else:
            self._schema.drop(table, column)

    def _fall_back(self, state: UploadState[Any], error: ServerError, remedy: str) -> None:
        state.effort.fallbacks += 1
        table = state.chunk.table
        if self._schema.fall_back(table):
            logger.warning(UPSERTS_REFUSED, table, error.answer, remedy)


def _value(rows: Sequence[Row], column: str) -> Any:
    """Return the first value in a column of the rows."""
    return next((msgspec.json.decode(row.data).get(column) for row in rows if column in row.columns), None)
