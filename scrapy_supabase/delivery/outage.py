"""Whether the server is thought to be there, and when to look again."""

from __future__ import annotations

_FIRST = 2.0  # seconds until the first look
_LONGEST = 60.0


class Circuit:
    """Open while the server is gone. All times are seconds of one clock that never goes back."""

    def __init__(self) -> None:
        self.is_open = False
        self._since = 0.0
        self._wait = _FIRST
        self._next = 0.0

    def open(self, now: float, retry_after: float | None) -> None:
        """The server is gone; it may have said for how many seconds."""
        self.is_open = True
        self._since = now
        self._wait = _FIRST
        self._next = now + max(_FIRST, retry_after or 0.0)

    def close(self, now: float) -> float:
        """The server is back. Returns for how many seconds it was gone."""
        self.is_open = False
        return now - self._since

    def lasts(self, now: float) -> float:
        """For how many seconds it has been gone."""
        return now - self._since if self.is_open else 0.0

    def due(self, now: float) -> bool:
        """Whether it is time to look."""
        return self.is_open and now >= self._next

    def still_gone(self, now: float, retry_after: float | None) -> None:
        """It was looked for in vain: the next look is twice as far, at most a minute."""
        self._wait = min(2 * self._wait, _LONGEST)
        self._next = now + max(self._wait, retry_after or 0.0)

    def hurry(self, now: float) -> None:
        """Somebody waits: look now, and then every two seconds at first."""
        self._wait = _FIRST / 2
        self._next = now
