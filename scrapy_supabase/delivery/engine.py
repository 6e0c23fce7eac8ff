"""The engine: takes rows, seals chunks, applies back-pressure, and drains at the end of the run.

It is independent of Scrapy and of event loops. One thread, the owner, calls its methods. When something waits for an
upload, a worker thread calls the executor's `wake`, which must make the owner call `collect()` soon.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from msgspec.structs import replace

from scrapy_supabase.delivery.backlog import Backlog
from scrapy_supabase.delivery.executor import Executor, PendingUpload
from scrapy_supabase.delivery.flow import Flow
from scrapy_supabase.delivery.limits import Limits
from scrapy_supabase.delivery.observer import RunObserver
from scrapy_supabase.delivery.outage import Outage
from scrapy_supabase.delivery.schedule import Schedule
from scrapy_supabase.delivery.takeover import Takeover
from scrapy_supabase.models import Chunk, Row
from scrapy_supabase.rows.chunks import Chunker, OpenChunk
from scrapy_supabase.spool.disk import DiskSpool


class Delivery:
    """Delivers rows in chunks, as many at once as the executor has room for.

    Back-pressure: at most `limits.concurrency` full chunks may wait in memory before `add` asks its caller to wait.
    While chunks are queued on disk (see `Flow`), `add` asks for it only when the backlog is full.
    """

    def __init__(
        self,
        executor: Executor,
        schedule: Schedule,
        backlog: Backlog,
        outage: Outage,
        *,
        chunker: Chunker,
        observer: RunObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._schedule = schedule
        self._backlog = backlog
        self._outage = outage
        self._flow = Flow(executor, schedule, backlog, outage, observer, clock)
        self._chunker = chunker
        self._observer = observer
        self._clock = clock
        self._takeover: Takeover | None = None
        if isinstance(backlog.spool, DiskSpool) and not executor.blocks:  # a crawl, not a command
            self._takeover = Takeover(backlog.spool, executor, observer, clock)
        self._pressed = False
        self._waiting: Future[None] | None = None
        self._waiting_since = 0.0
        self._finished: Future[None] = Future()

    @property
    def limits(self) -> Limits:
        """The current limits of concurrency and chunk size."""
        return self._executor.limits

    @property
    def in_flight(self) -> int:
        """The number of chunks being uploaded."""
        return len(self._schedule.in_flight)

    @property
    def backlog(self) -> int:
        """The number of chunks that wait on disk."""
        return len(self._backlog)

    @property
    def pending(self) -> Sequence[PendingUpload]:
        """The uploads whose answers the owner reads itself."""
        return self._executor.pending

    @property
    def is_offline(self) -> bool:
        """Whether the server is unreachable."""
        return self._outage.is_on

    def add(self, row: Row) -> Future[None] | None:
        """Add a row. Return None, or a future to wait for before adding more."""
        sealed = self._chunker.add(row)
        if sealed:
            self._send(sealed)
            if self._schedule.queue or self._flow.is_draining:
                self.collect()  # otherwise several answers are read together later, at half the cost
        if not self._pressed:
            return None
        if self._waiting is None:
            self._waiting = Future()
            self._waiting_since = self._clock()
        return self._waiting

    def open_chunk(self) -> OpenChunk | None:
        """Return the chunk to which the caller may add rows itself; None under back-pressure or if several are open."""
        return None if self._pressed else self._chunker.only_chunk()

    def tick(self) -> None:
        """Seal the chunks that are full or were open for too long; do all periodic work. Call it once a second."""
        self._send(self._chunker.due())
        self.collect()
        self._flow.tick()
        if self._takeover is not None and not (self._flow.is_draining or self._flow.is_halted):
            found = self._takeover.tick()
            numbers = self._chunker.take_numbers(len(found))
            self._backlog.extend([replace(one, number=number) for one, number in zip(found, numbers, strict=True)])
            self._flow.advance()
        self._settle()

    def flush(self) -> None:
        """Seal all open chunks."""
        self._send(self._chunker.seal_all())

    def release(self) -> bool:
        """End back-pressure for the rest of the run, since the crawl is closing. Chunks are queued on disk instead.

        Return whether an item waited.
        """
        waited = self._waiting is not None
        if not self._flow.is_released:
            self._flow.is_released = True
            self._flow.spill_queue()
            self._advance()
        return waited

    def finish(self) -> Future[None]:
        """Seal all open chunks. Return a future that is done when every chunk is uploaded or left for the next run."""
        self._flow.drain()
        self.flush()
        self.collect()
        self._flow.look_for_server()
        return self._finished

    def abandon(self) -> None:
        """Leave all rows that are not uploaded in the spool, without waiting for running uploads."""
        self._flow.is_halted = True
        self.flush()
        self._flow.abandon()
        self._settle()

    def close(self) -> None:
        """End the threads. A busy one ends after its request; it does not keep the process alive."""
        self._executor.close()

    def collect(self) -> None:
        """Handle the uploads that have ended. Never waits."""
        self._flow.collect()
        self._settle()
        # A busy crawl reads answers with its next chunk. If something waits for an answer, threads watch for it.
        if self._pressed or self._backlog or self._schedule.deferred or self._flow.is_draining:
            self._executor.watch()

    def _send(self, sealed: Iterable[Chunk]) -> None:
        """Queue the sealed chunks, and start all that may start."""
        for chunk in sealed:
            self._flow.add(chunk)
        self._advance()

    def _advance(self) -> None:
        self._flow.advance()
        self._settle()

    def _settle(self) -> None:
        """Start or end back-pressure, and complete the future of `finish` when all chunks are done."""
        flow = self._flow
        self._chunker.max_rows = self.limits.chunk_size
        full = self._backlog.is_full()
        ahead = len(flow.held) > self.limits.concurrency
        self._pressed = (full or ahead) and not (flow.is_halted or flow.is_released)
        if self._pressed:
            self._chunker.close_room()
        if self._waiting is not None and not self._pressed:
            waiting, self._waiting = self._waiting, None
            self._observer.on_waited(self._clock() - self._waiting_since)
            waiting.set_result(None)
        if flow.is_done and not self._finished.done():
            self._finished.set_result(None)
