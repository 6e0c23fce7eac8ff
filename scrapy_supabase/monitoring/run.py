"""A run of a spider or a script: its id, its snapshot version, and its row in the ledger of runs."""

from __future__ import annotations

import logging
import shlex
import uuid
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from scrapy_supabase.backends.base import Backend, Write
from scrapy_supabase.backends.retry import Deadline, Retrying, log_retry
from scrapy_supabase.errors import ServerError, SupabaseError, fatal
from scrapy_supabase.messages import sentence
from scrapy_supabase.models import Mode
from scrapy_supabase.rows.values import encode_row
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.tables import SNAPSHOT_VERSION

logger = logging.getLogger(__name__)

NEXT_VERSION = "next_snapshot_version"
"""The database function that assigns snapshot versions (snapshots.sql)."""


_COUNTS = ("received", "uploaded", "failed", "spooled")
LEDGER_COLUMNS = (
    *("run_id", "spider", "started_at", "finished_at", "finish_reason", "stats"),
    *(f"{name}_count" for name in _COUNTS),
)
"""The columns of the ledger of runs (ledger.sql)."""


class Run:
    """A run, created when it starts. `snapshot_date` is the UTC date of the start, even if it ends on another day."""

    def __init__(self, spider: str) -> None:
        self._namespace = uuid.uuid4()
        self.id = str(self._namespace)
        self.spider = spider
        self.started = datetime.now(UTC)
        self.snapshot_date = self.started.date()
        self.snapshot_version = 1
        self.begun = False
        self._rows: Counter[str] = Counter()  # table → number of row ids

    def next_row_id(self, table: str) -> uuid.UUID:
        """Return the id of the table's next row: a UUIDv5 of run, table and sequence number (RFC 9562, 5.5)."""
        self._rows[table] += 1
        return uuid.uuid5(self._namespace, f"{table}/{self._rows[table]}")

    @property
    def folder(self) -> str:
        """The name of the run's folder in the spool: unique, and sorted by age."""
        return f"{self.started:%Y%m%dT%H%M%S}.{self.started.microsecond // 1000:03}Z-{self.id[:8]}"

    def begin(self, backend: Backend, config: Config, deadline: Deadline) -> None:
        """Take a snapshot version and write the ledger's row, if the settings ask for them. Blocks.

        Raises `FatalError` if the database refuses either.
        """
        attempts, delay = config.upload.attempts, config.upload.delay
        tables = sorted(spec.name for spec in config.tables.specs.values() if SNAPSHOT_VERSION in spec.stamps.values())
        if tables:
            policy = Retrying(attempts, delay, deadline, log_retry("Taking a snapshot version"))
            arguments = {"tables": tables, "day": self.snapshot_date.isoformat()}
            try:
                self.snapshot_version = int(policy(backend.call, NEXT_VERSION, arguments))
            except ServerError as error:
                remedy = (
                    f"SUPABASE_DAILY_SNAPSHOTS needs the function {NEXT_VERSION}(tables text[], day date). To print "
                    "the SQL that creates it, run: scrapy supabase ddl --snapshots"
                )
                raise fatal(error, "supabase_snapshot", remedy) from error
        if config.tables.runs_table:
            task = f"Writing the run to table {config.tables.runs_table}"
            policy = Retrying(attempts, delay, deadline, log_retry(task))
            try:
                policy(backend.write, self._row(config.tables.runs_table, {}))
            except ServerError as error:
                remedy = (
                    "SUPABASE_RUNS_TABLE must name a table made for it. To print the SQL that creates it, run: "
                    f"scrapy supabase ddl --runs {shlex.quote(config.tables.runs_table)}"
                )
                raise fatal(error, "supabase_runs_table", remedy) from error
        self.begun = True

    def end(
        self, backend: Backend, table: str, reason: str, counts: Mapping[str, int], stats: Mapping[str, Any]
    ) -> None:
        """Complete the ledger's row. Blocks. A failure is only logged, as it does not affect the items' rows."""
        values = {
            "finished_at": datetime.now(UTC),
            "finish_reason": reason,
            **{f"{name}_count": counts[name] for name in _COUNTS},
            "stats": dict(stats),
        }
        try:
            backend.write(self._row(table, values))
        except SupabaseError as error:
            log_no_end(table, error.answer if isinstance(error, ServerError) else error)

    def _row(self, table: str, more: Mapping[str, Any]) -> Write:
        values = {"run_id": self.id, "spider": self.spider, "started_at": self.started, **more}
        data, _ = encode_row(values)
        return Write(table, tuple(values), b"[" + data + b"]", Mode.UPSERT, ("run_id",))


def log_no_end(table: str, why: object) -> None:
    """Log that the ledger's row was not completed."""
    logger.warning(
        "The end of the run was not written to table %s (SUPABASE_RUNS_TABLE): %s The items' rows are not affected.",
        table,
        sentence(why),
    )
