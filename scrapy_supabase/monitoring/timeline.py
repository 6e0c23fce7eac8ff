"""When what happened in a run, in so many equal spans of time, however long it lasts."""

from __future__ import annotations

from itertools import zip_longest

import msgspec

MOST_BUCKETS = 240
KINDS = ("uploaded", "rejected", "requests", "retries", "errors")


class Timeline(msgspec.Struct):
    """Numbers by the time since the start: bucket `n` of `counts[kind]` holds those of `n * seconds` onwards.

    A bucket is a second at first. Whenever there are too many, neighbours are merged and `seconds` doubles.
    """

    seconds: float = 1.0
    counts: dict[str, list[int]] = msgspec.field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def buckets(self) -> int:
        """How many there are."""
        return max(map(len, self.counts.values()))

    def add(self, at: float, **numbers: int) -> None:
        """Add to the numbers of some kinds, `at` seconds after the start."""
        while at >= self.seconds * MOST_BUCKETS:
            self._merge()
        bucket = int(max(at, 0.0) / self.seconds)
        for kind, number in numbers.items():
            if number:
                counts = self.counts[kind]
                counts.extend([0] * (bucket + 1 - len(counts)))
                counts[bucket] += number

    def coarser(self, most: int) -> Timeline:
        """The same in at most so many buckets."""
        made = Timeline(self.seconds, {kind: list(counts) for kind, counts in self.counts.items()})
        while made.buckets > most:
            made._merge()
        return made

    def total(self, kind: str) -> int:
        """The number of a kind in all."""
        return sum(self.counts[kind])

    def _merge(self) -> None:
        self.seconds *= 2
        for kind, counts in self.counts.items():
            self.counts[kind] = [a + b for a, b in zip_longest(counts[::2], counts[1::2], fillvalue=0)]
