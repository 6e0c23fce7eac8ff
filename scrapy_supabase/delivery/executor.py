"""Runs uploads: on the owner's thread what needs no waiting, on worker threads all else. Only this module knows both.

Handing a chunk to a thread costs a busy owner more than sending it: a thread gives the interpreter lock away at each
call that may wait, and waits for it again. So the owner sends a chunk's request itself, as far as that needs no
waiting, and reads the answer with its next chunk; a thread only waits for it, and wakes the owner, where more is
waiting. What needs waiting otherwise (a new connection, a retry) goes to a thread as a whole.
"""

from __future__ import annotations

import logging
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import Protocol, TypeVar

from scrapy_supabase.delivery.limits import Limits
from scrapy_supabase.delivery.workers import WorkerPool
from scrapy_supabase.messages import OWN_BUG
from scrapy_supabase.models import Chunk, Outcome

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Milliseconds. A descriptor that was closed meanwhile may stand for another file by then.
_LONGEST_WATCH = 500


class Progress(Enum):
    """How far an upload is that has no outcome yet."""

    NO_ANSWER = auto()
    SENT_NEXT = auto()  # a row was refused; the next request for the chunk is on its way
    NEEDS_WAITING = auto()  # only `finish` can tell


class PendingUpload(Protocol):
    """An upload whose request the owner has sent itself. For one thread at a time."""

    @property
    def chunk(self) -> Chunk:
        """What is uploaded."""

    def poll(self) -> Outcome | Progress:
        """Return the outcome where all rows have one. Never waits."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when an answer comes."""

    def finish(self) -> Outcome:
        """Wait for the answer, and do what it asks for."""

    def abandon(self) -> None:
        """Hang up."""


class Uploads(Protocol):
    """What uploads chunks. `send` is called by the owner and never waits, the others by worker threads."""

    def send(self, chunk: Chunk) -> PendingUpload | None:
        """Send a chunk's request; None where that needs waiting, or is no plain case."""

    def upload(self, chunk: Chunk) -> Outcome:
        """Upload a chunk; never raises for what a server says."""

    def probe(self, table: str) -> None:
        """Ask whether the server takes requests. Raises `TransientError` where it does not."""


class Executor:
    """Runs uploads and other jobs for one owner, at most as many uploads at once as `limits` allow.

    `settle` writes down an outcome where the rows are, before the owner learns it. `wake` is called in a worker thread
    where the owner should call `collect` soon. An owner that `blocks` has nothing else to do while it waits, and looks
    at `pending` meanwhile: threads are given only what takes more than that.
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
        self._blocks = blocks
        self.wakes_owner = False  # whether somebody waits for what is in flight
        self._settle = settle
        self._wake = wake
        self._pending: list[PendingUpload] = []
        self._pending_before: list[PendingUpload] = []  # the last tick
        self._running: dict[int, Chunk] = {}
        self._watched: set[int] = set()  # descriptors that threads look at
        self._jobs = 0  # others than uploads
        self._workers = WorkerPool()
        self._done: deque[Outcome | Callable[[], None]] = deque()  # by any thread
        self._settling = threading.Lock()  # a thread settles its chunk, or the owner abandons it: never both

    @property
    def pending(self) -> Sequence[PendingUpload]:
        """The uploads whose answers the owner itself waits for."""
        return self._pending

    def has_room(self) -> bool:
        """Return whether one more upload may start."""
        return self.limits.has_room

    def submit(self, chunk: Chunk) -> None:
        """Upload a chunk."""
        self._running[chunk.number] = chunk
        self.limits.started(chunk)
        pending = None if chunk.last_try else self.uploads.send(chunk)
        if pending is None:
            self._work(partial(self._upload, chunk, partial(self.uploads.upload, chunk)))
        else:
            self._pending.append(pending)

    def run(self, job: Callable[[], T], then: Callable[[T], None]) -> None:
        """Do a job that may wait in a worker thread; `then` is called with its result when the owner collects."""
        self._jobs += 1
        self._work(partial(self._run, job, then))

    def collect(self) -> Iterator[Outcome]:
        """Yield the outcomes of uploads that have come to an end; call what is to follow other jobs. Never waits.

        What is not taken from this iterator comes with the next.
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
        """Have threads wake the owner when an answer comes: somebody waits for it."""
        if self._blocks:
            return
        for pending in self._pending:
            number = pending.fileno()
            if number not in self._watched:
                self._watched.add(number)
                self._work(partial(self._wait_for, number))

    def tick(self) -> None:
        """Give threads what had no answer at the last tick, a second ago. To be called once a second."""
        for pending in self._pending_before:
            if pending in self._pending:
                self._hand_over(pending, pending.finish)
        self._pending_before = list(self._pending)

    def abandon(self) -> list[Outcome]:
        """Collect a last time, then forget all uploads: what a thread does with them is not settled any more."""
        with self._settling:
            found = list(self.collect())
            for pending in self._pending:
                pending.abandon()
            self._pending.clear()
            self._running.clear()
        return found

    def close(self) -> None:
        """Let the threads end. One that is in a request ends after it; it never keeps the process alive."""
        self._workers.close()

    def _poll(self, pending: PendingUpload) -> Outcome | None:
        """Return the outcome where all rows of a chunk are stored; give a thread what needs waiting."""
        found = _or_left(pending.chunk, pending.poll)
        if found is Progress.SENT_NEXT:
            self.limits.isolating(pending.chunk)
        if found is Progress.NO_ANSWER or found is Progress.SENT_NEXT:
            return None
        if found is Progress.NEEDS_WAITING:
            self._hand_over(pending, pending.finish)
            return None
        if found.uploaded < len(found.chunk.rows):  # rejected rows are written first: that may wait
            self._hand_over(pending, partial(_given, found))
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
                return  # abandoned
            try:
                self._settle(outcome)
            except Exception:
                logger.exception("%s: what became of it could not be written down because of a %s", chunk, OWN_BUG)
                outcome = Outcome(chunk, 0, left=chunk.rows)
            self._done.append(outcome)
        # Where nothing waits for it, the owner finds it with its next chunk or tick: waking a busy thread is dear.
        # No wake is lost: who begins to wait collects after that.
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
        with suppress(OSError, ValueError):  # it was closed: the owner sees that, too
            poll = select.poll()
            poll.register(number, select.POLLIN)
            poll.poll(_LONGEST_WATCH)
        self._done.append(partial(self._watched.discard, number))
        self._wake()


def _or_left(chunk: Chunk, upload: Callable[[], T]) -> T | Outcome:
    """Return what `upload` returns; where our own code fails in it, the outcome of a chunk that is left."""
    try:
        return upload()
    except Exception:
        logger.exception("%s: not uploaded because of a %s", chunk, OWN_BUG)
        return Outcome(chunk, 0, left=chunk.rows)


def _given(outcome: Outcome) -> Outcome:
    return outcome
