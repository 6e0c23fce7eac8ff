"""Adaptive limits: concurrent uploads, rows per chunk, bytes per request. Failures halve them, successes raise them.

This is additive increase, multiplicative decrease, as in TCP (RFC 5681): crawlers that share a small project come to
share it fairly without knowing of each other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Chunk, Outcome, Row

logger = logging.getLogger(__name__)

_STEPS = 7  # from 0 to the size that failed; from half of it, four steps lead slightly past it
# Successes before each step. A refusal is a rule of the server, so it is rarely tested; a timeout may be bad luck.
_AFTER_REFUSAL = 16
_AFTER_TIMEOUT = 1
_MAX_WAIT = 256
_QUICK = 1.0  # seconds; a chunk twice as large still is far from the statement timeouts of hosted Supabase (3 s, 8 s)
_SLOW = 1.0  # seconds; most requests take hundredths
_WAITING = 8  # times the concurrency: chunks that wait for a retry and do not count as in flight


class SizeLimit(msgspec.Struct):
    """A limit on a size, learned from a size that failed.

    A failure halves `largest`, the most to send. After `wait` successes with more than half of `largest`, it grows by a
    seventh of `failed`. If that fails again, `largest` returns to the size `stored` since the last failure and `wait`
    doubles: a fixed limit of the server is tested less and less often.
    """

    failed: int
    largest: int
    wait: int
    stored: int = 0
    successes: int = 0

    @classmethod
    def after(cls, size: int, *, refused: bool) -> SizeLimit:
        """Create the limit after `size` failed: either the server `refused` it, or it timed out."""
        return cls(size, max(size // 2, 1), _AFTER_REFUSAL if refused else _AFTER_TIMEOUT)

    def shrink(self, size: int, *, refused: bool) -> None:
        """Lower the limit, since `size` failed."""
        if size > self.largest:
            return  # sent before the limit was lowered
        if 0 < self.stored < size:
            self.largest, self.wait = self.stored, min(2 * self.wait, _MAX_WAIT)
        else:
            self.largest = max(size // 2, 1)
        if refused:
            self.failed, self.wait = size, max(self.wait, _AFTER_REFUSAL)
        self.stored = self.successes = 0

    def grow(self, size: int, *, alone: bool = False) -> bool:
        """Raise the limit, since `size` was stored. Return whether to drop it: the size that had failed was stored.

        A single row (`alone`) may be larger than the limit.
        """
        if size > self.largest and not alone:
            return False  # sent before the limit was lowered
        if size >= self.failed:
            return True
        self.stored = max(self.stored, size)
        if 2 * size > self.largest:
            self.successes += 1
            if self.successes >= self.wait:
                self.largest += max(self.failed // _STEPS, 1)
                self.successes = 0
        return False


class RequestLimits:
    """The most bytes of rows per request, for each table. Thread-safe."""

    def __init__(self) -> None:
        self._limits: dict[str, SizeLimit] = {}
        self._lock = threading.Lock()

    def largest(self, table: str) -> int | None:
        """Return the most bytes that a request may carry; None if there is no limit."""
        limit = self._limits.get(table)
        return limit.largest if limit else None

    def too_large(self, rows: Sequence[Row], *, refused: bool) -> None:
        """Lower the limit: a request with `rows` was `refused` for its size, or timed out."""
        table, size = rows[0].table, _size(rows)
        with self._lock:
            limit = self._limits.get(table)
            if limit is None:
                self._limits[table] = SizeLimit.after(size, refused=refused)
            else:
                limit.shrink(size, refused=refused)

    def stored(self, rows: Sequence[Row]) -> None:
        """Raise the limit: a request with `rows` was stored."""
        table = rows[0].table
        if table not in self._limits:
            return
        with self._lock:
            limit = self._limits.get(table)
            if limit is not None and limit.grow(_size(rows), alone=len(rows) == 1):
                del self._limits[table]

    def count_fitting(self, rows: Sequence[Row]) -> int:
        """Return how many of `rows`, from the first on, one request may carry: at least one."""
        largest = self.largest(rows[0].table)
        if largest is None:
            return len(rows)
        size = 0
        for number, row in enumerate(rows):
            size += len(row.data)
            if size > largest:
                return max(number, 1)
        return len(rows)


def _size(rows: Sequence[Row]) -> int:
    return sum(len(row.data) for row in rows)


class Limits:
    """The limits of uploads: `concurrency` chunks in flight, `chunk_size` rows per chunk. Both adapt to the server.

    `concurrency` never exceeds its first value. `chunk_size` grows to `max_rows`, if that is larger than its first
    value. Three kinds of chunks do not count as in flight:

    * those that wait for a retry, up to eight times `concurrency`; `waiting` returns their number;
    * up to `max_isolating` chunks whose bad rows are searched for, while concurrency is at its first value: the search
      sends further requests one after the other, and waits for each answer;
    * while concurrency is lower than that, those in flight for more than a second: one slow answer does not block all.

    Not thread-safe. `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        *,
        concurrency: int,
        chunk_size: int,
        max_rows: int,
        waiting: Callable[[], int] = lambda: 0,
        max_isolating: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.concurrency = concurrency
        self.chunk_size = chunk_size
        self._max_concurrency = concurrency
        self._max_rows = max_rows
        self._rows_limit: SizeLimit | None = None
        self._has_failed = False  # chunks double in size until one fails
        self._adapts_rows = max_rows > chunk_size
        self._clock = clock
        self._throttled_at = self._shrunk_at = float("-inf")  # times of the last decrease of concurrency and chunk size
        self._successes = 0
        self._waiting = waiting
        self._max_isolating = max_isolating
        self._started: dict[int, float] = {}  # number of each chunk in flight → time of its start
        self._isolating: set[int] = set()  # numbers of chunks in flight whose bad rows are searched for

    def started(self, chunk: Chunk) -> None:
        """Record the start of an upload."""
        self._started[chunk.number] = self._clock()

    def isolating(self, chunk: Chunk) -> None:
        """Record that `chunk` has bad rows, and that the search for them takes more requests."""
        self._isolating.add(chunk.number)

    @property
    def has_room(self) -> bool:
        """Whether one more upload may start."""
        number = len(self._started)
        if self.concurrency == self._max_concurrency:
            number -= min(len(self._isolating), self._max_isolating)
        if number < self.concurrency:
            return True
        number -= min(self._waiting(), _WAITING * self.concurrency)
        if number >= self._max_concurrency:
            return False
        since = self._clock() - _SLOW
        return min(sum(started > since for started in self._started.values()), number) < self.concurrency

    def update(self, outcome: Outcome) -> bool:
        """Adapt the limits to the outcome of a chunk. Return True if concurrency was lowered."""
        effort = outcome.effort
        now = self._clock()
        self._started.pop(outcome.chunk.number, None)
        self._isolating.discard(outcome.chunk.number)
        began = now - effort.seconds
        if self._adapts_rows:
            self._fit_rows(outcome, began, now)
        if effort.overloads:
            # Uploads that were in flight when concurrency was lowered met the same overload: do not lower it again.
            if began < self._throttled_at:
                return False
            self._throttled_at, self._successes = now, 0
            before, self.concurrency = self.concurrency, max(self.concurrency // 2, 1)
            if before > 1:
                logger.info("The server is busy: concurrent uploads lowered from %d to %d.", before, self.concurrency)
            return True
        if outcome.uploaded and self.concurrency < self._max_concurrency:
            self._successes += 1
            if self._successes >= self.concurrency:
                self.concurrency, self._successes = self.concurrency + 1, 0
        return False

    def _fit_rows(self, outcome: Outcome, began: float, now: float) -> None:
        effort, number = outcome.effort, len(outcome.chunk.rows)
        if effort.too_large or effort.timeouts:
            if began >= self._shrunk_at:
                self._shrink_rows(min(self.chunk_size, number), refused=effort.too_large > 0)
                self._shrunk_at, self._has_failed = now, True
                logger.info(
                    "A chunk of %d rows was too large for the server: chunk size lowered to %s.",
                    number,
                    pluralize(self.chunk_size, "row"),
                )
        elif (
            number >= self.chunk_size
            and outcome.uploaded == number
            and effort.requests == 1
            and effort.seconds <= _QUICK
        ):
            self._grow_rows(number)

    def _shrink_rows(self, size: int, *, refused: bool) -> None:
        if self._rows_limit is None:
            self._rows_limit = SizeLimit.after(size, refused=refused)
        else:
            self._rows_limit.shrink(size, refused=refused)
        self.chunk_size = min(self.chunk_size, self._rows_limit.largest)

    def _grow_rows(self, stored: int) -> None:
        if self._rows_limit is not None:
            if not self._rows_limit.grow(stored):
                self.chunk_size = min(self._rows_limit.largest, self._max_rows)
                return
            self._rows_limit = None
        more = max(self.chunk_size // 7, 1) if self._has_failed else self.chunk_size
        self.chunk_size = min(self.chunk_size + more, self._max_rows)
