"""The write of rows in the form that a table accepts: without columns that it lacks, by insert if it refuses upserts.

Facts learned about a table are kept in the `Schema`, so that they cost a request once, and not once per chunk.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from scrapy_supabase.backends.base import Write
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.upload_state import UploadState, collected
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
)
from scrapy_supabase.models import Mode, Row
from scrapy_supabase.rows.keys import key_form
from scrapy_supabase.schema.remedies import (
    GENERATED_COLUMN,
    for_denied,
    for_upserts,
    lacks,
    no_collector,
    policy_sql,
    unknown_columns,
)
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.chunk_file import key_of_json

logger = logging.getLogger(__name__)

E = TypeVar("E", bound=ServerError)

UPSERTS_REFUSED = (
    "Table %s refuses upserts: %s From now on its rows are inserted: rows that exist already are rejected, or stored "
    "twice if no unique index forbids it. %s"
)


_LONGEST_COLUMNS = 5000  # characters of the list of columns
_REWRITTEN = re.compile(rb"[:,\[](?:-?\d+(?:\.\d+)?[eE]|-0(?:\.0*)?[,}\]])")
# Codes about the table, never about rows: an unknown column, and a deferrable constraint, which only a request with
# rows reveals.
_OF_THE_TABLE = ("PGRST204", "55000")


class RefusedRowsError(Exception):
    """Raised to reject all rows of a slice for one reason, without sending any."""

    def __init__(self, error: ServerError) -> None:
        self.error = error


class TableWriter:
    """Writes rows of one table and one column set. Thread-safe; shared by all upload threads."""

    def __init__(self, sender: Sender, schema: Schema) -> None:
        self._sender = sender
        self._schema = schema

    def store(
        self,
        state: UploadState[Any],
        rows: tuple[Row, ...],
        sent: tuple[Write, Callable[[], object]] | None = None,
        *,
        once: bool = False,
    ) -> None:
        """Store the rows in one request, and adapt the request to the table until it accepts it.

        If a request has been sent already, `sent` is that write and a function that waits for its answer. With `once`,
        a failed request is not retried. Raises `RefusedRowsError`, or the `ServerError` to handle.
        """
        table = state.chunk.table
        while True:
            wait_for_answer: Callable[[], object] | None = None
            if sent is not None:
                (write, wait_for_answer), sent = sent, None
            else:
                write, rows = self.write_of(table, rows)
            try:
                self._sender.send(state, rows, write, wait_for_answer, once=once)
            except BadRowsError as error:
                if not self._is_stored_by_insert(state, rows, write, error):
                    raise
                return
            except (SchemaDriftError, UpsertRefusedError, FatalError) as error:
                self._learn(state, rows, write, error)
            else:
                return

    def store_new(self, state: UploadState[Any], rows: tuple[Row, ...], *, once: bool = False) -> tuple[Row, ...]:
        """Store those of `rows` that are not in the table yet, in one request, and return the others.

        The rows may have different columns: a column that a new row lacks gets its default, as if the row was sent
        alone. All rows are returned if the new ones cannot be identified, or if the request would change values. Raises
        the `ServerError` to handle.
        """
        table = state.chunk.table
        while True:
            write = self._write_of_all(table, rows)
            if write is None:
                return rows
            updates = write.mode is Mode.UPSERT
            try:
                found = self._sender.send(
                    state, rows, write, returning=self._schema.key(table) if updates else (), once=once
                )
            except ServerError as error:
                if error.code == "42501":  # to return the new rows, the database needs the SELECT privilege
                    return rows
                if not isinstance(error, SchemaDriftError | UpsertRefusedError | FatalError):
                    raise
                self._learn(state, rows, write, error)
            else:
                return self._not_among(rows, found) if updates else ()

    def _write_of_all(self, table: str, rows: tuple[Row, ...]) -> Write | None:
        """Return a request for rows of several column sets, or None if each set needs its own request."""
        columns: set[str] = set()
        for shape in {row.columns for row in rows}:
            can, cannot = self._schema.split(table, shape)
            if not can or (cannot and self._schema.policy(table) != "drop"):
                return None
            columns.update(can)
        body = _body(rows)
        # jsonb would turn 1e5 into 100000 and -0.0 into 0.0. And the list of columns, which this request needs, must
        # fit into its URL.
        if sum(len(column) + 9 for column in columns) > _LONGEST_COLUMNS or _REWRITTEN.search(body):
            return None
        spec = self._schema.specs[table]
        return Write(table, tuple(sorted(columns)), body, self._schema.mode(table), spec.on_conflict)

    def _not_among(self, rows: tuple[Row, ...], found: bytes) -> tuple[Row, ...]:
        """Return those of `rows` whose keys are not in the answer `found`; all rows if it has unknown keys."""
        table = rows[0].table
        form = key_form(self._schema, table, self._schema.key(table), Mode.UPSERT)
        keys = {key_of_json(one, form) for one in msgspec.json.decode(found, type=list[dict[str, msgspec.Raw]])}
        rest = tuple(row for row in rows if row.key not in keys)
        return rest if len(rows) - len(rest) == len(keys) else rows

    def _learn(self, state: UploadState[Any], rows: tuple[Row, ...], write: Write, error: ServerError) -> None:
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
            if write.mode is Mode.INSERT or not self._schema.insert_fallback:
                raise fatal(error, "supabase_no_unique_index", remedy) from error
            self._fall_back(state, error, remedy)
        elif isinstance(error, FatalError) and error.reason == "supabase_permission_denied":
            remedy = for_denied(self._schema, table, error)
            may_insert = write.mode is not Mode.INSERT and self._schema.insert_fallback
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
            passing = _retyped(TransientError, error)
            passing.reachable = passing.about_rows = True
            return passing
        if error.code == "53100" and isinstance(error, FatalError):
            state.suspicion = error
        elif error.code == "42501" and isinstance(error, FatalError) and not isinstance(error, UnknownError):
            state.suspicion = fatal(error, error.reason, for_denied(self._schema, state.chunk.table, error))
        return _retyped(BadRowsError, error)

    def _is_stored_by_insert(
        self, state: UploadState[Any], rows: tuple[Row, ...], write: Write, error: BadRowsError
    ) -> bool:
        """Insert rows whose upsert a policy refused, and return whether that stored them. There is no other test."""
        if write.mode is Mode.INSERT or not is_policy_violation(error.code, error.message):
            return False
        if not self._schema.insert_fallback:
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
            write, _ = self.write_of(state.chunk.table, rows)
        except RefusedRowsError as refused:
            return refused.error
        return self._sender.refusal_without_rows(state, write)

    def write_of(self, table: str, rows: tuple[Row, ...]) -> tuple[Write, tuple[Row, ...]]:
        """Return the request that stores `rows`, and the rows in the form it sends. Raises `RefusedRowsError`."""
        columns, rows = self._storable(table, rows)
        body = _body(rows)
        return Write(table, columns, body, self._schema.mode(table), self._schema.specs[table].on_conflict), rows

    def _storable(self, table: str, rows: tuple[Row, ...]) -> tuple[tuple[str, ...], tuple[Row, ...]]:
        """Return the columns to send, and the rows adapted to what was learned since they were built."""
        columns, cannot = self._schema.split(table, rows[0].columns)
        policy = self._schema.policy(table)
        if cannot and policy == "reject":
            raise RefusedRowsError(ServerError(lacks(table, cannot), code="unknown_column"))
        if cannot and policy == "collect":
            rows = tuple(collected(row, frozenset(cannot), self._schema.collector(table)) for row in rows)
            columns = rows[0].columns
        if not columns:
            message = f"no field of the row is a column of table {table} (fields: {', '.join(cannot)})"
            raise RefusedRowsError(ServerError(message, code="no_column"))
        return columns, rows

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
            if self._schema.first_mention(table, [column]):
                logger.warning(GENERATED_COLUMN, table, column)
            return
        if column == self._schema.collector(table):
            raise fatal(error, "supabase_schema", no_collector(self._schema, table)) from error
        self._schema.drop(table, column)
        if self._schema.first_mention(table, [column]):
            from scrapy_supabase.schema.item_fields import type_for  # few crawls need it

            types = {column: type_for(_value(rows[0], column))}
            logger.warning("%s", unknown_columns(self._schema, table, types))

    def _fall_back(self, state: UploadState[Any], error: ServerError, remedy: str) -> None:
        state.effort.fallbacks += 1
        table = state.chunk.table
        if self._schema.fall_back(table):
            logger.warning(UPSERTS_REFUSED, table, error.answer, remedy)


def _retyped(kind: type[E], error: ServerError) -> E:
    return kind(error.message, code=error.code, status=error.status, details=error.details, hint=error.hint)


def _body(rows: Sequence[Row]) -> bytes:
    """Return the rows as a JSON array, with one copy of them."""
    parts = [row.data for row in rows]
    parts[0] = b"[" + parts[0]
    parts[-1] += b"]"
    return b",".join(parts)


def _value(row: Row, column: str) -> Any:
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(row.data).get(column)
    return None
