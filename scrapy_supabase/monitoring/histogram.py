"""A histogram of durations. The width of its bins grows with the duration, so quantiles have a fixed relative error."""

from __future__ import annotations

import math

import msgspec

_LEAST = 1e-4  # seconds; shorter durations are in the first bin
_GROWTH = 1.05  # each bin is 5 % wide, so that a quantile is wrong by 2.5 % at most
_LAST = 360  # the last bin, which begins after more than an hour and has no end


class Histogram(msgspec.Struct):
    """Counts of durations in seconds, in at most 361 bins."""

    bins: dict[int, int] = msgspec.field(default_factory=dict)
    number: int = 0
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Add a duration."""
        at = 0 if seconds <= _LEAST else min(int(math.log(seconds / _LEAST) / _LOG_GROWTH), _LAST)
        self.bins[at] = self.bins.get(at, 0) + 1
        self.number += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def quantile(self, part: float) -> float:
        """Return the duration that `part` (0 to 1) of all do not exceed, within 2.5 %; 0 if there is none."""
        rank = max(1, math.ceil(part * self.number))
        seen = 0
        for at, number in sorted(self.bins.items()):
            seen += number
            if seen >= rank:
                return min(begin_of(at) * math.sqrt(_GROWTH), self.longest)
        return 0.0


def begin_of(at: int) -> float:
    """Return the lower limit of a bin in seconds. Its upper limit is that of the next bin."""
    return _LEAST * math.exp(at * _LOG_GROWTH)


_LOG_GROWTH = math.log(_GROWTH)
