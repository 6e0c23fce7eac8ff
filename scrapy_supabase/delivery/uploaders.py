"""The choice of an uploader for a chunk: this run's own, or one with an earlier run's mode and conflict columns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from scrapy_supabase.delivery.executor import PendingUpload
from scrapy_supabase.delivery.uploader import Uploader
from scrapy_supabase.errors import FatalError, TransientError
from scrapy_supabase.models import Chunk, Mode, Outcome
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

if TYPE_CHECKING:
    from scrapy_supabase.delivery.table_creator import TableCreator

logger = logging.getLogger(__name__)

# Finish reasons that concern the whole project, and with it this run's own rows.
_PROJECT_WIDE = frozenset(
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

    `schema` describes the tables of this run. `new_uploader` creates an uploader for a schema. `creator` creates what
    the rows of a chunk need before these are sent.
    """

    def __init__(
        self, schema: Schema, new_uploader: Callable[[Schema], Uploader], creator: TableCreator | None = None
    ) -> None:
        self._schema = schema
        self._creator = creator
        self._new_uploader = new_uploader
        self._own = new_uploader(schema)
        self._others: dict[tuple[object, ...], Uploader] = {}
        self._lock = threading.Lock()
        self._logged: set[str] = set()

    def send(self, chunk: Chunk) -> PendingUpload | None:
        """Send a chunk without blocking. Return None if that is impossible, or if an earlier run built the chunk."""
        if chunk.origin is not None or (self._creator is not None and self._creator.is_needed(chunk)):
            return None
        return self._own.send(chunk)

    def upload(self, chunk: Chunk) -> Outcome:
        """Upload a chunk and return its outcome. Blocks. A problem of an earlier run's table does not end this run."""
        if chunk.origin is None:
            return self._create(chunk) or self._own.upload(chunk)
        table = chunk.table
        if chunk.possibly_duplicated and self._is_first(f"duplicates {table}"):
            logger.warning(
                "Table %s: uploading rows without a key that an earlier run left. They are possibly duplicated if "
                "already stored when that run ended. To prevent that, set SUPABASE_ON_CONFLICT or "
                "SUPABASE_ROW_ID_COLUMN.",
                table,
            )
        origin = chunk.origin
        spec = TableSpec(table, origin.mode, origin.on_conflict, writing=origin.writing)
        outcome = self._create(chunk) or self._uploader_for(spec).upload(chunk)
        if outcome.fatal is None or outcome.fatal.reason in _PROJECT_WIDE:
            return outcome
        if self._is_first(f"fatal {table}"):
            logger.error(
                "Rows that an earlier run left for table %s cannot be uploaded and stay in the spool: %s",
                table,
                outcome.fatal,
            )
        return msgspec.structs.replace(outcome, fatal=None)  # rows of an earlier run must not close this one

    def probe(self, table: str) -> None:
        """Check that the server answers a request for `table`. Raises `TransientError` if not."""
        (self._own if table in self._schema.specs else self._uploader_for(TableSpec(table, Mode.IGNORE))).probe(table)

    def _create(self, chunk: Chunk) -> Outcome | None:
        """Create what the rows of a chunk need. If that fails, return the outcome, which leaves all rows."""
        if self._creator is None or not self._creator.is_needed(chunk):
            return None
        try:
            self._creator.create(chunk)
        except FatalError as error:
            return Outcome(chunk, 0, left=chunk.rows, fatal=error)
        except TransientError as error:
            return Outcome(chunk, 0, left=chunk.rows, transient=error)
        with self._lock:
            self._others.clear()  # their schemas do not have the new columns
        return None

    def _uploader_for(self, wanted: TableSpec) -> Uploader:
        spec = self._schema.specs.get(wanted.name)
        if spec is not None and _rules(spec) == _rules(wanted):
            return self._own
        with self._lock:
            uploader = self._others.get(_rules(wanted))
            if uploader is None:
                uploader = self._others[_rules(wanted)] = self._new_uploader(self._schema.with_table(wanted))
            return uploader

    def _is_first(self, topic: str) -> bool:
        with self._lock:
            first = topic not in self._logged
            self._logged.add(topic)
            return first


def _rules(spec: TableSpec) -> tuple[object, ...]:
    return spec.name, spec.mode, spec.on_conflict, spec.writing
