"""Rows that one plain request cannot store as the settings ask for: first those that are new, then the others.

Used over REST without the function `scrapy_upsert`, for rows of different column sets and for `insert_only`.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import msgspec

from scrapy_supabase.backends.base import Write
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.parents import ParentResolver
from scrapy_supabase.delivery.table_writer import TableWriter
from scrapy_supabase.delivery.upload_state import UploadState, body_of
from scrapy_supabase.errors import FatalError, SchemaDriftError, ServerError, UpsertRefusedError
from scrapy_supabase.models import Chunk, Mode, Row
from scrapy_supabase.rows.keys import key_form
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.spool.chunk_file import key_of_json

logger = logging.getLogger(__name__)

_LONGEST_COLUMNS = 5000  # characters of the list of columns
_REWRITTEN = re.compile(rb"[:,\[](?:-?\d+(?:\.\d+)?[eE]|-0(?:\.0*)?[,}\]])")
_FEW_ROWS, _MANY_REQUESTS = 10, 50  # fewer rows per request, in at least this many requests, are worth a warning


class StepWriter:
    """Stores rows in several requests. Thread-safe; shared by all upload threads."""

    def __init__(self, sender: Sender, writer: TableWriter, schema: Schema, parents: ParentResolver) -> None:
        self._sender = sender
        self._writer = writer
        self._parents = parents
        self._schema = schema
        self._sizes: dict[str, tuple[int, int]] = {}  # table → rows and requests
        self._warned: set[str] = set()

    def is_needed(self, chunk: Chunk, rows: tuple[Row, ...]) -> bool:
        """Return whether one request cannot store these rows of a chunk. May ask the server, and blocks then.

        Raises `TransientError`.
        """
        table, schema = chunk.table, self._schema
        writing, mode = schema.writing(table), schema.mode(table)
        differ = chunk.mixed and not writing.fills and any(row.columns != rows[0].columns for row in rows)
        if not differ and not (mode is Mode.UPSERT and self._first_only(rows[0])):
            return False
        return mode in (Mode.INSERT, Mode.IGNORE) or not self._writer.merges()

    def store_new(self, state: UploadState[Any], rows: tuple[Row, ...], *, once: bool) -> tuple[Row, ...]:
        """Store those of `rows` that are not in the table yet, in one request; return the others, as to be sent.

        A column that a new row lacks gets its default, as if the row was sent alone. Rows of several column sets are
        all returned, unchanged, if the new ones cannot be identified, or if the request would change values. Raises
        the `ServerError` to handle.
        """
        table = state.chunk.table
        while True:
            write = self._write_of_all(state, rows)
            if write is None:
                return self._store_by_ignoring(state, rows, once=once)
            updates = write.mode is Mode.UPSERT
            try:
                found = self._sender.insert_new(
                    state, rows, write, self._schema.key(table) if updates else (), once=once
                )
            except ServerError as error:
                if error.is_forbidden:  # to return the new rows, the database needs the SELECT privilege
                    return self._store_by_ignoring(state, rows, once=once)
                if not isinstance(error, SchemaDriftError | UpsertRefusedError | FatalError):
                    raise
                self._writer.learn(state, rows, write, error)
            else:
                rest = self._not_among(rows, found) if updates else ()
                if write.mode is not Mode.IGNORE:
                    state.counts.inserted += len(rows) - len(rest)
                return tuple(map(self._without_first_only, rest))

    def _store_by_ignoring(self, state: UploadState[Any], rows: tuple[Row, ...], *, once: bool) -> tuple[Row, ...]:
        """Do as `store_new`, without knowing which rows are new: return all that have a key.

        Rows of several column sets are returned unchanged, and not stored.
        """
        if any(row.columns != rows[0].columns for row in rows):
            return rows
        self._writer.store(state, rows, once=once, mode=Mode.IGNORE)
        return tuple(self._without_first_only(row) for row in rows if row.key is not None)

    def store_by_column(self, state: UploadState[Any], rows: tuple[Row, ...]) -> bool:
        """Update stored rows column by column, if that takes fewer requests than one per column set.

        Return whether all are stored. If not, send them again: updates may be repeated.
        """
        table, schema = state.chunk.table, self._schema
        info, key = schema.info(table), schema.key(table)
        common = frozenset(rows[0].columns).intersection(*(row.columns for row in rows))
        optional, _ = schema.split(table, frozenset().union(*(row.columns for row in rows)) - common)
        shapes = len({row.columns for row in rows})
        self._watch_size(table, len(rows), min(shapes, len(optional)))
        if state.chunk.is_ordered or info is None or shapes <= len(optional) or not {*key, *info.required} <= common:
            return False
        for column in (*optional, None):
            have = tuple(row for row in rows if (column in row.columns if column else frozenset(row.columns) == common))
            if not have:
                continue
            columns, _ = schema.split(table, {*common, column} if column else common)
            body = body_of(self._parents.with_ids(have, state.ids))
            try:
                self._sender.send(
                    state, have, Write(table, columns, body, Mode.UPSERT, schema.specs[table].on_conflict)
                )
            except ServerError:
                return False
        return True

    def _first_only(self, row: Row) -> frozenset[str]:
        """Return the columns of a row that only a new row gets."""
        return frozenset(self._schema.writing(row.table).insert_only).intersection(row.columns)

    def _without_first_only(self, row: Row) -> Row:
        first_only = self._first_only(row)
        if not first_only:
            return row
        columns = tuple(column for column in row.columns if column not in first_only)
        return msgspec.structs.replace(row, columns=columns)

    def _write_of_all(self, state: UploadState[Any], rows: tuple[Row, ...]) -> Write | None:
        """Return a request for rows of several column sets, or None if each set needs its own request."""
        table = state.chunk.table
        columns: set[str] = set()
        for shape in {row.columns for row in rows}:
            can, cannot = self._schema.split(table, shape)
            if not can or (cannot and self._schema.policy(table) != "drop"):
                return None
            columns.update(can)
        body = body_of(self._parents.with_ids(rows, state.ids))
        # jsonb would turn 1e5 into 100000 and -0.0 into 0.0. And the list of columns, which this request needs, must
        # fit into its URL.
        if sum(len(column) + 9 for column in columns) > _LONGEST_COLUMNS or _REWRITTEN.search(body):
            return None
        if not self._schema.may_mix(table) or any(type(row.key) is not str for row in rows):
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

    def _watch_size(self, table: str, rows: int, requests: int) -> None:
        """Warn once per table if its rows need many small requests."""
        before = self._sizes.get(table, (0, 0))
        rows, requests = self._sizes[table] = before[0] + rows, before[1] + requests
        if requests >= _MANY_REQUESTS and rows < _FEW_ROWS * requests and table not in self._warned:
            self._warned.add(table)
            logger.warning(
                "Table %s: its items differ in their fields, so that a request carries %.1f rows on average. To send "
                'full requests, set SUPABASE_MISSING = "null" (a missing field is then stored as NULL), or create the '
                "function scrapy_upsert: scrapy supabase ddl --function",
                table,
                rows / requests,
            )
