"""The upload of a chunk: sends its rows, handles refusals, and returns an `Outcome`.

Runs in worker threads; steps that never block also run in the owner's. Errors of a backend are never raised here: they
are part of the outcome.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from operator import attrgetter

import msgspec

from scrapy_supabase.backends.base import Write
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.executor import Progress
from scrapy_supabase.delivery.limits import RequestLimits
from scrapy_supabase.delivery.lost_parents import LostParents
from scrapy_supabase.delivery.parents import ParentResolver
from scrapy_supabase.delivery.reactions import Reactions
from scrapy_supabase.delivery.sent_chunk import SentChunk
from scrapy_supabase.delivery.steps import StepWriter
from scrapy_supabase.delivery.table_writer import RefusedRowsError, TableWriter
from scrapy_supabase.delivery.upload_state import NotCachedError, ParentIds, Slice, UploadState
from scrapy_supabase.errors import (
    BadRowsError,
    MissingReferenceError,
    ServerError,
    TransientError,
    fatal,
    is_policy_violation,
)
from scrapy_supabase.models import Chunk, Effort, Mode, Outcome, RowCounts
from scrapy_supabase.schema.remedies import policy_sql
from scrapy_supabase.spool.base import is_only_new

logger = logging.getLogger(__name__)

_columns_of = attrgetter("columns")
_MOST_BYTES_TO_SEARCH = 256 * 1024  # for bad rows in the owner's thread: 100 rows of 350 bytes take 0.8 ms


class Uploader:
    """Uploads chunks. Thread-safe; all upload threads share one.

    `sender` sends the requests. `parents` are those of the run. `clock` returns seconds.
    """

    def __init__(
        self,
        sender: Sender,
        parents: LostParents | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        schema = sender.schema
        self._schema = schema
        self._parents = parents or LostParents(schema)
        self._sender = sender
        self._references = ParentResolver(self._sender, schema)
        self._writer = TableWriter(self._sender, schema, self._references)
        self._steps = StepWriter(self._sender, self._writer, schema, self._references)
        self._clock = clock
        self._limits = RequestLimits()
        self._reactions = Reactions(self._sender, self._writer, schema, self._limits)
        self._stored: set[str] = set()  # tables that have taken a row

    def send(self, chunk: Chunk) -> SentChunk | None:
        """Send the request for `chunk` without blocking. Return None if that is impossible or one is not enough."""
        is_plain = self._schema.is_plain(chunk.table) and (not chunk.mixed or self._schema.writing(chunk.table).fills)
        if not is_plain or self._limits.count_fitting(chunk.rows) < len(chunk.rows) or self._parents.concerns(chunk):
            return None
        started, ids = self._clock(), self._references.new_ids(chunk.table)
        try:
            write, rows = self._writer.write_of(chunk, chunk.rows, ids)
        except (RefusedRowsError, NotCachedError):
            return None
        request = self._sender.backend.send(write)
        return SentChunk(self, chunk, rows, write, request, started, ids=ids) if request else None

    def stored(self, sent: SentChunk) -> Outcome | Progress:
        """Handle a sent request whose rows are stored. Never blocks; returns the result of `SentChunk.poll`."""
        if (state := sent.state) is not None:
            state.effort.count_request(sent.write.body)
            self._count_stored(state, state.slices.pop())
            return self._send_next(sent, state)
        self._stored.add(sent.chunk.table)
        self._limits.stored(sent.rows)
        # The answer may have arrived up to a second before it was read. Without `silence`, `upload_seconds` of a slow
        # crawl were 0.5 s per chunk; the server took 0.002 to 0.014 s (docs/benchmarks/README.md).
        silence = sent.request.silence() if sent.request else 0.0
        seconds = max(self._clock() - sent.started - silence, 0.0)
        effort = Effort(requests=1, request_bytes=len(sent.write.body), seconds=seconds)
        counts = RowCounts(inserted=len(sent.rows)) if sent.write.mode is Mode.INSERT else RowCounts()
        outcome = Outcome(sent.chunk, len(sent.rows), effort=effort, counts=counts)
        self._parents.record(outcome)
        return outcome

    def refused(self, sent: SentChunk) -> Outcome | Progress:
        """Handle a refused request. If rows are at fault, find them and send the others.

        Never blocks; returns the result of `SentChunk.poll`. A thread would release the interpreter lock and wait for
        it ten times, which costs 30 ms beside a busy crawl, and costs the crawl a third of a second per hundred chunks
        (docs/benchmarks/bad_rows).
        """
        request = sent.request
        if request is None or len(sent.write.body) > _MOST_BYTES_TO_SEARCH or not request.has_answer():
            return Progress.NEEDS_WAITING
        try:
            request.finish()
        except ServerError as error:
            needs_request = error.stale_schema or is_policy_violation(error.code, error.message)
            needs_request = needs_request or (bool(sent.ids) and isinstance(error, MissingReferenceError))
            if needs_request or not isinstance(error, BadRowsError):
                sent.refusal = error
                return Progress.NEEDS_WAITING
            state = sent.state = sent.state or UploadState(sent.chunk, [Slice(sent.chunk.rows)], sent.ids)
            state.effort.count_request(sent.write.body)
            state.effort.count(error, len(sent.rows))
            self._reactions.react(state, state.slices.pop(), error)
            return self._send_next(sent, state)
        return self.stored(sent)

    def _send_next(self, sent: SentChunk, state: UploadState[SentChunk]) -> Outcome | Progress:
        """Send the next slice if that does not block. Return the outcome if there is no slice left."""
        part = self._next(state)
        if part is None:
            return self._outcome(state, sent.started)
        state.slices.append(part)
        sent.request = None
        with suppress(RefusedRowsError, NotCachedError):
            sent.write, sent.rows = self._writer.write_of(sent.chunk, part.rows, state.ids)
            sent.request = self._sender.backend.send(sent.write)
        return Progress.NEEDS_WAITING if sent.request is None else Progress.SENT_NEXT

    def upload(self, chunk: Chunk, sent: SentChunk | None = None) -> Outcome:
        """Upload `chunk`, or complete the upload that was `sent`. Blocks. Server errors are part of the outcome."""
        started = sent.started if sent else self._clock()
        if sent is not None and sent.request is not None:
            # All rows of the chunk are on their way, also if rows that they belong to have been rejected meanwhile.
            state = sent.state or UploadState(chunk, [Slice(chunk.rows)], sent.ids)
            state.sent = sent
            self._try(state, state.slices.pop())
        else:
            ids = sent.ids if sent else self._references.new_ids(chunk.table)
            state = (sent and sent.state) or self._start(chunk, ids)
        while (part := self._next(state)) is not None:
            self._try(state, part)
        return self._outcome(state, started)

    def _start(self, chunk: Chunk, ids: ParentIds | None) -> UploadState[SentChunk]:
        """Return the state of an upload without the rows that belong to lost ones."""
        if not self._parents.concerns(chunk):
            return UploadState(chunk, [Slice(chunk.rows)], ids)
        found = self._parents.sort(chunk)
        state: UploadState[SentChunk] = UploadState(chunk, [Slice(found.send)] if found.send else [], ids)
        state.left.extend(found.leave)
        for row, error in found.reject:
            state.refuse(row, error)
        return state

    def _outcome(self, state: UploadState[SentChunk], started: float) -> Outcome:
        if not state.uploaded and not state.fatal:
            self._suspect_all(state)
        state.effort.seconds = self._clock() - started
        outcome = state.outcome()
        self._parents.record(outcome)
        return outcome

    def probe(self, table: str) -> None:
        """Send one request without rows. Raises `TransientError` if the server is unreachable."""
        schema = self._schema
        try:
            self._sender.backend.write(
                Write(table, schema.key(table), b"[]", schema.mode(table), schema.specs[table].on_conflict)
            )
        except TransientError:
            raise
        except ServerError:
            pass  # the server is reachable, whatever it answers

    def _next(self, state: UploadState[SentChunk]) -> Slice | None:
        """Remove and return the next slice to send; None if there is none left. Proven suspects are rejected unsent."""
        while state.slices:
            part = state.slices.pop()
            rows = part.rows
            if part.blamed is not None and state.has_proven(part):
                self._reactions.reject(state, rows, part.blamed)
            elif len(rows) > 1 and part.refused_before == state.refused:
                state.split(rows, one_is_bad=True)
            elif (most := self._limits.count_fitting(rows)) < len(rows):
                state.slices.append(msgspec.structs.replace(part, rows=rows[most:]))
                return msgspec.structs.replace(part, rows=rows[:most])
            else:
                return part
        return None

    def _try(self, state: UploadState[SentChunk], part: Slice) -> None:
        """Send a slice and handle the answer. Blocks."""
        try:
            ready = part if state.sent else self._references.prepare(state, part)
            if ready is None:
                return
            part, rows = ready, ready.rows
            if is_only_new(state.chunk) or self._steps.is_needed(state.chunk, rows):
                self._try_steps(state, part)
                return
            sent, state.sent = state.sent, None
            under_way = (sent.write, sent.answer) if sent else None
            once = part.isolating and len(rows) > 1
            counts = self._writer.store(state, sent.rows if sent else rows, under_way, once=once)
        except RefusedRowsError as refused:
            for row in part.rows:
                state.refuse(row, refused.error)
        except ServerError as error:
            self._react(state, part, error)
        else:
            self._count_stored(state, part, counts)

    def _react(self, state: UploadState[SentChunk], part: Slice, error: ServerError) -> None:
        if isinstance(error, MissingReferenceError) and self._references.forget(state, error):
            state.slices.append(part)
        else:
            self._reactions.react(state, part, error)

    def _count_stored(self, state: UploadState[SentChunk], part: Slice, counts: RowCounts | None = None) -> None:
        state.uploaded += len(part.rows)
        if counts is not None:
            state.counts.add(counts)
            state.uploaded -= counts.not_found
        elif self._schema.mode(state.chunk.table) is Mode.INSERT:
            state.counts.inserted += len(part.rows)
        self._limits.stored(part.rows)
        state.false_suspects += part.blamed is not None
        self._stored.add(state.chunk.table)

    def _try_steps(self, state: UploadState[SentChunk], part: Slice) -> None:
        """Store the new rows in one request; send the others by column, or afterwards, one slice per column set."""
        rows = part.rows
        try:
            rest = self._steps.store_new(state, rows, once=part.isolating)
        except RefusedRowsError as refused:
            for row in rows:
                state.refuse(row, refused.error)
            return
        except ServerError as error:
            self._react(state, part, error)
            return
        if len(rest) < len(rows):
            state.uploaded += len(rows) - len(rest)
            self._limits.stored(rows)
            self._stored.add(state.chunk.table)
        if is_only_new(state.chunk):
            state.leave(rest)
            return
        if rest and not part.isolating and self._steps.store_by_column(state, rest):
            self._count_stored(state, Slice(rest), RowCounts(updated=len(rest)))
            return
        if not state.chunk.is_ordered:
            rest = tuple(sorted(rest, key=_columns_of))
        shapes = [tuple(shape) for _, shape in groupby(rest, _columns_of)]
        state.slices.extend(Slice(shape, isolating=part.isolating) for shape in reversed(shapes))

    def _suspect_all(self, state: UploadState[SentChunk]) -> None:
        """End the run if a policy, a grant or a full disk refused all rows of the first chunk for a table."""
        table = state.chunk.table
        if table in self._stored or state.deferred or (state.transient and not state.transient.about_rows):
            return
        last, suspicion = state.rejections[-1:], state.suspicion
        if last and not state.left and all(is_policy_violation(r.code, r.message) for r in state.rejections):
            refused = re.search(r'for table "(?P<name>.+)"$', last[0].message)  # that of a parent, perhaps
            policies = policy_sql(self._schema, refused["name"] if refused else table, "insert", "select", "update")
            remedy = f"Use the project's secret key, or run: {policies}"
            words = ServerError(last[0].message, code=last[0].code)
            suspicion = fatal(words, "supabase_permission_denied", remedy)
        elif suspicion is None or any(r.code != suspicion.code for r in state.rejections):
            return
        state.fatal = suspicion
        state.transient = None
        state.rejections.clear()
        state.left[:] = state.chunk.rows
