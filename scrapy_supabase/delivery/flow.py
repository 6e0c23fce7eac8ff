"""Chunks on their way: sealed, queued, put off to disk, in flight, tried again, done or left to the next run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from scrapy_supabase.delivery.backlog import Backlog
from scrapy_supabase.delivery.executor import Executor
from scrapy_supabase.delivery.observer import RunObserver
from scrapy_supabase.delivery.outage import Outage
from scrapy_supabase.delivery.schedule import Schedule
from scrapy_supabase.errors import FatalError, TransientError, fatal
from scrapy_supabase.messages import OWN_BUG
from scrapy_supabase.models import Chunk, Loaded, Outcome, Stored

logger = logging.getLogger(__name__)

# A chunk that was given up this often while others got through is left for the next run.
_MOST_TRIES = 5
# Seconds in which no upload came to an end: then chunks line up on disk.
_STALLED = 10.0


class Flow:
    """Moves chunks between the schedule, the backlog, and the executor; for one owner.

    What earlier runs left goes first. As long as there is a backlog, new chunks line up behind it on disk. So they do
    when no upload has come to an end for ten seconds, and in an outage: a chunk was given up and nothing else got
    through meanwhile.
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
        self.is_halted = False  # nothing is uploaded any more
        self.is_draining = False  # no more chunks come
        self.is_released = False  # nobody waits any more
        self.held: set[int] = set()  # chunks that wait in memory though nothing was tried: the crawl is too fast
        self._executor = executor
        self._schedule = schedule
        self._backlog = backlog
        self._spool = backlog.spool
        self._outage = outage
        self._observer = observer
        self._clock = clock
        self._last_success = self._last_end = clock()
        self._said_kept = False  # in this outage, or since the last one

    @property
    def is_done(self) -> bool:
        """Whether every chunk is where it can be, and none will come."""
        return self._is_last() and self._schedule.is_empty

    @property
    def is_awaited(self) -> bool:
        """Whether something waits for the uploads in flight."""
        return bool(self._schedule.queue or self._backlog or self._schedule.deferred or self.is_draining)

    def add(self, chunk: Chunk) -> None:
        """Line up a chunk that is sealed; `advance` starts it."""
        self._observer.on_chunk_sealed(chunk)
        in_line = self._backlog or self._outage.is_on or (self.is_released and self._schedule.queue)
        if in_line and not self.is_halted:
            self._put_off(chunk)
        else:
            self._schedule.add(chunk)
            self.held.add(chunk.number)

    def put_queue_off(self) -> None:
        """Line up on disk what waits in memory."""
        while self._schedule.queue:
            self._put_off(self._schedule.queue.pop())

    def collect(self) -> None:
        """Take in what has come to an end, and start what may start. Never waits."""
        for outcome in self._executor.collect():
            self._take(outcome)
        self.advance()

    def advance(self) -> None:
        """Start what may start; once halted, leave all to the next run."""
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
            self._start(schedule.start_deferred(is_last=self._is_last()))
        self._executor.wakes_owner = self.is_awaited

    def tick(self) -> None:
        """Look after what takes long. To be called once a second."""
        self._executor.tick()
        if self.held and self._spool.folder and self._clock() - self._last_end > _STALLED and not self.is_halted:
            self.put_queue_off()
            self.advance()
        self.look_for_server()

    def drain(self) -> None:
        """Learn that no more chunks come: what waits for the end need not wait any more."""
        self.is_draining = True
        self._outage.probe_soon(self._clock())

    def abandon(self) -> None:
        """Leave what is not uploaded to the next run, whatever the threads do."""
        self.is_halted = True
        for outcome in self._executor.abandon():
            self._take(outcome)
        for chunk in list(self._schedule.in_flight.values()):
            self._keep(self._schedule.end(chunk.number))
        for kept in self._backlog.take_all():
            self._keep(kept)
        self.advance()
        if self._outage.is_on:
            self._observer.on_outage_end(self._outage.end(self._clock()))

    def look_for_server(self) -> None:
        """Probe the server where that is due; end an outage that is too long."""
        now, outage = self._clock(), self._outage
        if self.is_halted or outage.error is None:
            return
        if outage.is_too_long(now):
            remedy = f"The server has been unreachable for more than {outage.longest:g} s (SUPABASE_MAX_OUTAGE)."
            self._fail(fatal(outage.error, "supabase_unavailable", remedy))
        elif outage.should_probe(now):
            self._executor.run(partial(_probe, self._executor.uploads.probe, outage.table), self._probed)

    def _probed(self, error: TransientError | None) -> None:
        now = self._clock()
        if self._outage.record_probe(now, error):
            self._said_kept = False
            self._observer.on_outage_end(self._outage.end(now, len(self._backlog)))

    def _put_off(self, chunk: Chunk) -> None:
        """Line a chunk up behind the older ones, on disk where that has it."""
        if self._backlog.put(chunk):
            self.held.discard(chunk.number)
        else:
            self.held.add(chunk.number)

    def _is_last(self) -> bool:
        """Whether no more chunks will come into the queue."""
        return self.is_draining and (self.is_halted or not self._backlog)

    def _refill(self) -> None:
        """Let the oldest of the backlog into the queue, as many as will soon be needed."""
        ready, to_load = self._backlog.take(self._executor.limits.concurrency - len(self._schedule.queue))
        for chunk in ready:
            self._schedule.add(chunk)
        if to_load:
            self._executor.run(partial(self._backlog.load, to_load), partial(self._loaded, to_load))

    def _start(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self.held.discard(chunk.number)
            self._executor.submit(chunk)

    def _take(self, outcome: Outcome) -> None:
        """Go on with what came of a chunk. Its spool file is settled already."""
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
        """Queue the rows that got no verdict, or leave them to the next run."""
        transient = outcome.transient
        # A lock on the table ends some time: that does not count.
        is_locked = transient is not None and transient.reachable and not transient.about_rows
        rest = chunk.subset(outcome.left, tries=chunk.tries if is_locked else chunk.tries + 1)
        if transient is None or self.is_halted or rest.tries >= _MOST_TRIES:
            logged = self._keep(rest)
            if outcome.fatal is None and not self.is_halted:
                is_said = transient is not None and self._said_kept and not logged
                self._said_kept |= transient is not None
                logger.log(
                    logging.DEBUG if is_said else logging.ERROR,
                    "%s: not uploaded, and not tried again in this run%s Its rows %s.",
                    rest,
                    f": {transient}" if transient else ".",
                    _where_they_are(len(rest.rows), logged, self._spool.folder),
                )
            return
        is_silent = not transient.reachable and self._last_success <= self._last_end - outcome.effort.seconds
        if is_silent and not self._outage.is_on:
            self._outage.begin(self._last_end, chunk.table, transient, self._spool.folder)
            if self.is_draining:
                self._outage.probe_soon(self._clock())
            self.put_queue_off()
        if self._outage.is_on:
            self._put_off(rest)
        else:
            self._schedule.put_back(rest)

    def _keep(self, kept: Chunk | Stored) -> int:
        """Leave rows to the next run, and with them all that share a key with them and are newer.

        Return the number of rows for which there is no place: they are in the log, and rejected.
        """
        if isinstance(kept, Stored):
            self._observer.on_rows_kept(kept, self._spool.count(kept))
            return 0
        self.held.discard(kept.number)
        if not self.is_halted and kept.origin is None:  # newer rows are stored; older ones of another run can wait
            self._schedule.keep(kept)
        lost = self._spool.leave(kept)
        if lost:
            self._observer.on_chunk_done(Outcome(kept, 0, lost))
        if len(lost) < len(kept.rows):
            superseded = 0 if lost else kept.superseded  # else counted with what is lost
            self._observer.on_rows_kept(kept, len(kept.rows) - len(lost) + superseded)
        return len(lost)

    def _fail(self, error: FatalError) -> None:
        self.is_halted = True
        self.advance()
        self._observer.on_fatal(error)

    def _loaded(self, batch: list[Stored], loads: list[Loaded]) -> None:
        if not self._backlog.end_loading():
            return  # abandoned
        for stored, loaded in zip(batch, loads, strict=True):
            self._observer.on_chunk_loaded(loaded)
            if loaded.chunk is not None:
                # Meanwhile an older one may have come back.
                if self._backlog.has_older(stored.number) or self._outage.is_on:
                    self._put_off(loaded.chunk)
                else:
                    self._schedule.add(loaded.chunk)
            elif stored.rows and not loaded.damaged:  # of this run, and not readable
                self._observer.on_rows_kept(stored, stored.rows)


def _probe(probe: Callable[[str], None], table: str) -> TransientError | None:
    try:
        probe(table)
    except TransientError as error:
        return error
    except Exception:  # then an upload will show it again
        logger.exception("Whether the server is reachable again could not be checked because of a %s", OWN_BUG)
    return None


def _where_they_are(rows: int, logged: int, folder: Path | None) -> str:
    """Say where rows that were not uploaded are, `logged` of them in the log."""
    if logged == rows:
        return "are in the log above"
    kept = f"stay in {folder} for the next run"
    return f"{kept}, except the {logged} in the log above" if logged else kept
