"""The spool of a run that keeps nothing on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from scrapy_supabase.models import Chunk, Origin, Outcome, Rejection, Row
from scrapy_supabase.rows.chunks import ChunkFile
from scrapy_supabase.spool.base import Loaded, Stored
from scrapy_supabase.spool.lost_rows import log_rows, not_kept


class NoSpool:
    """A spool that keeps nothing (`SUPABASE_SPOOL_DIR = None`).

    `report` is called with the rows that are not stored; by default they are logged.
    """

    folder: Path | None = None
    name = ""
    direct = (len, sys.maxsize)  # `len` takes a line and does nothing

    def __init__(self, report: Callable[[tuple[Rejection, ...]], None] | None = None) -> None:
        self._report = report or log_rows

    def open(self, row: Row) -> ChunkFile:  # noqa: ARG002
        """Return a file that keeps nothing."""
        return self

    def append(self, data: bytes) -> None:
        """Keep nothing."""

    def reject(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:  # noqa: ARG002
        """Report the rejected rows, which no file keeps."""
        self._report(rejections)

    def settle(self, outcome: Outcome) -> None:
        """Report the rejected rows of a chunk."""
        self.reject(outcome.rejections)

    def leave(self, chunk: Chunk) -> tuple[Rejection, ...]:
        """Report all rows of a chunk, and return them."""
        lost = not_kept(chunk.rows, "there is no spool to keep it for the next run (SUPABASE_SPOOL_DIR)")
        self._report(lost)
        return lost

    def store(self, chunk: Chunk) -> Stored | None:  # noqa: ARG002
        """Return None: a chunk is only in memory."""
        return None

    def load(self, stored: Stored) -> Loaded:
        """Raise `NotImplementedError`: there are no stored chunks."""
        raise NotImplementedError(stored.file)

    def count(self, stored: Stored) -> int:
        """Return the number of rows in a chunk."""
        return stored.rows or 0

    def close(self) -> None:
        """Do nothing."""
