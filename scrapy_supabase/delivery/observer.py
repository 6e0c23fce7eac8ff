"""What the engine tells: the protocol of an observer."""

from __future__ import annotations

from typing import Protocol

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Chunk, Loaded, Outcome, Stored


class RunObserver(Protocol):
    """Is told what happened, in the owner's thread, after the fact."""

    def on_chunk_sealed(self, chunk: Chunk) -> None:
        """A chunk is complete and on its way."""

    def on_chunk_done(self, outcome: Outcome) -> None:
        """Rows are where the outcome says; those deferred or left come again, in another chunk or in `on_rows_kept`."""

    def on_rows_kept(self, kept: Chunk | Stored, rows: int) -> None:
        """So many rows stay in the spool for the next run."""

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """A chunk's file was read, with what was found in it that could not be."""

    def on_waited(self, seconds: float) -> None:
        """Items had to wait this long because too much was on its way."""

    def on_outage_end(self, seconds: float) -> None:
        """The server was gone this long."""

    def on_throttled(self) -> None:
        """The server is busy: fewer uploads are in flight from now on."""

    def on_fatal(self, error: FatalError) -> None:
        """Nothing is uploaded from now on; what is not uploaded stays in the spool."""
