"""Chunk → Outcome: send, and do with each kind of refusal what may still store the rows.

Runs in worker threads; what never waits, in the owner's. Failure is data here: whatever a backend raises ends in the
`Outcome`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from operator import attrgetter

import msgspec

from scrapy_supabase.backends.base import Backend, BegunWrite, Write
from scrapy_supabase.backends.retry import Patience
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.executor import Progress
from scrapy_supabase.delivery.limits import RequestLimits
from scrapy_supabase.delivery.reactions import Reactions
from scrapy_supabase.delivery.table_writer import RefusedRowsError, TableWriter
from scrapy_supabase.delivery.work import Piece, Work
from scrapy_supabase.errors import (
    BadRowsError,
    ServerError,
    TransientError,
    fatal,
    is_policy_violation,
)
from scrapy_supabase.models import Chunk, Effort, Outcome, Row
from scrapy_supabase.schema.remedies import policy_sql
from scrapy_supabase.schema.schema import Schema

logger = logging.getLogger(__name__)

_columns_of = attrgetter("columns")
_MOST_BYTES_TO_SEARCH = 256 * 1024  # in the owner's thread: 100 rows of 350 bytes take 0.8 ms


class SentChunk(msgspec.Struct, eq=False):
    """A chunk of which one request was sent by `Uploader.send`. See `executor.PendingUpload`.

    `request` is None where the next one needs waiting. `work` is the upload so far, of which the last piece is under
    way; None with the first request. `refusal` is the answer to the request where it was read already.
    """

    uploader: Uploader
    chunk: Chunk
    rows: tuple[Row, ...]
    write: Write
    request: BegunWrite | None
    started: float
    work: Work[SentChunk] | None = None
    refusal: ServerError | None = None

    def poll(self) -> Outcome | Progress:
        """Return the outcome where all rows have one. Never waits."""
        if self.request is None or self.refusal is not None:
            return Progress.NEEDS_WAITING
        stored = self.request.stored()
        if stored is None:
            return Progress.NO_ANSWER
        return self.uploader.stored(self) if stored else self.uploader.refused(self)

    def fileno(self) -> int:
        """What becomes readable when an answer comes; -1 where no request is under way."""
        return -1 if self.request is None else self.request.fileno()

    def answer(self) -> None:
        """Wait for the answer to the request. Raises `ServerError`."""
        if self.refusal is not None:
            raise self.refusal
        if self.request is not None:
            self.request.finish()

    def finish(self) -> Outcome:
        """Wait for the answer, and do what it asks for."""
        return self.uploader.upload(self.chunk, self)

    def abandon(self) -> None:
        """Hang up."""
        if self.request is not None:
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
        self._limits = RequestLimits()
        self._reactions = Reactions(self._sender, self._writer, schema, self._limits)
        self._stored: set[str] = set()  # tables that have taken a row

    def send(self, chunk: Chunk) -> SentChunk | None:
        """Send the request for `chunk` as far as that needs no waiting; None where it does, or is no plain case."""
        if chunk.mixed or self._limits.most(chunk.rows) < len(chunk.rows):
            return None
        started = self._clock()
        try:
            write, rows = self._writer.write_of(chunk.table, chunk.rows)
        except RefusedRowsError:
            return None
        request = self._sender.backend.begin(write)
        return SentChunk(self, chunk, rows, write, request, started) if request else None

    def stored(self, begun: SentChunk) -> Outcome | Progress:
        """Take in that the rows of a begun request are stored. Never waits; returns what `SentChunk.poll` does."""
        if (work := begun.work) is not None:
            work.effort.count_request(begun.write.body)
            self._count_stored(work, work.pieces.pop())
            return self._send_next(begun, work)
        self._stored.add(begun.chunk.table)
        self._limits.stored(begun.rows)
        # The answer may have come a while before somebody looked.
        silence = begun.request.silence() if begun.request else 0.0
        seconds = max(self._clock() - begun.started - silence, 0.0)
        effort = Effort(requests=1, request_bytes=len(begun.write.body), seconds=seconds)
        return Outcome(begun.chunk, len(begun.rows), effort=effort)

    def refused(self, begun: SentChunk) -> Outcome | Progress:
        """Take in the refusal of a begun request; where rows are at fault, find them and send the others.

        Never waits; returns what `SentChunk.poll` does. A thread that does the same gives the interpreter lock away
        and waits for it ten times, which takes it 30 ms beside a busy crawl, and the crawl a third of a second for a
        hundred chunks (docs/benchmarks/bad_rows).
        """
        request = begun.request
        if request is None or len(begun.write.body) > _MOST_BYTES_TO_SEARCH or not request.received():
            return Progress.NEEDS_WAITING
        try:
            request.finish()
        except ServerError as error:
            needs_request = error.stale_schema or is_policy_violation(error.code, error.message)
            if needs_request or not isinstance(error, BadRowsError):
                begun.refusal = error
                return Progress.NEEDS_WAITING
            work = begun.work = begun.work or Work(begun.chunk, [Piece(begun.chunk.rows)])
            work.effort.count_request(begun.write.body)
            work.effort.count(error, len(begun.rows))
            self._reactions.react(work, work.pieces.pop(), error)
            return self._send_next(begun, work)
        return self.stored(begun)

    def _send_next(self, begun: SentChunk, work: Work[SentChunk]) -> Outcome | Progress:
        """Send the next piece as far as that needs no waiting; the outcome where there is none."""
        piece = self._next(work)
        if piece is None:
            return self._outcome(work, begun.started)
        work.pieces.append(piece)
        begun.request = None
        with suppress(RefusedRowsError):
            begun.write, begun.rows = self._writer.write_of(begun.chunk.table, piece.rows)
            begun.request = self._sender.backend.begin(begun.write)
        return Progress.NEEDS_WAITING if begun.request is None else Progress.NO_ANSWER

    def upload(self, chunk: Chunk, begun: SentChunk | None = None) -> Outcome:
        """Upload `chunk`, or go on with what was `begun`; never raises for what a server says."""
        started = begun.started if begun else self._clock()
        work = (begun and begun.work) or Work(chunk, [Piece(chunk.rows)])
        if begun is not None and begun.request is not None:
            work.begun = begun
            self._try(work, work.pieces.pop())
        while (piece := self._next(work)) is not None:
            self._try(work, piece)
        return self._outcome(work, started)

    def _outcome(self, work: Work[SentChunk], started: float) -> Outcome:
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

    def _next(self, work: Work[SentChunk]) -> Piece | None:
        """Take the next piece that must be sent to know what becomes of it; None where there is none left."""
        while work.pieces:
            piece = work.pieces.pop()
            rows = piece.rows
            if piece.blamed is not None and work.has_proven(piece):
                self._reactions.reject(work, rows, piece.blamed)
            elif len(rows) > 1 and piece.refused_before == work.refused:
                work.split(rows, one_is_bad=True)
            elif (most := self._limits.most(rows)) < len(rows):
                work.pieces.append(msgspec.structs.replace(piece, rows=rows[most:]))
                return msgspec.structs.replace(piece, rows=rows[:most])
            else:
                return piece
        return None

    def _try(self, work: Work[SentChunk], piece: Piece) -> None:
        """Send a piece and do what the answer asks for."""
        rows = piece.rows
        if work.chunk.mixed and any(row.columns != rows[0].columns for row in rows):
            self._try_mixed(work, piece)
            return
        try:
            begun, work.begun = work.begun, None
            sent = (begun.write, begun.answer) if begun else None
            once = piece.isolating and len(rows) > 1
            self._writer.store(work, begun.rows if begun else rows, sent, once=once)
        except RefusedRowsError as refused:
            for row in rows:
                work.refuse(row, refused.error)
        except ServerError as error:
            self._reactions.react(work, piece, error)
        else:
            self._count_stored(work, piece)

    def _count_stored(self, work: Work[SentChunk], piece: Piece) -> None:
        work.uploaded += len(piece.rows)
        self._limits.stored(piece.rows)
        work.false_suspects += piece.blamed is not None
        self._stored.add(work.chunk.table)

    def _try_mixed(self, work: Work[SentChunk], piece: Piece) -> None:
        """Store the rows that are new in one request; the others then go by their columns."""
        rows = piece.rows
        try:
            rest = self._writer.store_new(work, rows, once=piece.isolating)
        except ServerError as error:
            self._reactions.react(work, piece, error)
            return
        if len(rest) < len(rows):
            work.uploaded += len(rows) - len(rest)
            self._limits.stored(rows)
            self._stored.add(work.chunk.table)
        if not work.chunk.is_ordered:
            rest = tuple(sorted(rest, key=_columns_of))
        shapes = [tuple(shape) for _, shape in groupby(rest, _columns_of)]
        work.pieces.extend(Piece(shape, isolating=piece.isolating) for shape in reversed(shapes))

    def _suspect_all(self, work: Work[SentChunk]) -> None:
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
