"""Chunk → Outcome: send, and do with each kind of refusal what may still store the rows.

Runs in the upload threads. Failure is data here: whatever a backend raises ends in the `Outcome`.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec

from scrapy_supabase.attempts import Sender
from scrapy_supabase.backends.base import Backend, BegunWrite, Write
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    MissingReferenceError,
    ServerError,
    TooLargeError,
    TransientError,
    fatal,
    is_policy_violation,
)
from scrapy_supabase.isolate import columns_at_fault, find_suspects
from scrapy_supabase.limits import RequestLimits
from scrapy_supabase.models import Chunk, Effort, Outcome, Row
from scrapy_supabase.remedies import policy_sql
from scrapy_supabase.retry import Patience
from scrapy_supabase.schema import Schema
from scrapy_supabase.table_writer import RefusedRowsError, TableWriter
from scrapy_supabase.work import Piece, Work, words_of

logger = logging.getLogger(__name__)

_columns_of = attrgetter("columns")
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_MOST_SUSPECTS = 4  # rows that are tried alone for one refusal; more are halved like any others
_MOST_FALSE_SUSPECTS = 2  # in one chunk, before the server's words are not listened to any more
# How often a chunk is given up for a while before its rows are looked at. What gives no code may be about any of them.
_TRIES_BEFORE_ISOLATION = 4
_TRIES_OF_A_ROW = 2  # how often a row that alone fails is put off before it is rejected


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
        self._schema = schema
        self._sender = Sender(backend, schema, attempts=attempts, delay=delay, patience=patience)
        self._writer = TableWriter(self._sender, schema)
        self._clock = clock
        # The first that fits.
        self._reactions: tuple[tuple[type[ServerError], Callable[[Work[BegunUpload], Piece, Any], None]], ...] = (
            (MissingReferenceError, self._on_missing_reference),
            (BadRowsError, self._on_bad_rows),
            (TooLargeError, self._on_too_large),
            (TransientError, self._on_transient),
            (FatalError, self._on_fatal),
        )
        self._limits = RequestLimits()
        self._stored: set[str] = set()  # tables that have taken a row

    def begin(self, chunk: Chunk) -> BegunUpload | None:
        """Send the request for `chunk` as far as that needs no waiting; None where it does, or is no plain case."""
        if chunk.mixed or self._limits.most(chunk.rows) < len(chunk.rows):
            return None
        started = self._clock()
        try:
            write, rows = self._writer.write_of(chunk.table, chunk.rows)
        except RefusedRowsError:
            return None
        request = self._sender.backend.begin(write)
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
        if not work.uploaded and not work.fatal:
            self._suspect_all(work)
        work.effort.seconds = self._clock() - started
        return work.outcome()

    def probe(self, table: str) -> None:
        """Ask once, with no rows, whether the server takes requests. Raises `TransientError` where it does not."""
        schema = self._schema
        try:
            self._sender.backend.write(
                Write(table, schema.key(table), b"[]", schema.mode(table), schema.specs[table].on_conflict)
            )
        except TransientError:
            raise
        except ServerError:
            pass  # whatever it says of the table, it is there

    def _try(self, work: Work[BegunUpload], piece: Piece) -> None:
        rows = piece.rows
        if piece.blamed is not None and work.has_proven(piece):
            self._refuse(work, rows, piece.blamed)
            return
        if len(rows) > 1 and piece.refused_before == work.refused:
            work.split(rows, one_is_bad=True)
            return
        if work.begun is None and (most := self._limits.most(rows)) < len(rows):
            work.pieces.append(msgspec.structs.replace(piece, rows=rows[most:]))
            rows = rows[:most]
            piece = msgspec.structs.replace(piece, rows=rows)
        if work.chunk.mixed and any(row.columns != rows[0].columns for row in rows):
            self._try_mixed(work, piece)
            return
        try:
            begun, work.begun = work.begun, None
            sent = (begun.write, begun.request.finish) if begun else None
            once = piece.isolating and len(rows) > 1
            self._writer.store(work, begun.rows if begun else rows, sent, once=once)
        except RefusedRowsError as refused:
            for row in rows:
                work.refuse(row, refused.error)
        except ServerError as error:
            self._react(work, piece, error)
        else:
            work.uploaded += len(rows)
            self._limits.stored(rows)
            work.false_suspects += piece.blamed is not None
            self._stored.add(work.chunk.table)

    def _try_mixed(self, work: Work[BegunUpload], piece: Piece) -> None:
        """Store the rows that are new in one request; the others then go by their columns."""
        rows = piece.rows
        try:
            rest = self._writer.store_new(work, rows, once=piece.isolating)
        except ServerError as error:
            self._react(work, piece, error)
            return
        if len(rest) < len(rows):
            work.uploaded += len(rows) - len(rest)
            self._limits.stored(rows)
            self._stored.add(work.chunk.table)
        if not work.chunk.is_ordered:
            rest = tuple(sorted(rest, key=_columns_of))
        shapes = [tuple(shape) for _, shape in groupby(rest, _columns_of)]
        work.pieces.extend(Piece(shape, isolating=piece.isolating) for shape in reversed(shapes))

    def _react(self, work: Work[BegunUpload], piece: Piece, error: ServerError) -> None:
        react = next(react for kind, react in self._reactions if isinstance(error, kind))
        react(work, piece, error)

    # What a refusal means for a piece

    def _on_missing_reference(self, work: Work[BegunUpload], piece: Piece, error: MissingReferenceError) -> None:
        if work.chunk.last_try:
            self._on_bad_rows(work, piece, error)
            return
        # Which rows lack what they refer to is not worth a search: it may be under way.
        if error.parent:
            self._schema.learn_reference(work.chunk.table, error.parent)
        work.defer(piece.rows)

    def _on_bad_rows(self, work: Work[BegunUpload], piece: Piece, error: ServerError) -> None:
        rows = piece.rows
        if (words := words_of(error)) in work.blamed:
            work.unproven.add(words)
        if len(rows) == 1:
            self._refuse(work, rows, error)
            return
        if error.code == "21000":  # two rows are one key to the server; each alone may be good, the later one last
            work.split(rows, one_is_bad=False)
            return
        if work.false_suspects < _MOST_FALSE_SUSPECTS:
            found = find_suspects(error, rows, self._types(work))
            if 0 < len(found.rows) < len(rows) and (found.sure or len(found.rows) <= _MOST_SUSPECTS):
                work.set_aside(found.rows, rows, error, sure=found.sure)
                return
        work.split(rows, one_is_bad=True)

    def _on_too_large(self, work: Work[BegunUpload], piece: Piece, error: TooLargeError) -> None:
        if len(piece.rows) == 1:
            self._refuse(work, piece.rows, error)
            return
        self._limits.too_large(piece.rows, refused=True)
        work.split(piece.rows, one_is_bad=False)

    def _on_transient(self, work: Work[BegunUpload], piece: Piece, error: TransientError) -> None:
        rows = piece.rows
        if piece.isolating and len(rows) > 1:
            work.split(rows, one_is_bad=False, isolating=True)
        elif error.splittable and len(rows) > 1 and self._sender.patience.allows(self._sender.delay):
            self._limits.too_large(rows, refused=False)
            self._sender.count_retry(work, rows, error)
            self._sender.patience.sleep(max(self._sender.delay, error.retry_after or 0.0))
            work.split(rows, one_is_bad=False)
        elif (gone := self._gone(work, piece, error)) is not None:
            logger.debug("%s: not uploaded yet: %s Its rows are kept.", work.chunk, gone)
            work.gone = gone
            work.give_up(rows)
        elif len(rows) == 1 and work.chunk.tries >= _TRIES_OF_A_ROW:
            self._refuse(work, rows, error)
        elif len(rows) == 1:  # somebody may hold a lock on it
            error.is_there = error.about_rows = True
            logger.debug("%s: a row is tried again later: %s", work.chunk, error)
            work.gone = work.gone or error
            work.leave(rows)
        else:
            work.split(rows, one_is_bad=False, isolating=True)

    def _gone(self, work: Work[BegunUpload], piece: Piece, error: TransientError) -> TransientError | None:
        """Return the failure that other requests meet, too; None where the server is there, and takes all but these."""
        if not self._sender.patience.allows(self._sender.delay):
            return error
        if error.about_rows:
            return None
        is_verdict = not error.unanswered and _SQLSTATE.fullmatch(error.code)
        if not piece.isolating and not is_verdict and work.chunk.tries < _TRIES_BEFORE_ISOLATION:
            return error
        refusal = self._writer.refusal_without_rows(work, piece.rows)
        return refusal if isinstance(refusal, TransientError) else None

    def _on_fatal(self, work: Work[BegunUpload], piece: Piece, error: FatalError) -> None:
        work.fatal = error
        work.give_up(piece.rows)

    def _refuse(self, work: Work[BegunUpload], rows: tuple[Row, ...], error: ServerError) -> None:
        types = self._types(work)
        for row in rows:
            work.refuse(row, error, columns_at_fault(error, row, types))

    def _types(self, work: Work[BegunUpload]) -> Mapping[str, str]:
        info = self._schema.info(work.chunk.table)
        return info.columns if info else {}

    def _suspect_all(self, work: Work[BegunUpload]) -> None:
        """Blame a policy, a grant or a full disk that refuses every row of a chunk, and has let none in before."""
        table = work.chunk.table
        if table in self._stored or work.deferred or (work.gone and not work.gone.about_rows):
            return
        last, suspicion = work.rejections[-1:], work.suspicion
        if last and not work.left and all(is_policy_violation(r.code, r.message) for r in work.rejections):
            policies = policy_sql(self._schema, table, "insert", "select", "update")
            remedy = f"Use the project's secret key, or run: {policies}"
            words = ServerError(last[0].message, code=last[0].code)
            suspicion = fatal(words, "supabase_permission_denied", remedy)
        elif suspicion is None or any(r.code != suspicion.code for r in work.rejections):
            return
        work.fatal = suspicion
        work.gone = None
        work.rejections.clear()
        work.left[:] = work.chunk.rows
