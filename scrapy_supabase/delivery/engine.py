"""The engine: takes rows, seals chunks, says when to wait (back-pressure), and drains at the end.

It knows no Scrapy and no event loop. One thread owns it and calls its methods. Where something waits for an upload, the
executor's `wake` is called in a thread: it must make the owner call `collect()` soon.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from scrapy_supabase.delivery.backlog import Backlog
from scrapy_supabase.delivery.executor import Executor, PendingUpload
from scrapy_supabase.delivery.flow import Flow
from scrapy_supabase.delivery.limits import Limits
from scrapy_supabase.delivery.observer import RunObserver
from scrapy_supabase.delivery.outage import Outage
from scrapy_supabase.delivery.schedule import Schedule
from scrapy_supabase.models import Chunk, Row
from scrapy_supabase.rows.chunks import Chunker, OpenChunk


class Delivery:
    """Delivers rows, as many chunks at once as the executor has room for.

    The giver of rows may be as many chunks ahead as are uploaded at once; then it waits. Where chunks line up on disk
    (see `Flow`), it waits only when the backlog is full.

    Full chunks start together once they hold `together` rows, or are as many as may be in flight: what a busy crawl has
    driven out of the processor's caches is fetched once for all of them. None waits longer than until the next tick.
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
        together: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._schedule = schedule
        self._backlog = backlog
        self._outage = outage
        self._flow = Flow(executor, schedule, backlog, outage, observer, clock)
        self._chunker = chunker
        self._observer = observer
        self._together = together
        self._clock = clock
        self._sealed: deque[Chunk] = deque()  # to start together, oldest first
        self._pressed = False
        self._waiting: Future[None] | None = None
        self._waiting_since = 0.0
        self._idle: Future[None] | None = None

    @property
    def limits(self) -> Limits:
        """How much at once."""
        return self._executor.limits

    @property
    def in_flight(self) -> int:
        """How many chunks are being uploaded now."""
        return len(self._schedule.in_flight)

    @property
    def backlog(self) -> int:
        """How many chunks wait on disk."""
        return len(self._backlog)

    @property
    def pending(self) -> Sequence[PendingUpload]:
        """The uploads whose answers the owner itself waits for."""
        return self._executor.pending

    @property
    def is_offline(self) -> bool:
        """Whether the server is unreachable."""
        return self._outage.is_on

    def add(self, row: Row) -> Future[None] | None:
        """Take a row. Returns None, or what the giver should wait for before it gives more."""
        sealed = self._chunker.add(row)
        if sealed:
            self._sealed.extend(sealed)
            rows = sum(len(chunk.rows) for chunk in self._sealed)
            enough = rows >= self._together or len(self._sealed) >= self.limits.concurrency
            if enough or self._flow.is_halted or self._idle is not None:
                self._send_sealed()
                if self._schedule.queue or self._idle is not None:
                    self.collect()  # else several answers at once, later: that is half the work
        if not self._pressed:
            return None
        if self._waiting is None:
            self._waiting = Future()
            self._waiting_since = self._clock()
        return self._waiting

    def open_chunk(self) -> OpenChunk | None:
        """Return a chunk that rows of its table and columns may be added to instead."""
        return None if self._pressed else self._chunker.only()

    def tick(self) -> None:
        """Seal the chunks that are full, or have waited long enough for more rows. To be called once a second."""
        self._send_sealed(self._chunker.due())
        self.collect()
        self._flow.tick()
        self._settle()

    def flush(self) -> None:
        """Seal all open chunks."""
        self._send_sealed(self._chunker.seal_all())

    def release(self) -> bool:
        """Have nobody wait any more, now or later: the crawl is being closed. Chunks line up on disk instead.

        Return whether somebody waited.
        """
        waited = self._waiting is not None
        if not self._flow.is_released:
            self._flow.is_released = True
            self._flow.put_queue_off()
            self._advance()
        return waited

    def finish(self) -> Future[None]:
        """Seal all open chunks and return what is done when everything has been uploaded or given up."""
        if self._idle is None:
            self._idle = Future()
        self._flow.drain()
        self.flush()
        self.collect()
        self._flow.look_for_server()
        return self._idle

    def abandon(self) -> None:
        """Leave what is not uploaded in the spool, whatever the threads do: the end of a close that took too long."""
        self._flow.is_halted = True
        self.flush()
        self._flow.abandon()
        self._settle()

    def close(self) -> None:
        """Let the threads end. One that is in a request ends after it; it never keeps the process alive."""
        self._executor.close()

    def collect(self) -> None:
        """Take in what has come to an end. Never waits."""
        self._flow.collect()
        self._settle()
        # A busy crawl looks for answers with its next chunk; where more than that waits for them, threads look.
        if self._pressed or self._backlog or self._schedule.deferred or self._idle is not None:
            self._executor.watch()

    def _send_sealed(self, more: Iterable[Chunk] = ()) -> None:
        """Line up what is sealed, and start what may start."""
        self._sealed.extend(more)
        while self._sealed:
            self._flow.add(self._sealed.popleft())
        self._advance()

    def _advance(self) -> None:
        self._flow.advance()
        self._settle()

    def _settle(self) -> None:
        """Hold the giver of rows back or let it go on, and tell who waits for the end."""
        flow = self._flow
        if flow.is_halted and self._sealed:
            self._send_sealed()
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
        if self._idle is not None and not self._idle.done() and flow.is_done:
            self._idle.set_result(None)
