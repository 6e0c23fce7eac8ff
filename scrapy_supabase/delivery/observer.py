"""The protocol of observers of a run."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Chunk, Outcome
from scrapy_supabase.spool.base import Loaded, Stored


class RunObserver(Protocol):
    """Receives the events of a run, in the owner's thread, after they happened."""

    def on_chunk_sealed(self, chunk: Chunk) -> None:
        """Handle a complete chunk that is about to be queued."""

    def on_chunk_done(self, outcome: Outcome) -> None:
        """Handle the outcome of an upload. Deferred and left rows follow, in another outcome or in `on_rows_kept`."""

    def on_rows_kept(self, kept: Chunk | Stored, rows: int) -> None:
        """Handle a chunk of which `rows` rows stay in the spool for the next run."""

    def on_outdated(self, rows: Counter[str]) -> None:
        """Handle rows of earlier runs, by table, that stay in the spool because newer ones may be stored."""

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """Handle a chunk read back from its file, with its damaged lines."""

    def on_waited(self, seconds: float) -> None:
        """Handle the end of back-pressure: items waited for `seconds`."""

    def on_outage_end(self, seconds: float) -> None:
        """Handle the end of an outage of `seconds`."""

    def on_throttled(self) -> None:
        """Handle a lower limit of concurrent uploads: the server is busy."""

    def on_fatal(self, error: FatalError) -> None:
        """Handle an error that ends all uploads. Rows that are not uploaded stay in the spool."""
