"""How much at once: uploads in flight and rows a chunk, as the server's answers suggest.

Additive increase, multiplicative decrease, as TCP does it (RFC 5681): crawlers that share a small project come to share
it fairly without knowing of each other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from scrapy_supabase.delivery.limits import SizeLimit
from scrapy_supabase.messages import counted
from scrapy_supabase.models import Chunk, Outcome

logger = logging.getLogger(__name__)

_QUICK = 1.0  # seconds; a chunk twice as large still is far from the statement timeouts of hosted Supabase (3 s, 8 s)


_SLOW = 1.0  # seconds; most requests take hundredths
_WAITING = 4  # chunks that wait for their next try, for each upload at once


class Pace:
    """At most `uploads` in flight; chunks of `rows` rows, which grow to `most_rows` where that is more.

    Chunks that wait for their next try do not count (`waiting` is how many do), up to four times `uploads`. While the
    server is busy and `uploads` is lower than at first, neither do those that take longer than a second: one slow
    answer does not hold up the others.

    Not thread-safe. `uploads` and `rows` are what is in force now. `clock` gives seconds and never goes back.
    """

    def __init__(
        self,
        *,
        uploads: int,
        rows: int,
        most_rows: int,
        waiting: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.uploads = uploads
        self.rows = rows
        self._most_uploads = uploads
        self._most_rows = most_rows
        self._rows_limit: SizeLimit | None = None
        self._has_failed = False  # before, chunks double
        self._adapts_rows = most_rows > rows
        self._clock = clock
        self._slowed = self._shrunk = float("-inf")  # when that was
        self._successes = 0
        self._waiting = waiting
        self._started: dict[int, float] = {}  # number of a chunk in flight → when

    def started(self, chunk: Chunk) -> None:
        """An upload begins."""
        self._started[chunk.number] = self._clock()

    @property
    def has_room(self) -> bool:
        """Whether one more upload may begin."""
        number = len(self._started)
        if number < self.uploads:
            return True
        number -= min(self._waiting(), _WAITING * self.uploads)
        if number >= self._most_uploads:
            return False
        since = self._clock() - _SLOW
        return min(sum(started > since for started in self._started.values()), number) < self.uploads

    def took(self, outcome: Outcome) -> bool:
        """Learn from what came of a chunk. True where fewer uploads are in flight from now on."""
        effort = outcome.effort
        now = self._clock()
        self._started.pop(outcome.chunk.number, None)
        began = now - effort.seconds
        if self._adapts_rows:
            self._fit_rows(outcome, began, now)
        if effort.overloads:
            # Those that were in flight at the time say the same once more.
            if began < self._slowed:
                return False
            self._slowed, self._successes = now, 0
            before, self.uploads = self.uploads, max(self.uploads // 2, 1)
            if before > 1:
                logger.info(
                    "The server is busy: %s at once from now on, not %d.", counted(self.uploads, "upload"), before
                )
            return True
        if outcome.uploaded and self.uploads < self._most_uploads:
            self._successes += 1
            if self._successes >= self.uploads:
                self.uploads, self._successes = self.uploads + 1, 0
        return False

    def _fit_rows(self, outcome: Outcome, began: float, now: float) -> None:
        effort, number = outcome.effort, len(outcome.chunk.rows)
        if effort.too_large or effort.timeouts:
            if began >= self._shrunk:
                self._shrink_rows(min(self.rows, number), refused=effort.too_large > 0)
                self._shrunk, self._has_failed = now, True
                logger.info(
                    "A chunk of %d rows was too much: %s a chunk from now on.", number, counted(self.rows, "row")
                )
        elif number >= self.rows and outcome.uploaded == number and effort.requests == 1 and effort.seconds <= _QUICK:
            self._grow_rows(number)

    def _shrink_rows(self, size: int, *, refused: bool) -> None:
        if self._rows_limit is None:
            self._rows_limit = SizeLimit.after(size, refused=refused)
        else:
            self._rows_limit.shrink(size, refused=refused)
        self.rows = min(self.rows, self._rows_limit.largest)

    def _grow_rows(self, stored: int) -> None:
        if self._rows_limit is not None:
            if not self._rows_limit.grow(stored):
                self.rows = min(self._rows_limit.largest, self._most_rows)
                return
            self._rows_limit = None
        more = max(self.rows // 7, 1) if self._has_failed else self.rows
        self.rows = min(self.rows + more, self._most_rows)
