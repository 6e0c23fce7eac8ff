"""The row of a run in the ledger of runs (`SUPABASE_RUNS_TABLE`): written at the start, once a minute, at the end."""

from __future__ import annotations

import logging
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from scrapy_supabase.backends.base import Backend, Write
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.errors import SchemaDriftError, ServerError, SupabaseError, TransientError, fatal
from scrapy_supabase.messages import sentence
from scrapy_supabase.models import Mode
from scrapy_supabase.rows.values import encode_row

logger = logging.getLogger(__name__)

_COUNTS = ("received", "uploaded", "failed", "spooled")
LAST_SEEN = "last_seen"
"""The column of the time of the last update. Tables of older versions lack it."""
LEDGER_COLUMNS = (
    *("run_id", "spider", "started_at", "finished_at", "finish_reason", "stats", LAST_SEEN),
    *(f"{name}_count" for name in _COUNTS),
)
"""The columns of the ledger of runs (ledger.sql)."""

_EVERY = 60.0  # seconds


class Ledger:
    """The ledger's row of one run. `identity` are its columns that never change. The methods that write block.

    `clock` returns monotonic seconds.
    """

    least_seconds = 2.0  # for the last write, even after `SUPABASE_CLOSE_TIMEOUT`

    def __init__(
        self,
        backend: Backend,
        table: str,
        identity: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backend = backend
        self._table = table
        self._identity = dict(identity)
        self._clock = clock
        self._due = 0.0
        self._has_last_seen = True
        self._has_ended = False
        self._writing = threading.Lock()  # the last write must be that of the end

    def begin(self, policy: OpenPolicy) -> None:
        """Write the row. Raises `FatalError` if the table refuses it, and `TransientError`."""
        self._due = self._clock() + _EVERY
        try:
            policy.run(f"Writing the run to table {self._table}", self._write, {})
        except TransientError:
            raise
        except ServerError as error:
            remedy = (
                "SUPABASE_RUNS_TABLE must name a table made for it. To print the SQL that creates it, run: "
                f"scrapy supabase ddl --runs {shlex.quote(self._table)}"
            )
            raise fatal(error, "supabase_runs_table", remedy) from error

    def is_due(self) -> bool:
        """Return whether to call `update` now: once a minute."""
        if self._clock() < self._due:
            return False
        self._due = self._clock() + _EVERY
        return True

    def update(self, counts: Mapping[str, int]) -> None:
        """Write the counts so far. A failure is only logged, at DEBUG: the next update is a minute away."""
        if not self._writing.acquire(blocking=False):  # the update before still waits for its answer
            return
        try:
            if not self._has_ended:
                self._write(_columns(counts))
        except SupabaseError as error:
            why = error.answer if isinstance(error, ServerError) else error
            logger.debug("The counts of the run were not written to table %s: %s", self._table, why)
        finally:
            self._writing.release()

    def end(self, reason: str, counts: Mapping[str, int], stats: Mapping[str, Any]) -> None:
        """Complete the row. A failure is only logged, as it does not affect the items' rows."""
        values = {
            "finished_at": datetime.now(UTC),
            "finish_reason": reason,
            **_columns(counts),
            "stats": dict(stats),
        }
        with self._writing:
            self._has_ended = True
            try:
                self._write(values)
            except SupabaseError as error:
                self.log_no_end(error.answer if isinstance(error, ServerError) else error)

    def log_no_end(self, why: object) -> None:
        """Log that the row was not completed."""
        logger.warning(
            "The end of the run was not written to table %s (SUPABASE_RUNS_TABLE): %s The items' rows are not "
            "affected.",
            self._table,
            sentence(why),
        )

    def _write(self, values: Mapping[str, Any]) -> None:
        seen = {LAST_SEEN: datetime.now(UTC)} if self._has_last_seen else {}
        row = {**self._identity, **values, **seen}
        data, _ = encode_row(row)
        try:
            self._backend.write(Write(self._table, tuple(row), b"[" + data + b"]", Mode.UPSERT, ("run_id",)))
        except SchemaDriftError as error:
            if error.column != LAST_SEEN or not seen:
                raise
            self._has_last_seen = False
            logger.info(
                "Table %s (SUPABASE_RUNS_TABLE) has no column %s, which shows whether a run is still alive. To print "
                "the SQL that adds it, run: scrapy supabase ddl --runs %s",
                self._table,
                LAST_SEEN,
                shlex.quote(self._table),
            )
            self._write(values)


def _columns(counts: Mapping[str, int]) -> dict[str, int]:
    return {f"{name}_count": counts[name] for name in _COUNTS}
