"""The log messages of a crawl: rows of earlier runs and destination at the start, progress, summary at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from scrapy_supabase.messages import kept_rows, other_project, outdated_rows, pluralize, rejected_rows
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.crawl_observer import CrawlObserver
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.monitors import AFTER_CRAWL, REJECTED_ROWS, SPOOLED_ROWS
from scrapy_supabase.spool.base import Spool, Stored
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.reject_file import REJECTED

logger = logging.getLogger(__name__)

_PROGRESS_EVERY = 60.0  # seconds


class CrawlLog:
    """Logs to `log` what `observer` has counted. `folder` is the spool folder, or None."""

    def __init__(self, log: logging.Logger, observer: CrawlObserver, folder: Path | None, config: Config) -> None:
        self._log = log
        self._counters = observer.counters
        self._folder = folder
        self._config = config
        self._examples = observer.rejects.examples
        self._close_timeout = config.upload.close_timeout
        self._last_time = time.monotonic()
        self._last_uploaded = 0

    def opened(self, tables: str) -> None:
        """Log server, backend, `tables` and limits."""
        server, upload = self._config.server, self._config.upload
        self._log.info(
            "Uploading to %s over %s: %s; %s per chunk%s, %s; spool: %s",
            server.host,
            "a database connection" if server.db_url else "REST",
            tables,
            pluralize(upload.chunk_rows, "row"),
            " at first" if upload.grows else "",
            pluralize(upload.concurrency, "concurrent upload"),
            self._folder or "none",
        )

    def progress(self, *, in_flight: int, backlog: int, is_offline: bool) -> None:
        """Log the progress, once a minute. `in_flight` and `backlog` are numbers of chunks."""
        now = time.monotonic()
        seconds = now - self._last_time
        if seconds < _PROGRESS_EVERY:
            return
        rows = self._counters.totals
        uploaded = rows["uploaded"]
        self._log.info(
            "%s uploaded (%d rows/min), %d rejected; %s",
            pluralize(uploaded, "row"),
            60 * (uploaded - self._last_uploaded) / seconds,
            rows["failed"],
            f"the server is unreachable, {pluralize(backlog, 'chunk')} on disk"
            if is_offline
            else f"{pluralize(in_flight, 'chunk')} in flight, {backlog} on disk",
        )
        self._last_time, self._last_uploaded = now, uploaded

    def released(self) -> None:
        """Log the end of back-pressure, since the crawl is closing."""
        folder = self._folder
        self._log.warning(
            "The crawl is closing, so items no longer wait for uploads. Rows that are not uploaded within %g s after "
            "the last item (SUPABASE_CLOSE_TIMEOUT) %s.",
            self._close_timeout,
            f"stay in {folder}, or go to this log if they cannot be written there" if folder else "go to this log",
        )

    def unreachable_at_close(self) -> None:
        """Log that the close waits for an unreachable server."""
        self._log.info(
            "The server is unreachable: waiting up to %g s for it (SUPABASE_CLOSE_TIMEOUT).%s",
            self._close_timeout,
            " Rows that are not uploaded by then are left for the next run." if self._folder else "",
        )

    def not_uploaded(self, *, in_flight: int, backlog: int) -> None:
        """Log the numbers of chunks that were not uploaded in time."""
        self._log.warning(
            "Not uploaded within %g s (SUPABASE_CLOSE_TIMEOUT): %s in flight, %d waiting.%s",
            self._close_timeout,
            pluralize(in_flight, "chunk"),
            backlog,
            " Their rows are left for the next run." if self._folder else "",
        )

    def summary(self) -> None:
        """Log the totals of the crawl, and the rows that were left or rejected."""
        counters, rows, effort = self._counters, self._counters.totals, self._counters.effort
        self._log.info(
            "%s received: %d uploaded in %s, %d superseded by a newer row of the same key, %d rejected, %d left in the "
            "spool",
            pluralize(rows["received"], "row"),
            rows["uploaded"],
            pluralize(effort.requests, "request"),
            rows["superseded"],
            rows["failed"],
            rows["spooled"],
        )
        if rows["not_found"]:
            self._log.info(
                "%s not stored, since their key is not in the table (mode update)", pluralize(rows["not_found"], "row")
            )
        if counts := [f"{rows[name]} {name}" for name in ("inserted", "updated", "unchanged") if rows[name]]:
            self._log.info("Of the uploaded rows: %s", ", ".join(counts))
        if (chunks := counters.chunks + len(counters.recovered_chunks)) and counters.outcomes:
            self._log.info(
                "%s (%d not fully uploaded, %.3f s on average), %s sent again%s",
                pluralize(chunks, "chunk"),
                len(counters.failed_chunks),
                effort.seconds / counters.outcomes,
                pluralize(effort.retries, "request"),
                f"; {pluralize(counters.deferred_chunks, 'chunk')} waited for rows that theirs refer to (23503)"
                if counters.deferred_chunks
                else "",
            )
        if any(rows[f"recovered{part}"] for part in ("", "_superseded", "_failed", "_spooled")):
            self._log.info(
                "Rows of earlier runs: %d uploaded, %d rejected, %d superseded by a newer row of the same key, "
                "%d left in the spool",
                rows["recovered"],
                rows["recovered_failed"],
                rows["recovered_superseded"],
                rows["recovered_spooled"] + rows["recovered_outdated"],
            )
        folder = self._folder
        if folder and (left := rows["spooled"] + rows["recovered_spooled"]):
            self._log.error("%s", kept_rows(left, folder))
        if failed := rows["failed"] + rows["recovered_failed"]:
            self._log.error(
                "%s", rejected_rows(failed, counters.rejected_by_code, folder and folder / REJECTED, self._examples)
            )

    def counts_as_failed(self, end_failed: bool) -> bool:
        """Return whether the crawl counts as failed (SUPABASE_FAIL_ON), and log an ERROR if so.

        It does for rejected or spooled rows, or if what follows the uploads has logged an ERROR (`end_failed`).
        """
        rows, wanted = self._counters.totals, self._config.monitors.fail_on
        counts = {
            REJECTED_ROWS: rows["failed"] + rows["recovered_failed"],
            SPOOLED_ROWS: rows["spooled"] + rows["recovered_spooled"],
        }
        found = [f"{pluralize(number, 'row')} {name}" for name, number in counts.items() if number and name in wanted]
        if end_failed and AFTER_CRAWL in wanted:
            found.append("see the ERROR above")
        if found:
            self._log.error("The exit code is 1: %s (SUPABASE_FAIL_ON).", ", ".join(found))
        return bool(found)


def recover(spool: Spool, counters: Counters) -> Sequence[Stored]:
    """Take over the chunks that earlier runs left in the spool, and return them, oldest first. Blocks.

    These chunks are logged, and so are rows that stay in the spool: newer ones may be stored, or they are of another
    project.
    """
    if not isinstance(spool, DiskSpool):
        return ()
    recovered = spool.recover()
    if recovered:
        logger.info(
            "Earlier runs left %s (%d bytes) in the spool; this run will upload these rows, too.",
            pluralize(len(recovered), "chunk"),
            sum(stored.size for stored in recovered),
        )
    if spool.outdated:
        counters.on_outdated(spool.outdated)
        logger.warning("Not uploaded: %s. %s", *outdated_rows(spool.outdated, spool.folder))
    for project, (chunks, rows) in spool.of_others.items():
        problem, remedy = other_project(chunks, rows, project, spool.project, spool.folder)
        logger.warning("Not uploaded: %s. %s", problem, remedy)
    return recovered
