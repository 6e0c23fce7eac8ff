"""Chunk → Outcome: send, and do with each kind of refusal what may still store the rows.

Runs in the upload threads. Failure is data here: whatever a backend raises ends in the `Outcome`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from scrapy_supabase.backends.base import Backend, BegunWrite, Write
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    MissingReferenceError,
    SchemaDriftError,
    ServerError,
    TooLargeError,
    TransientError,
    UpsertRefusedError,
    denied,
    fatal,
    is_policy_violation,
)
from scrapy_supabase.limits import RequestLimits
from scrapy_supabase.models import Chunk, Effort, Mode, Outcome, Row
from scrapy_supabase.remedies import for_upserts, grant_sql, lacks, no_collector, policy_sql, unknown_columns
from scrapy_supabase.retry import Patience, Retrying
from scrapy_supabase.schema import Schema
from scrapy_supabase.work import Piece, Work, collected

if TYPE_CHECKING:
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

MADE_BY_THE_DATABASE = "Table %s makes column %r itself: it is not sent from now on."
UPSERTS_REFUSED = (
    "Table %s refuses upserts: %s From now on its rows are inserted: those that are there already will be rejected, or "
    "stored twice where no unique index forbids it. %s"
)


class _RefusedRowsError(Exception):
    """All rows of a piece are refused for one reason, without a trial of each."""

    def __init__(self, error: ServerError) -> None:
        self.error = error


class BegunUpload(msgspec.Struct, frozen=True, eq=False):
    """A chunk whose first request was sent by `Uploader.begin`. See `observer.BegunUpload`."""

    uploader: Uploader
    chunk: Chunk
    rows: tuple[Row, ...]
    write: Write
    request: BegunWrite
    started: float

    def poll(self) -> Outcome | bool:
        """The outcome where the rows are stored; True: no answer yet; False: only `finish` can tell. Never waits."""
        stored = self.request.stored()
        return self.uploader.stored(self) if stored else stored is None

    def fileno(self) -> int:
        """What becomes readable when an answer comes."""
        return self.request.fileno()

    def finish(self) -> Outcome:
        """Wait for the answer, and do what it asks for."""
        return self.uploader.upload(self.chunk, self)

    def abandon(self) -> None:
        """Hang up."""
        self.request.abandon()


class Uploader:
    """Uploads chunks to a backend. Thread-safe; one is shared by all upload threads.

    `attempts` are the tries of a request in all, the second `delay` seconds after the first; `patience` says how long
    waits may be; `clock` gives seconds.
    """

    def __init__(
        self,
        backend: Backend,
        schema: Schema,
        *,
        attempts: int,
        delay: float,
        patience: Patience,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._backend = backend
        self._schema = schema
        self._attempts = attempts
        self._delay = delay
        self._patience = patience
        self._clock = clock
        self._limits = RequestLimits()
        self._stored: set[str] = set()  # tables that have taken a row
        self._warned_of_doubles: set[str] = set()

    def begin(self, chunk: Chunk) -> BegunUpload | None:
        """Send the request for `chunk` as far as that needs no waiting; None where it does, or is no plain case."""
        if self._limits.most(chunk.rows) < len(chunk.rows):
            return None
        started = self._clock()
        try:
            write, rows = self._write_of(chunk.table, chunk.rows)
        except _RefusedRowsError:
            return None
        request = self._backend.begin(write)
        return BegunUpload(self, chunk, rows, write, request, started) if request else None

    def stored(self, begun: BegunUpload) -> Outcome:
        """Return the outcome of a begun upload that was stored as it was."""
        self._stored.add(begun.chunk.table)
        self._limits.stored(begun.rows)
        # The answer may have come a while before somebody looked.
        seconds = max(self._clock() - begun.started - begun.request.silence(), 0.0)
        effort = Effort(requests=1, request_bytes=len(begun.write.body), seconds=seconds)
        return Outcome(begun.chunk, len(begun.rows), effort=effort)

    def upload(self, chunk: Chunk, begun: BegunUpload | None = None) -> Outcome:
        """Upload `chunk`, or go on with what was `begun`; never raises for what a server says."""
        started = begun.started if begun else self._clock()
        work = Work(chunk, [Piece(chunk.rows)], begun)
        while work.pieces:
            self._try(work, work.pieces.pop())
        if not work.uploaded and not work.fatal and work.rejections:
            self._suspect_policy(work)
        work.effort.seconds = self._clock() - started
        return work.outcome()

    def probe(self, table: str) -> None:
        """Ask once, with no rows, whether the server takes requests. Raises `TransientError` where it does not."""
        schema = self._schema
        try:
            self._backend.write(
                Write(table, schema.key(table), b"[]", schema.mode(table), schema.specs[table].on_conflict)
            )
        except TransientError:
            raise
        except ServerError:
            pass  # whatever it says of the table, it is there

    def _try(self, work: Work[BegunUpload], piece: Piece) -> None:
        rows = piece.rows
        if len(rows) > 1 and piece.refused_before == work.refused:
            work.split(rows, one_is_bad=True)
            return
        if work.begun is None and (most := self._limits.most(rows)) < len(rows):
            work.pieces.append(Piece(rows[most:]))
            rows = rows[:most]
        try:
            self._store(work, rows)
        except _RefusedRowsError as refused:
            for row in rows:
                work.refuse(row, refused.error)
        except (BadRowsError, TooLargeError) as error:
            if isinstance(error, MissingReferenceError) and not work.chunk.last_try:
                # Which rows lack what they refer to is not worth a bisection: it may be under way.
                if error.parent:
                    self._schema.learn_reference(work.chunk.table, error.parent)
                work.deferred.extend(rows)
                return
            if len(rows) == 1:
                work.refuse(rows[0], error)
                return
            if isinstance(error, TooLargeError):
                self._limits.too_large(rows, refused=True)
            # 21000: two rows are the same key to the server (1 and 1.0); each alone may be good.
            work.split(rows, one_is_bad=isinstance(error, BadRowsError) and error.code != "21000")
        except TransientError as error:
            if error.splittable and len(rows) > 1 and self._patience.allows(self._delay):
                self._limits.too_large(rows, refused=False)
                self._count_retry(work, rows, error)
                self._patience.sleep(max(self._delay, error.retry_after or 0.0))
                work.split(rows, one_is_bad=False)
            else:
                logger.warning("%s: not uploaded yet: %s Its rows are kept.", work.chunk, error)
                work.gone = None if error.is_there else error
                work.give_up(rows)
        except FatalError as error:
            work.fatal = error
            work.give_up(rows)
        else:
            work.uploaded += len(rows)
            self._stored.add(work.chunk.table)
            self._limits.stored(rows)

    def _store(self, work: Work[BegunUpload], rows: tuple[Row, ...]) -> None:
        """Store `rows` in one request, after as many as it takes to find out how. Raises what is about the rows."""
        table = work.chunk.table
        while True:
            begun, work.begun = work.begun, None
            write, rows = (begun.write, begun.rows) if begun else self._write_of(table, rows)
            mode = write.mode
            try:
                self._request(work, rows, write, begun)
            except SchemaDriftError as error:
                self._drop(rows, write.columns, error)
            except UpsertRefusedError as error:
                if (view := self._backend.view(table)) is not None:
                    self._schema.learn_view(table, view)
                remedy = for_upserts(self._schema, table, error)
                if mode is Mode.INSERT or not self._schema.insert_fallback:
                    raise fatal(error, "supabase_no_unique_index", remedy) from error
                self._fall_back(work, error, remedy)
            except BadRowsError as error:
                # A policy may let these rows in as an insert and not as an upsert. Only their insert can tell.
                if mode is Mode.INSERT or not is_policy_violation(error.code, error.message):
                    raise
                if not self._schema.insert_fallback or not self._insert_instead(work, rows, write):
                    raise
                self._fall_back(work, error, f"Run: {policy_sql(self._schema, table, 'select', 'update')}")
                return
            except FatalError as error:
                if error.reason != "supabase_permission_denied":
                    raise
                remedy = f"Run: {grant_sql(self._schema, table, error)}"
                # Rights to something else, such as a sequence, are asked for by rows only.
                of_table = denied(error.message) in (None, ("table", table))
                may_insert = mode is not Mode.INSERT and self._schema.insert_fallback and of_table
                if not may_insert or not self._may_insert(work, write):
                    raise fatal(error, error.reason, remedy) from error
                self._fall_back(work, error, remedy)
            else:
                return

    def _write_of(self, table: str, rows: tuple[Row, ...]) -> tuple[Write, tuple[Row, ...]]:
        columns, rows = self._storable(table, rows)
        body = b"[%b]" % b",".join([row.data for row in rows])
        return Write(table, columns, body, self._schema.mode(table), self._schema.specs[table].on_conflict), rows

    def _storable(self, table: str, rows: tuple[Row, ...]) -> tuple[tuple[str, ...], tuple[Row, ...]]:
        """The columns to send, and the rows, after what has been learnt since the rows were made."""
        columns, cannot = self._schema.split(table, rows[0].columns)
        unknown = self._schema.unknown
        if cannot and unknown.policy == "reject":
            raise _RefusedRowsError(ServerError(lacks(table, cannot), code="unknown_column"))
        if cannot and unknown.policy == "collect":
            rows = tuple(collected(row, frozenset(cannot), unknown.column) for row in rows)
            columns = rows[0].columns
        if not columns:
            message = f"no field of the row is a column of table {table} (fields: {', '.join(cannot)})"
            raise _RefusedRowsError(ServerError(message, code="no_column"))
        return columns, rows

    def _request(
        self, work: Work[BegunUpload], rows: tuple[Row, ...], write: Write, begun: BegunUpload | None = None
    ) -> None:
        def attempt() -> None:
            nonlocal begun
            first, begun = begun, None
            work.effort.requests += 1
            work.effort.request_bytes += len(write.body)
            try:
                if first is None:
                    self._backend.write(write)
                else:
                    first.request.finish()
            except ServerError as error:
                work.effort.count(error, len(rows))
                if isinstance(error, TransientError) and error.splittable and len(rows) > 1:
                    error.tries = 1  # the same again would take as long again
                raise

        def before_sleep(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, TransientError):
                self._count_retry(work, rows, error, state)

        policy = Retrying(self._attempts, self._delay, self._patience, before_sleep)
        try:
            policy(attempt)
        except ServerError as error:
            # A table or column made a moment ago is not in the server's schema cache yet.
            if not error.stale_schema or work.waited_for_schema:
                raise
            work.waited_for_schema = True
            logger.warning(
                "%s: the server may not know the table as it is now: %s Next try in %.1f s.",
                *(work.chunk, error.answer, 2 * self._delay),
            )
            self._patience.sleep(2 * self._delay)
            policy(attempt)

    def _count_retry(
        self, work: Work[BegunUpload], rows: tuple[Row, ...], error: TransientError, state: RetryCallState | None = None
    ) -> None:
        work.effort.retries += 1
        if state is not None:
            logger.warning(
                "%s: try %d of %d failed: %s Next try in %.1f s.",
                *(work.chunk, state.attempt_number, min(self._attempts, error.tries or self._attempts)),
                *(error, state.upcoming_sleep),
            )
        else:
            logger.warning(
                "%s: too much for the server: %s Its halves are sent one after the other.", work.chunk, error
            )
        table = work.chunk.table
        if not error.ambiguous or (rows[0].key is not None and self._schema.mode(table) is not Mode.INSERT):
            return  # not stored, or sending it twice stores it once
        work.effort.ambiguous_retries += 1
        if table not in self._warned_of_doubles:
            self._warned_of_doubles.add(table)
            logger.warning(
                "Table %s: a request got no answer and is sent again. If it was stored, its rows are stored twice now. "
                "To prevent that, set SUPABASE_ON_CONFLICT to columns that make a row unique, with a unique index on "
                "them.",
                table,
            )

    def _drop(self, rows: Sequence[Row], sent: tuple[str, ...], error: SchemaDriftError) -> None:
        table, column = rows[0].table, error.column
        if column in self._schema.key(table):
            remedy = f"SUPABASE_ON_CONFLICT must name columns of {table}."
            raise fatal(error, "supabase_schema", remedy) from error
        if column not in sent:  # a trigger or a default of the table's own is at fault
            remedy = f"Mend table {table}: a trigger or a default of its own asks for a column that is not there."
            raise fatal(error, "supabase_schema", remedy) from error
        if self._schema.unknown.policy == "collect" and column == self._schema.unknown.column:
            raise fatal(error, "supabase_schema", no_collector(self._schema, table)) from error
        self._schema.drop(table, column)
        if not self._schema.first_mention(table, [column]):
            return
        if error.code == "428C9":
            logger.warning(MADE_BY_THE_DATABASE, table, column)
        else:
            from scrapy_supabase.item_fields import type_for  # few crawls need it

            types = {column: type_for(_value(rows[0], column))}
            logger.warning("%s", unknown_columns(self._schema, table, types))

    def _fall_back(self, work: Work[BegunUpload], error: ServerError, remedy: str) -> None:
        work.effort.fallbacks += 1
        table = work.chunk.table
        if self._schema.fall_back(table):
            logger.warning(UPSERTS_REFUSED, table, error.answer, remedy)

    def _insert_instead(self, work: Work[BegunUpload], rows: tuple[Row, ...], write: Write) -> bool:
        """Store `rows` by a plain insert. False where that is refused, too."""
        try:
            self._request(work, rows, msgspec.structs.replace(write, mode=Mode.INSERT))
        except (BadRowsError, FatalError):
            return False
        return True

    def _may_insert(self, work: Work[BegunUpload], write: Write) -> bool:
        """Whether a plain insert of no rows is allowed."""
        try:
            self._request(work, (), Write(write.table, write.columns, b"[]", Mode.INSERT))
        except ServerError:
            return False
        return True

    def _suspect_policy(self, work: Work[BegunUpload]) -> None:
        """A policy that refuses every row of a chunk, and has let none in before, is not about the rows."""
        table = work.chunk.table
        if table in self._stored or len(work.rejections) != len(work.chunk.rows):
            return
        last = work.rejections[-1]
        if not all(is_policy_violation(r.code, r.message) for r in work.rejections):
            return
        remedy = (
            f"Use the project's secret key, or run: {policy_sql(self._schema, table, 'insert', 'select', 'update')}"
        )
        work.fatal = fatal(ServerError(last.message, code=last.code), "supabase_permission_denied", remedy)
        work.rejections.clear()
        work.left.extend(work.chunk.rows)


def _value(row: Row, column: str) -> Any:
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(row.data).get(column)
    return None
