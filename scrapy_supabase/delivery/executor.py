"""Execution of uploads, on the owner's thread if nothing blocks, else on a worker thread. No other module knows both.

Handing a chunk to a thread costs a busy owner more than sending it: the thread releases the interpreter lock at each
call that may block, and then waits for it again. So the owner sends a request itself if that does not block, and reads
the answer with its next chunk. Only when something waits for the answer does a thread watch for it, and wake the owner.
Uploads that block otherwise (a new connection, a retry) run entirely in a thread. If all did, a crawl without downloads
would take 13 % more CPU over REST, 3 % more over a database connection (docs/benchmarks/README.md).
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import Protocol, TypeVar

from scrapy_supabase.backends.readiness import wait_until_ready
from scrapy_supabase.delivery.limits import Limits
from scrapy_supabase.delivery.workers import WorkerPool
from scrapy_supabase.messages import OWN_BUG
from scrapy_supabase.models import Chunk, Outcome

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds. A descriptor may be closed meanwhile, and be reused for another file.
_LONGEST_WATCH = 0.5


class Progress(Enum):
    """The state of an upload that has no outcome yet."""

    NO_ANSWER = auto()
    SENT_NEXT = auto()  # a row was refused; the next request for the chunk has been sent
    NEEDS_WAITING = auto()  # the next step blocks: call `finish` in a thread


class PendingUpload(Protocol):
    """An upload whose request the owner has sent itself. One thread at a time may use it."""

    @property
    def chunk(self) -> Chunk:
        """The chunk being uploaded."""

    def poll(self) -> Outcome | Progress:
        """Return the outcome if it is known, else the state of the upload. Never blocks."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when an answer arrives."""

    def finish(self) -> Outcome:
        """Complete the upload and return its outcome. Blocks."""

    def abandon(self) -> None:
        """Close the connection without reading the answer."""


class Uploads(Protocol):
    """The uploader behind an executor. The owner calls `send`, which never blocks; worker threads call the rest."""

    def send(self, chunk: Chunk) -> PendingUpload | None:
        """Send a chunk's request. Return None if that would block, or if one request is not enough."""

    def upload(self, chunk: Chunk) -> Outcome:
        """Upload a chunk. Errors of the server are part of the outcome, and never raised."""

    def probe(self, table: str) -> None:
        """Check that the server is reachable. Raises `TransientError` if not."""


class Executor:
    """Runs uploads and other jobs for one owner, with as many uploads at once as `limits` allow.

    `settle` records an outcome in the spool before the owner receives it. `wake` is called in a worker thread when the
    owner should call `collect` soon. An owner that `blocks` watches `pending` itself while it waits, so that no thread
    has to.
    """

    def __init__(
        self,
        uploads: Uploads,
        limits: Limits,
        *,
        settle: Callable[[Outcome], None],
        wake: Callable[[], None],
        blocks: bool = False,
    ) -> None:
        self.limits = limits
        self.uploads = uploads
        self.blocks = blocks
        self.wakes_owner = False  # whether a thread wakes the owner at the end of each upload
        self._settle = settle
        self._wake = wake
        self._pending: list[PendingUpload] = []
        self._pending_before: list[PendingUpload] = []  # at the last tick
        self._running: dict[int, Chunk] = {}
        self._watched: set[int] = set()  # descriptors that threads poll
        self._jobs = 0  # running ones, uploads not included
        self._workers = WorkerPool()
        self._done: deque[Outcome | Callable[[], None]] = deque()  # any thread appends
        self._settling = threading.Lock()  # either a thread settles its chunk, or the owner abandons it

    @property
    def pending(self) -> Sequence[PendingUpload]:
        """The uploads whose answers the owner reads itself."""
        return self._pending

    def has_room(self) -> bool:
        """Return whether one more upload may start."""
        return self.limits.has_room

    def submit(self, chunk: Chunk) -> None:
        """Start the upload of a chunk."""
        self._running[chunk.number] = chunk
        self.limits.started(chunk)
        pending = None if chunk.last_try else self.uploads.send(chunk)
        if pending is None:
            self._work(partial(self._upload, chunk, partial(self.uploads.upload, chunk)))
        else:
            self._pending.append(pending)

    def run(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Run a blocking job in a worker thread. `then` is called with its result when the owner collects."""
        self._jobs += 1
        self._work(partial(self._run, job, then))

    def collect(self) -> Iterator[Outcome]:
        """Yield the outcomes of finished uploads, and run the callbacks of finished jobs. Never blocks.

        If the caller stops early, the next call yields the rest.
        """
        for pending in list(self._pending):
            if (outcome := self._poll(pending)) is not None:
                self._running.pop(outcome.chunk.number, None)
                yield outcome
        while self._done:
            done = self._done.popleft()
            if isinstance(done, Outcome):
                self._running.pop(done.chunk.number, None)
                yield done
            else:
                done()

    def watch(self) -> None:
        """Let threads wake the owner when an answer arrives."""
        if self.blocks:
            return
        for pending in self._pending:
            number = pending.fileno()
            if number not in self._watched:
                self._watched.add(number)
                self._work(partial(self._wait_for, number))

    def tick(self) -> None:
        """Hand to threads the uploads that had no answer at the last tick either. Call it once a second."""
        for pending in self._pending_before:
            if pending in self._pending:
                self._hand_over(pending, pending.finish)
        self._pending_before = list(self._pending)

    def abandon(self) -> list[Outcome]:
        """Collect one last time, then forget all uploads: their later outcomes are not recorded."""
        with self._settling:
            found = list(self.collect())
            for pending in self._pending:
                pending.abandon()
            self._pending.clear()
            self._running.clear()
        return found

    def close(self) -> None:
        """End the threads. A busy one ends after its request; it does not keep the process alive."""
        self._workers.close()

    def _poll(self, pending: PendingUpload) -> Outcome | None:
        """Return the outcome if all rows of a chunk are stored. Hand the upload to a thread if its next step blocks."""
        found = _or_left(pending.chunk, pending.poll)
        if found is Progress.SENT_NEXT:
            self.limits.isolating(pending.chunk)
        if found is Progress.NO_ANSWER or found is Progress.SENT_NEXT:
            return None
        if found is Progress.NEEDS_WAITING:
            self._hand_over(pending, pending.finish)
            return None
        if found.uploaded < len(found.chunk.rows):  # `settle` writes rejected rows to disk, which may block
            self._hand_over(pending, partial(_at_once, found))
            return None
        self._pending.remove(pending)
        self._settle(found)
        return found

    def _hand_over(self, pending: PendingUpload, upload: Callable[[], Outcome]) -> None:
        self._pending.remove(pending)
        self._work(partial(self._upload, pending.chunk, upload))

    def _work(self, job: Callable[[], None]) -> None:
        uploads = len(self._running) - len(self._pending)
        self._workers.submit(job, busy=uploads + len(self._watched) + self._jobs)

    # In a worker thread

    def _upload(self, chunk: Chunk, upload: Callable[[], Outcome]) -> None:
        outcome = _or_left(chunk, upload)
        with self._settling:
            if self._running.get(chunk.number) is not chunk:
                return  # abandoned meanwhile
            try:
                self._settle(outcome)
            except Exception:
                logger.exception("%s: the result was not written to the spool because of a %s", chunk, OWN_BUG)
                outcome = Outcome(chunk, 0, left=chunk.rows)
            self._done.append(outcome)
        # If nothing waits for the outcome, the owner collects it with its next chunk or tick: waking a busy thread is
        # expensive. No wake is lost, since the owner collects once more before it starts to wait.
        if self.wakes_owner or outcome.left or outcome.deferred:
            self._wake()

    def _run(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        found = job()
        self._done.append(partial(self._end_job, found, then))
        self._wake()

    def _end_job(self, found: T, then: Callable[[T], None]) -> None:
        self._jobs -= 1
        then(found)

    def _wait_for(self, number: int) -> None:
        with suppress(OSError, ValueError):  # closed meanwhile, which the owner notices itself
            wait_until_ready((number,), _LONGEST_WATCH)
        self._done.append(partial(self._watched.discard, number))
        self._wake()


def _or_left(chunk: Chunk, upload: Callable[[], T]) -> T | Outcome:
    """Return the result of `upload`. If it fails because of a bug, return an outcome that leaves all rows."""
    try:
        return upload()
    except Exception:
        logger.exception("%s: not uploaded because of a %s", chunk, OWN_BUG)
        return Outcome(chunk, 0, left=chunk.rows)


def _at_once(outcome: Outcome) -> Outcome:
    return outcome
