"""The path of a chunk: sealed, queued in memory or on disk, in flight, retried, then done or left for the next run."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from scrapy_supabase.delivery.backlog import Backlog
from scrapy_supabase.delivery.executor import Executor
from scrapy_supabase.delivery.observer import RunObserver
from scrapy_supabase.delivery.outage import Outage
from scrapy_supabase.delivery.schedule import Schedule
from scrapy_supabase.errors import FatalError, TransientError, fatal
from scrapy_supabase.messages import OWN_BUG, outdated_rows
from scrapy_supabase.models import Chunk, Outcome
from scrapy_supabase.spool.base import Loaded, Stored, is_only_new

logger = logging.getLogger(__name__)

_MAX_TRIES = 5  # uploads of one chunk that fail while others succeed; then it is left for the next run
_STALL_SECONDS = 10.0  # without the end of any upload; then chunks are queued on disk


class Flow:
    """Moves chunks between schedule, backlog and executor. Not thread-safe: one owner calls it.

    Chunks of earlier runs are uploaded first. New chunks are queued on disk while there is a backlog, when no upload
    has ended for ten seconds, and during an outage. An outage begins when an upload fails with a `TransientError` and
    no other upload has succeeded since it started.
    """

    def __init__(
        self,
        executor: Executor,
        schedule: Schedule,
        backlog: Backlog,
        outage: Outage,
        observer: RunObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_halted = False  # no further uploads
        self.is_draining = False  # no further chunks
        self.is_released = False  # no more back-pressure
        self.held: set[int] = set()  # chunks queued in memory before their first try; back-pressure limits them
        self._executor = executor
        self._schedule = schedule
        self._backlog = backlog
        self._spool = backlog.spool
        self._outage = outage
        self._observer = observer
        self._clock = clock
        self._last_success = self._last_end = clock()
        self._logged_outdated: set[str] = set()  # tables
        self._logged_unsent = False  # since the last outage ended

    @property
    def is_done(self) -> bool:
        """Whether every chunk is uploaded or left for the next run, and no more will come."""
        return self._is_last() and self._schedule.is_empty

    @property
    def is_awaited(self) -> bool:
        """Whether the end of an upload lets another chunk start, or ends the run."""
        return bool(self._schedule.queue or self._backlog or self._schedule.deferred or self.is_draining)

    def add(self, chunk: Chunk) -> None:
        """Queue a sealed chunk. The next `advance` may start it."""
        self._observer.on_chunk_sealed(chunk)
        to_disk = self._backlog or self._outage.is_on or (self.is_released and self._schedule.queue)
        if to_disk and not self.is_halted:
            self._spill(chunk)
        else:
            self._schedule.add(chunk)
            self.held.add(chunk.number)

    def spill_queue(self) -> None:
        """Move the chunks queued in memory to disk."""
        while self._schedule.queue:
            self._spill(self._schedule.queue.pop())

    def collect(self) -> None:
        """Handle the uploads that have ended, then start the next ones. Never waits."""
        for outcome in self._executor.collect():
            self._on_outcome(outcome)
        self.advance()

    def advance(self) -> None:
        """Start every chunk that may start. After a halt, leave all chunks for the next run."""
        schedule, has_room = self._schedule, self._executor.has_room
        if self.is_halted:
            for chunk in (*schedule.take_all(), *self._backlog.take_from_memory()):
                self._keep(chunk)
        elif not self._outage.is_on:
            self._start(schedule.start_overdue(has_room))
            self._refill()
            for chunk in schedule.take_kept():
                self._keep(chunk)
            self._start(schedule.start_eligible(has_room))
            if schedule.deferred:
                self.held.difference_update([chunk.number for chunk in schedule.deferred])
            self._start(schedule.start_deferred(is_last=self._is_last()))
        self._executor.wakes_owner = self.is_awaited

    def tick(self) -> None:
        """Handle slow uploads, stalls and outages. Call it once a second."""
        self._executor.tick()
        if self.held and self._spool.folder and self._clock() - self._last_end > _STALL_SECONDS and not self.is_halted:
            self.spill_queue()
            self.advance()
        self.look_for_server()

    def drain(self) -> None:
        """Declare that no more chunks come: deferred chunks may start, and the server is probed at once."""
        self.is_draining = True
        self._outage.probe_soon(self._clock())

    def abandon(self) -> None:
        """Leave all unfinished chunks for the next run. Results of running uploads are ignored from now on."""
        self.is_halted = True
        for outcome in self._executor.abandon():
            self._on_outcome(outcome)
        for chunk in list(self._schedule.in_flight.values()):
            self._keep(self._schedule.end(chunk.number))
        for kept in self._backlog.take_all():
            self._keep(kept)
        self.advance()
        if self._outage.is_on:
            self._observer.on_outage_end(self._outage.end(self._clock()))

    def look_for_server(self) -> None:
        """Probe the server when a probe is due; give up an outage that is too long."""
        now, outage = self._clock(), self._outage
        if self.is_halted or outage.error is None:
            return
        if outage.is_too_long(now):
            remedy = f"The server has been unreachable for more than {outage.max_seconds:g} s (SUPABASE_MAX_OUTAGE)."
            self._fail(fatal(outage.error, "supabase_unavailable", remedy))
        elif outage.should_probe(now):
            self._executor.run(partial(_probe, self._executor.uploads.probe, outage.table), self._probed)

    def _probed(self, error: TransientError | None) -> None:
        now = self._clock()
        if self._outage.record_probe(now, error):
            self._logged_unsent = False
            self._observer.on_outage_end(self._outage.end(now, len(self._backlog)))

    def _spill(self, chunk: Chunk) -> None:
        """Queue a chunk behind the older ones, on disk if the spool can store it."""
        if self._backlog.put(chunk):
            self.held.discard(chunk.number)
        else:
            self.held.add(chunk.number)

    def _is_last(self) -> bool:
        """Return whether no more chunks will enter the queue."""
        return self.is_draining and (self.is_halted or not self._backlog)

    def _refill(self) -> None:
        """Move the oldest chunks of the backlog into the queue, up to the number of concurrent uploads."""
        ready, to_load = self._backlog.take(self._executor.limits.concurrency - len(self._schedule.queue))
        for chunk in ready:
            self._schedule.add(chunk)
        if to_load:
            self._executor.run(partial(self._backlog.load, to_load), partial(self._loaded, to_load))

    def _start(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self.held.discard(chunk.number)
            self._executor.submit(chunk)

    def _on_outcome(self, outcome: Outcome) -> None:
        """Handle the outcome of a chunk. Its spool file is up to date already."""
        chunk = self._schedule.end(outcome.chunk.number)
        now = self._last_end = self._clock()
        if outcome.uploaded:
            self._last_success = now
        if self._executor.limits.update(outcome):
            self._observer.on_throttled()
        self._observer.on_chunk_done(outcome)
        if outcome.deferred:
            self._schedule.defer(chunk.subset(outcome.deferred, last_try=True))
        if outcome.left:
            self._try_again(chunk, outcome)
        if outcome.fatal is not None and not self.is_halted:
            self._fail(outcome.fatal)

    def _try_again(self, chunk: Chunk, outcome: Outcome) -> None:
        """Queue the rows that were neither stored nor refused again, or leave them for the next run."""
        transient = outcome.transient
        # A failure because of a lock is not counted: locks end. Nor is one for lack of room, which others have: of 16
        # crawls at once with ten connections, or behind a gateway with four requests, one left a chunk in the spool.
        has_to_wait = transient is not None and not transient.about_rows and (transient.reachable or transient.is_full)
        rest = chunk.subset(outcome.left, tries=chunk.tries if has_to_wait else chunk.tries + 1)
        if transient is None and outcome.fatal is None and is_only_new(chunk):
            self._spool.leave(rest)  # newer rows with their keys are not held back: they may be stored
            rows = Counter({chunk.table: len(rest.rows) + rest.superseded})
            self._observer.on_outdated(rows)
            level = logging.DEBUG if chunk.table in self._logged_outdated else logging.WARNING
            self._logged_outdated.add(chunk.table)
            logger.log(level, "Not uploaded: %s. %s", *outdated_rows(rows, self._spool.folder or Path()))
            return
        if transient is None or self.is_halted or rest.tries >= _MAX_TRIES:
            logged = self._keep(rest)
            if outcome.fatal is None and not self.is_halted:
                is_repeated = transient is not None and self._logged_unsent and not logged
                self._logged_unsent |= transient is not None
                logger.log(
                    logging.DEBUG if is_repeated else logging.ERROR,
                    "%s: not uploaded, and not tried again in this run%s Its rows %s.",
                    rest,
                    f": {transient}" if transient else ".",
                    _location(len(rest.rows), logged, self._spool.folder),
                )
            return
        is_silent = not transient.reachable and self._last_success <= self._last_end - outcome.effort.seconds
        if is_silent and not self._outage.is_on:
            self._outage.begin(self._last_end, chunk.table, transient, self._spool.folder)
            if self.is_draining:
                self._outage.probe_soon(self._clock())
            self.spill_queue()
        if self._outage.is_on:
            self._spill(rest)
        else:
            self._schedule.put_back(rest)

    def _keep(self, kept: Chunk | Stored) -> int:
        """Leave rows for the next run, and with them newer chunks that share a key with them.

        Return the number of rows that could not be written to the spool: they are in the log and count as rejected.
        """
        if isinstance(kept, Stored):
            self._observer.on_rows_kept(kept, self._spool.count(kept))
            return 0
        self.held.discard(kept.number)
        if not self.is_halted:
            self._schedule.keep(kept)
        lost = self._spool.leave(kept)
        if lost:
            self._observer.on_chunk_done(Outcome(kept, 0, lost))
        if len(lost) < len(kept.rows):
            superseded = 0 if lost else kept.superseded  # counted above with the lost rows
            self._observer.on_rows_kept(kept, len(kept.rows) - len(lost) + superseded)
        return len(lost)

    def _fail(self, error: FatalError) -> None:
        self.is_halted = True
        self.advance()
        self._observer.on_fatal(error)

    def _loaded(self, batch: list[Stored], loads: list[Loaded]) -> None:
        if not self._backlog.end_loading():
            return  # abandoned meanwhile
        for stored, loaded in zip(batch, loads, strict=True):
            self._observer.on_chunk_loaded(loaded)
            if loaded.chunk is not None:
                # An older chunk may have failed and been queued again while this one was read.
                if self._backlog.has_older(stored.number) or self._outage.is_on:
                    self._spill(loaded.chunk)
                else:
                    self._schedule.add(loaded.chunk)
            elif stored.rows and not loaded.damaged:  # an unreadable file of this run
                self._observer.on_rows_kept(stored, stored.rows)


def _probe(probe: Callable[[str], None], table: str) -> TransientError | None:
    try:
        probe(table)
    except TransientError as error:
        return error
    except Exception:  # None ends the outage: the next upload shows whether the server is reachable
        logger.exception("Whether the server is reachable again was not checked because of a %s", OWN_BUG)
    return None


def _location(rows: int, logged: int, folder: Path | None) -> str:
    """Describe where `rows` rows are that were not uploaded, `logged` of them in the log."""
    if logged == rows:
        return "are in the log above"
    kept = f"stay in {folder} for the next run"
    return f"{kept}, except the {logged} in the log above" if logged else kept
