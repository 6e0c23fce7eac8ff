"""Requests for tables with so many columns that `columns=` would exceed the length of a URL that servers accept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

LONGEST_TARGET = 6000  # bytes of path and query; nginx takes request lines of 8 KiB

_Objects = list[dict[str, msgspec.Raw]]


def keep_columns(columns: tuple[str, ...], body: bytes) -> bytes:
    """Return `body` reduced to the keys in `columns`, because a request without `columns=` stores all keys.

    A row is encoded before the server refuses a column, so that its bytes may still have it.
    """
    rows = msgspec.json.decode(body, type=_Objects)
    wanted = set(columns)
    if all(row.keys() <= wanted for row in rows):
        return body
    return msgspec.json.encode([{name: value for name, value in row.items() if name in wanted} for row in rows])


def split_columns(columns: tuple[str, ...], fits: Callable[[tuple[str, ...]], bool]) -> Iterator[tuple[str, ...]]:
    """Yield `columns` in parts for which `fits` is true, for requests without rows."""
    if fits(columns) or len(columns) == 1:
        yield columns
        return
    half = len(columns) // 2
    yield from split_columns(columns[:half], fits)
    yield from split_columns(columns[half:], fits)
