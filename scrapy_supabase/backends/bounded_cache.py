"""A cache of bounded size, for values that are cheap to make again."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

_MOST = 1000  # entries, of some kilobytes at most


class BoundedCache(dict[K, V]):
    """A dictionary that is emptied when it is full. Thread-safe, since it never moves entries.

    `most` is the number of entries to keep.
    """

    def __init__(self, most: int = _MOST) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self._most:
            self.clear()
        super().__setitem__(key, value)
