"""The engine: takes rows, seals chunks, uploads them in its own threads, and says when to wait.

It knows no Scrapy and no event loop. One thread owns it and calls its methods; upload threads call only `_work`. When
an upload is over and something waits for it, `wake()` is called in the upload thread: it must make the owner call
`collect()` soon.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Protocol

from scrapy_supabase.chunks import Chunker
from scrapy_supabase.models import Chunk, Outcome, Row
from scrapy_supabase.spool import Spool

logger = logging.getLogger(__name__)

# They are kept in memory; a row whose foreign key leads nowhere should not wait for the end of the crawl either.
_MOST_DEFERRED = 32


class Observer(Protocol):
    """Is told what happened, in the owner's thread, after the fact."""

    def sealed(self, chunk: Chunk) -> None:
        """A chunk is complete and on its way."""

    def settled(self, outcome: Outcome) -> None:
        """A chunk's rows are where the outcome says; those deferred come again in another chunk."""

    def waited(self, seconds: float) -> None:
        """Items had to wait this long because too much was on its way."""


class BegunUpload(Protocol):
    """An upload whose request the owner has sent itself. For one thread at a time."""

    @property
    def chunk(self) -> Chunk:
        """What is uploaded."""

    def poll(self) -> Outcome | bool:
        """The outcome where all went well; True: no answer yet; False: only `finish` can tell. Never waits."""

    def finish(self) -> Outcome:
        """Wait for the answer, and do what it asks for."""

    def abandon(self) -> None:
        """Hang up."""


class Delivery:
    """Delivers rows to `upload`, at most `workers` chunks at once.

    Handing a chunk to a thread costs a busy owner more than sending it: so what needs no waiting the owner does itself.
    `begin` sends a chunk as far as possible, or returns None; the answer is looked for when the next chunk is sealed.
    What goes wrong, or is waited for, goes to the threads.

    Chunks that share a key are uploaded in the order in which they were sealed, and so is a chunk after those of tables
    that its rows may refer to (`references(table)`); all others in any order.

    Deferred rows refer to others that may come later. They are tried a last time when the rows come to an end, when a
    newer version of one of them waits, or when more than 32 chunks are deferred.
    """

    def __init__(
        self,
        upload: Callable[[Chunk], Outcome],
        *,
        begin: Callable[[Chunk], BegunUpload | None] = lambda _: None,
        chunker: Chunker,
        spool: Spool,
        observer: Observer,
        references: Callable[[str], frozenset[str]],
        workers: int,
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upload = upload
        self._begin = begin
        self._begun: list[BegunUpload] = []
        self._begun_before: list[BegunUpload] = []  # the last tick
        self._chunker = chunker
        self._spool = spool
        self._observer = observer
        self._references = references
        self._workers = workers
        self._wake = wake
        self._clock = clock
        self._queue: deque[Chunk] = deque()  # sealed, not yet given to a thread; oldest first
        self._in_flight: dict[int, Chunk] = {}
        self._deferred: deque[Chunk] = deque()  # oldest first
        self._jobs: SimpleQueue[tuple[Chunk, Callable[[], Outcome]] | None] = SimpleQueue()
        self._done: SimpleQueue[Outcome] = SimpleQueue()
        self._settling = threading.Lock()  # a thread settles its chunk, or the owner abandons it: never both
        self._threads = 0
        self._waiting: Future[None] | None = None
        self._waiting_since = 0.0
        self._idle: Future[None] | None = None
        self._halted = False

    @property
    def in_flight(self) -> int:
        """How many chunks are being uploaded now."""
        return len(self._in_flight)

    def add(self, row: Row) -> Future[None] | None:
        """Take a row. Returns None, or what the giver should wait for before it gives more."""
        sealed = self._chunker.add(row)
        if sealed:
            for chunk in sealed:
                self._enqueue(chunk)
            self.collect()
        if not self._queue:
            return None
        if self._waiting is None:
            self._waiting = Future()
            self._waiting_since = self._clock()
        return self._waiting

    def tick(self) -> None:
        """Seal the chunks that have waited long enough for more rows. To be called about once a second."""
        for chunk in self._chunker.due():
            self._enqueue(chunk)
        self.collect()
        for begun in self._begun_before:
            if begun in self._begun:
                self._hand_over(begun)
        self._begun_before = list(self._begun)

    def flush(self) -> None:
        """Seal all open chunks."""
        for chunk in self._chunker.seal_all():
            self._enqueue(chunk)

    def finish(self) -> Future[None]:
        """Seal all open chunks and return what is done when everything has been uploaded or given up."""
        if self._idle is None:
            self._idle = Future()
        self.flush()
        self.collect()
        return self._idle

    def halt(self) -> None:
        """Upload nothing any more: what is not uploaded stays in the spool, and what comes goes there."""
        self._halted = True
        self._advance()

    def abandon(self) -> None:
        """Leave what is not uploaded in the spool, whatever the threads do: the end of a close that took too long."""
        self.halt()
        with self._settling:
            self.collect()
            for begun in self._begun:
                begun.abandon()
            self._begun.clear()
            for chunk in self._in_flight.values():
                self._observer.settled(self._spool.settle(Outcome(chunk, 0, left=chunk.rows)))
            self._in_flight.clear()
        self._advance()

    def close(self) -> None:
        """Let the threads end. One that is in a request ends after it; it never keeps the process alive."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def collect(self) -> None:
        """Take in the outcomes that are there. Never waits."""
        for begun in list(self._begun):
            found = begun.poll()
            if isinstance(found, Outcome):
                self._begun.remove(begun)
                self._done.put(self._spool.settle(found))
            elif not found:
                self._hand_over(begun)
        while not self._done.empty():
            outcome = self._done.get_nowait()
            del self._in_flight[outcome.chunk.number]
            self._observer.settled(outcome)
            if outcome.deferred:
                again = replace(outcome.chunk, rows=outcome.deferred, superseded=0, last_try=True)
                self._deferred.append(again)
        self._advance()
        if self._queue or self._idle is not None:  # somebody waits
            for begun in list(self._begun):
                self._hand_over(begun)

    def _enqueue(self, chunk: Chunk) -> None:
        self._observer.sealed(chunk)
        self._queue.append(chunk)
        self._advance()

    def _advance(self) -> None:
        """Start what may start, and tell those who wait."""
        if self._halted:
            for chunk in (*self._deferred, *self._queue):
                self._observer.settled(self._spool.settle(Outcome(chunk, 0, left=chunk.rows)))
            self._deferred.clear()
            self._queue.clear()
        else:
            while len(self._deferred) > _MOST_DEFERRED and len(self._in_flight) < self._workers:
                self._start(self._deferred.popleft())
            self._start_eligible()
            # Alone, so that all they may refer to is there. With nothing in flight, the queue waits for one of them.
            if self._deferred and not self._in_flight and (self._queue or self._idle is not None):
                chunk = self._next_deferred()
                self._deferred.remove(chunk)
                self._start(chunk)
        if self._waiting is not None and not self._queue:
            waiting, self._waiting = self._waiting, None
            self._observer.waited(self._clock() - self._waiting_since)
            waiting.set_result(None)
        busy = self._queue or self._in_flight or self._deferred
        if self._idle is not None and not busy and not self._idle.done():
            self._idle.set_result(None)

    def _start_eligible(self) -> None:
        """Start chunks, oldest first, except those that must wait for another."""
        stay: list[Chunk] = []  # older ones that stay in the queue
        for chunk in list(self._queue):
            if len(self._in_flight) >= self._workers:
                return
            older = (*stay, *self._in_flight.values())
            if any(self._must_wait(chunk, one) for one in older) or any(_share_key(chunk, d) for d in self._deferred):
                stay.append(chunk)
            else:
                self._queue.remove(chunk)
                self._start(chunk)

    def _next_deferred(self) -> Chunk:
        """The deferred chunk to go first: what holds up the queue, else one that refers to no other of them."""
        if self._idle is None:
            return next(chunk for chunk in self._deferred if _share_key(self._queue[0], chunk))
        tables = {chunk.table for chunk in self._deferred}
        parents = (chunk for chunk in self._deferred if not tables & self._references(chunk.table) - {chunk.table})
        return next(parents, self._deferred[0])

    def _must_wait(self, chunk: Chunk, older: Chunk) -> bool:
        """Whether `chunk` may only be uploaded after `older`."""
        return _share_key(chunk, older) or older.table in self._references(chunk.table)

    def _start(self, chunk: Chunk) -> None:
        self._in_flight[chunk.number] = chunk
        begun = None if chunk.last_try or self._idle is not None else self._begin(chunk)
        if begun is None:
            self._give(chunk, partial(self._upload, chunk))
        else:
            self._begun.append(begun)

    def _hand_over(self, begun: BegunUpload) -> None:
        self._begun.remove(begun)
        self._give(begun.chunk, begun.finish)

    def _give(self, chunk: Chunk, job: Callable[[], Outcome]) -> None:
        if self._threads < min(self._workers, len(self._in_flight)):
            self._threads += 1
            # A daemon: a server that never answers must not keep the process from ending.
            threading.Thread(target=self._work, name=f"supabase-upload-{self._threads}", daemon=True).start()
        self._jobs.put((chunk, job))

    def _work(self) -> None:
        while (given := self._jobs.get()) is not None:
            self._do(*given)
            del given  # a thread that waits must not keep the rows of its last chunk

    def _do(self, chunk: Chunk, job: Callable[[], Outcome]) -> None:
        try:
            outcome = job()
        except Exception:
            logger.exception("%s: a fault of scrapy-supabase itself. Its rows stay in the spool.", chunk)
            outcome = Outcome(chunk, 0, left=chunk.rows)
        with self._settling:
            if self._in_flight.get(chunk.number) is not chunk:
                return  # abandoned
            self._done.put(self._spool.settle(outcome))
        # Where nothing waits for it, the owner finds it with its next chunk or tick: waking a busy thread is dear.
        # No wake is lost: who begins to wait looks at `_done` after that.
        if self._queue or self._deferred or self._idle is not None or outcome.fatal is not None or outcome.deferred:
            self._wake()


def _share_key(chunk: Chunk, other: Chunk) -> bool:
    return chunk.table == other.table and not chunk.keys.isdisjoint(other.keys)
