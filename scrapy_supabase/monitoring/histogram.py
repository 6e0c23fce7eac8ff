"""How long something took, many times: counts in bins whose width grows with the time, so that quantiles stay exact."""

from __future__ import annotations

import math

import msgspec

_LEAST = 1e-4  # seconds; what is shorter is in the first bin
_GROWTH = 1.05  # a bin ends 5 % later than it begins: a quantile is wrong by half of that at most
_LAST = 360  # the bin that begins after more than an hour, and has no end


class Histogram(msgspec.Struct):
    """Seconds, counted. At most 361 numbers, whatever is added."""

    bins: dict[int, int] = msgspec.field(default_factory=dict)
    number: int = 0
    total: float = 0.0
    longest: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        at = 0 if seconds <= _LEAST else min(int(math.log(seconds / _LEAST) / _LOG_GROWTH), _LAST)
        self.bins[at] = self.bins.get(at, 0) + 1
        self.number += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def quantile(self, part: float) -> float:
        """The time that `part` (0 to 1) of all did not exceed, within 2.5 %; 0 where there is none."""
        rank = max(1, math.ceil(part * self.number))
        seen = 0
        for at, number in sorted(self.bins.items()):
            seen += number
            if seen >= rank:
                return min(begin_of(at) * math.sqrt(_GROWTH), self.longest)
        return 0.0


def begin_of(at: int) -> float:
    """The seconds with which a bin begins; it ends with those of the next."""
    return _LEAST * math.exp(at * _LOG_GROWTH)


_LOG_GROWTH = math.log(_GROWTH)
