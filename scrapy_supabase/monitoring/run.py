"""A run of a spider or a script: its id, its snapshot version, and its ledger."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import UTC, datetime

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.errors import ServerError, TransientError, fatal
from scrapy_supabase.monitoring.ledger import Ledger
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.tables import SNAPSHOT_VERSION

NEXT_VERSION = "next_snapshot_version"
"""The database function that assigns snapshot versions (snapshots.sql)."""


class Run:
    """A run, created when it starts. `snapshot_date` is the UTC date of the start, even if it ends on another day."""

    def __init__(self, spider: str) -> None:
        self._namespace = uuid.uuid4()
        self.id = str(self._namespace)
        self.spider = spider
        self.started = datetime.now(UTC)
        self.snapshot_date = self.started.date()
        self.snapshot_version = 1
        self.ledger: Ledger | None = None  # if the settings ask for one, and the run has begun
        self._rows: Counter[str] = Counter()  # table → number of row ids

    def next_row_id(self, table: str) -> uuid.UUID:
        """Return the id of the table's next row: a UUIDv5 of run, table and sequence number (RFC 9562, 5.5)."""
        self._rows[table] += 1
        return uuid.uuid5(self._namespace, f"{table}/{self._rows[table]}")

    @property
    def folder(self) -> str:
        """The name of the run's folder in the spool: unique, and sorted by age."""
        return f"{self.started:%Y%m%dT%H%M%S}.{self.started.microsecond // 1000:03}Z-{self.id[:8]}"

    def begin(self, backend: Backend, config: Config, policy: OpenPolicy) -> None:
        """Take a snapshot version and write the ledger's row, if the settings ask for them. Blocks.

        Raises `FatalError` if the database refuses either, and `TransientError` if it is busy or unreachable.
        """
        tables = sorted(spec.name for spec in config.tables.specs.values() if SNAPSHOT_VERSION in spec.stamps.values())
        if tables:
            arguments = {"tables": tables, "day": self.snapshot_date.isoformat()}
            try:
                version = policy.run("Taking a snapshot version", backend.call, NEXT_VERSION, arguments)
                self.snapshot_version = int(version)
            except TransientError:
                raise
            except ServerError as error:
                remedy = (
                    f"SUPABASE_DAILY_SNAPSHOTS needs the function {NEXT_VERSION}(tables text[], day date). To print "
                    "the SQL that creates it, run: scrapy supabase ddl --snapshots"
                )
                raise fatal(error, "supabase_snapshot", remedy) from error
        if config.tables.runs_table:
            identity = {"run_id": self.id, "spider": self.spider, "started_at": self.started}
            ledger = Ledger(backend, config.tables.runs_table, identity)
            ledger.begin(policy)
            self.ledger = ledger
