"""How much one request may carry: halved by a failure, grown again by successes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from scrapy_supabase.models import Row

_STEPS = 7  # from nothing to the size that failed: from its half, four steps lead a little past it
# Successes before each step. A refusal is a rule of the server and is seldom tried again; a timeout may be bad luck.
_AFTER_REFUSAL = 16
_AFTER_TIMEOUT = 1
_LONGEST_WAIT = 256


class SizeLimit(msgspec.Struct):
    """A size that failed, and how much is tried now.

    A failure halves `largest`, the most to send. It grows by a seventh of `failed` after each `wait` successes of more
    than half of it. If that fails again, it goes back to what was `stored` since the last failure, and `wait` doubles:
    a real limit of the server is tried ever more rarely.
    """

    failed: int
    largest: int
    wait: int
    stored: int = 0
    successes: int = 0

    @classmethod
    def after(cls, size: int, *, refused: bool) -> SizeLimit:
        """The limit after `size` failed: the server `refused` it, or it timed out."""
        return cls(size, max(size // 2, 1), _AFTER_REFUSAL if refused else _AFTER_TIMEOUT)

    def shrink(self, size: int, *, refused: bool) -> None:
        """Learn that `size` failed, too."""
        if size > self.largest:
            return  # sent before the limit was known
        if 0 < self.stored < size:
            self.largest, self.wait = self.stored, min(2 * self.wait, _LONGEST_WAIT)
        else:
            self.largest = max(size // 2, 1)
        if refused:
            self.failed, self.wait = size, max(self.wait, _AFTER_REFUSAL)
        self.stored = self.successes = 0

    def grow(self, size: int, *, alone: bool = False) -> bool:
        """Learn that `size` was stored. Return whether the limit is unlearnt: as much as had failed was stored.

        One row `alone` may be larger than the limit.
        """
        if size > self.largest and not alone:
            return False  # sent before the limit was known
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
    """How many bytes of rows a request may carry, for each table. Thread-safe."""

    def __init__(self) -> None:
        self._limits: dict[str, SizeLimit] = {}
        self._lock = threading.Lock()

    def largest(self, table: str) -> int | None:
        """The most bytes that a request may carry; None where there is no limit."""
        limit = self._limits.get(table)
        return limit.largest if limit else None

    def too_large(self, rows: Sequence[Row], *, refused: bool) -> None:
        """Halve the limit: a request with `rows` was `refused` for its size, or timed out."""
        table, size = rows[0].table, _size(rows)
        with self._lock:
            limit = self._limits.get(table)
            if limit is None:
                self._limits[table] = SizeLimit.after(size, refused=refused)
            else:
                limit.shrink(size, refused=refused)

    def stored(self, rows: Sequence[Row]) -> None:
        """Let the limit grow: a request with `rows` was stored."""
        table = rows[0].table
        if table not in self._limits:
            return
        with self._lock:
            limit = self._limits.get(table)
            if limit is not None and limit.grow(_size(rows), alone=len(rows) == 1):
                del self._limits[table]

    def most(self, rows: Sequence[Row]) -> int:
        """How many of `rows`, from the first on, one request may carry: at least one."""
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
