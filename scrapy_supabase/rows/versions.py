"""The rows of a chunk: one per key, in key order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from scrapy_supabase.models import ANY, Mode, Row, group_of


def in_key_order(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Return rows sorted by key, so that two writers lock rows in the same order and cannot deadlock.

    Rows whose keys may be equal keep their order of arrival; there, a deadlock costs one of the writers a retry.
    """
    rows = list(rows)
    groups = [group_of(row.key) if row.key is not None else "" for row in rows]
    if ANY in groups:
        return tuple(rows)
    return tuple([row for _, row in sorted(zip(groups, rows, strict=True), key=itemgetter(0))])


def one_row_per_key(rows: Sequence[Row], mode: Mode) -> tuple[Row, ...]:
    """Return one row per key, in key order, of the rows of a chunk's file, as `Chunker` does."""
    kept: dict[Any, Row] = {}
    deduplicate(kept, rows, mode)
    return in_key_order(kept.values())


def deduplicate(kept: dict[Any, Row], rows: Sequence[Row], mode: Mode) -> list[Row]:
    """Add rows to `kept`, by key or, for a row without a key, by number; return the rows that were dropped.

    The last row of a key is kept; with `Mode.IGNORE`, the first.
    """
    dropped: list[Row] = []
    for row in rows:
        key = row.key
        if key is None or mode is Mode.INSERT:
            kept[len(kept)] = row
        elif (old := kept.get(key)) is None:
            kept[key] = row
        elif mode is Mode.IGNORE:
            dropped.append(row)
        else:
            dropped.append(old)
            del kept[key]  # move the key to the end
            kept[key] = row
    return dropped
