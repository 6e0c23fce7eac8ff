"""Which uploader a chunk gets: this run's own, or one with the mode and conflict columns of an earlier run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import msgspec

from scrapy_supabase.delivery.executor import PendingUpload
from scrapy_supabase.delivery.uploader import Uploader
from scrapy_supabase.models import Chunk, Mode, Outcome, TableSpec
from scrapy_supabase.schema.schema import Schema

logger = logging.getLogger(__name__)

# Reasons that this run's own rows would meet, too.
_OF_THE_PROJECT = frozenset(
    {
        "supabase_unauthorized",
        "supabase_payment_required",
        "supabase_paused",
        "supabase_not_found",
        "supabase_schema_not_exposed",
        "supabase_read_only",
        "supabase_unavailable",
    }
)


class Uploaders:
    """Uploads each chunk with the mode and conflict columns of the run that built it. Thread-safe.

    `schema` is what this run knows of its tables; `new_uploader` makes an uploader for a schema.
    """

    def __init__(self, schema: Schema, new_uploader: Callable[[Schema], Uploader]) -> None:
        self._schema = schema
        self._new_uploader = new_uploader
        self._own = new_uploader(schema)
        self._others: dict[tuple[str, Mode, tuple[str, ...]], Uploader] = {}
        self._lock = threading.Lock()
        self._logged: set[str] = set()

    def send(self, chunk: Chunk) -> PendingUpload | None:
        """Send a chunk of this run without waiting for the answer; None where that cannot be done."""
        return self._own.send(chunk) if chunk.origin is None else None

    def upload(self, chunk: Chunk) -> Outcome:
        """Upload a chunk and wait for the outcome. An earlier run's rows never end this one by a fault of their own."""
        if chunk.origin is None:
            return self._own.upload(chunk)
        table = chunk.table
        if chunk.possibly_duplicated and self._is_first(f"doubles {table}"):
            logger.warning(
                "Table %s: rows without a key that an earlier run left are uploaded: possibly duplicated if already "
                "stored when that run ended. To prevent that, set SUPABASE_ON_CONFLICT or SUPABASE_ROW_ID_COLUMN.",
                table,
            )
        outcome = self._of(table, chunk.origin.mode, chunk.origin.on_conflict).upload(chunk)
        if outcome.fatal is None or outcome.fatal.reason in _OF_THE_PROJECT:
            return outcome
        if self._is_first(f"fatal {table}"):
            logger.error(
                "Rows that an earlier run left for table %s cannot be uploaded and stay in the spool: %s",
                table,
                outcome.fatal,
            )
        return msgspec.structs.replace(outcome, fatal=None)  # what an earlier run left cannot close this one

    def probe(self, table: str) -> None:
        """Ask the server for an answer about `table`; raise `TransientError` while it is unreachable."""
        (self._own if table in self._schema.specs else self._of(table, Mode.IGNORE, ())).probe(table)

    def _of(self, table: str, mode: Mode, on_conflict: tuple[str, ...]) -> Uploader:
        spec = self._schema.specs.get(table)
        if spec is not None and (spec.mode, spec.on_conflict) == (mode, on_conflict):
            return self._own
        with self._lock:
            uploader = self._others.get((table, mode, on_conflict))
            if uploader is None:
                uploader = self._new_uploader(self._schema.with_table(TableSpec(table, mode, on_conflict)))
                self._others[table, mode, on_conflict] = uploader
            return uploader

    def _is_first(self, what: str) -> bool:
        with self._lock:
            first = what not in self._logged
            self._logged.add(what)
            return first
