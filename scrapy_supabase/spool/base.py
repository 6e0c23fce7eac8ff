"""The protocol of a spool: where rows are kept until they are uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from scrapy_supabase.models import Chunk, Loaded, Origin, Outcome, Rejection, Row, Stored
from scrapy_supabase.rows.chunks import ChunkFile


class Spool(Protocol):
    """Where rows are kept. `settle` and `load` may be called in any thread, the others in the crawl's."""

    @property
    def folder(self) -> Path | None:
        """Where it is, for messages; None where nothing is kept."""

    def open(self, row: Row) -> ChunkFile:
        """Start the file of a chunk whose first row is `row`, without writing that row."""

    def reject(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:
        """Keep rows that will not be tried again."""

    def settle(self, outcome: Outcome) -> None:
        """Keep what is rejected, then forget what is done with; rows left over or deferred stay."""

    def leave(self, chunk: Chunk) -> tuple[Rejection, ...]:
        """Keep a chunk for the next run. Rows that cannot be kept are reported in full, and returned."""

    def store(self, chunk: Chunk) -> Stored | None:
        """What `load` makes the chunk of again; None where it is not on disk as a whole."""

    def load(self, stored: Stored) -> Loaded:
        """Read a chunk back."""

    def count(self, stored: Stored) -> int:
        """How many rows it holds."""

    def close(self) -> None:
        """The run is over. What is left stays."""
