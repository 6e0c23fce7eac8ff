"""The spool of runs that keep nothing on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from scrapy_supabase.models import Chunk, Loaded, Origin, Outcome, Rejection, Row, Stored
from scrapy_supabase.rows.chunks import ChunkFile
from scrapy_supabase.spool.lost_rows import log_rows, not_kept


class NoSpool:
    """Keeps nothing (`SUPABASE_SPOOL_DIR = None`). Rows that are not stored go to `report`, by default the log."""

    folder: Path | None = None
    name = ""
    direct = (len, sys.maxsize)  # what takes a line and does nothing

    def __init__(self, report: Callable[[tuple[Rejection, ...]], None] | None = None) -> None:
        self._report = report or log_rows

    def open(self, row: Row) -> ChunkFile:  # noqa: ARG002
        """Return a file that keeps nothing."""
        return self

    def append(self, data: bytes) -> None:
        """Keep nothing."""

    def reject(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:  # noqa: ARG002
        """Report what was refused, since it is written nowhere else."""
        self._report(rejections)

    def settle(self, outcome: Outcome) -> None:
        """Report what was refused."""
        self.reject(outcome.rejections)

    def leave(self, chunk: Chunk) -> tuple[Rejection, ...]:
        """Report the rows: there is no place for them."""
        lost = not_kept(chunk.rows, "there is no spool to keep it for the next run (SUPABASE_SPOOL_DIR)")
        self._report(lost)
        return lost

    def store(self, chunk: Chunk) -> Stored | None:  # noqa: ARG002
        """It is in memory only."""
        return None

    def load(self, stored: Stored) -> Loaded:
        """Never asked for: nothing is stored."""
        raise NotImplementedError(stored.file)

    def count(self, stored: Stored) -> int:
        """How many rows there are."""
        return stored.rows or 0

    def close(self) -> None:
        """Nothing to do."""
