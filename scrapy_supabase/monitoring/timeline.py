"""Counts of a run's events over time, in a limited number of equal intervals, however long the run lasts."""

from __future__ import annotations

from itertools import zip_longest

import msgspec

MAX_BUCKETS = 240
KINDS = ("uploaded", "rejected", "requests", "retries", "errors")


class Timeline(msgspec.Struct):
    """Counts by time since the start. Bucket `n` of `counts[kind]` begins at `n * seconds`.

    A bucket is one second long at first. When there are too many, neighbours are merged and `seconds` doubles.
    """

    seconds: float = 1.0
    counts: dict[str, list[int]] = msgspec.field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def buckets(self) -> int:
        """The number of buckets."""
        return max(map(len, self.counts.values()))

    def add(self, at: float, **numbers: int) -> None:
        """Add to the counts of some kinds, `at` seconds after the start."""
        while at >= self.seconds * MAX_BUCKETS:
            self._merge()
        bucket = int(max(at, 0.0) / self.seconds)
        for kind, number in numbers.items():
            if number:
                counts = self.counts[kind]
                counts.extend([0] * (bucket + 1 - len(counts)))
                counts[bucket] += number

    def coarser(self, most: int) -> Timeline:
        """Return a copy with at most `most` buckets."""
        made = Timeline(self.seconds, {kind: list(counts) for kind, counts in self.counts.items()})
        while made.buckets > most:
            made._merge()
        return made

    def total(self, kind: str) -> int:
        """Return the total count of a kind."""
        return sum(self.counts[kind])

    def _merge(self) -> None:
        self.seconds *= 2
        for kind, counts in self.counts.items():
            self.counts[kind] = [a + b for a, b in zip_longest(counts[::2], counts[1::2], fillvalue=0)]
