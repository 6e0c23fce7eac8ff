"""What a crawl logs about its rows: where they go, each minute how many, at the close what is not uploaded."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from scrapy_supabase.messages import kept_rows, pluralize, rejected_rows
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.settings.config import Config
from scrapy_supabase.spool.reject_file import REJECTED

_PROGRESS_EVERY = 60.0  # seconds


class CrawlLog:
    """Logs to `log` what `counters` have. `folder` is the spool's, or None."""

    def __init__(self, log: logging.Logger, counters: Counters, folder: Path | None, config: Config) -> None:
        self._log = log
        self._counters = counters
        self._folder = folder
        self._config = config
        self._close_timeout = config.upload.close_timeout
        self._last_time = time.monotonic()
        self._last_uploaded = 0

    def opened(self, tables: str) -> None:
        """Log where rows go: to which server and `tables`, in which way, in chunks of which size."""
        server, upload = self._config.server, self._config.upload
        self._log.info(
            "Uploading to %s over %s: %s; %s a chunk%s, %d at once; spool: %s",
            server.host,
            "a database connection" if server.db_url else "REST",
            tables,
            pluralize(upload.chunk_rows, "row"),
            " at first" if upload.grows else "",
            upload.concurrency,
            self._folder or "none",
        )

    def progress(self, *, in_flight: int, backlog: int, is_offline: bool) -> None:
        """Log the progress of the last minute, if it is over. `in_flight` and `backlog` are chunks."""
        now = time.monotonic()
        seconds = now - self._last_time
        if seconds < _PROGRESS_EVERY:
            return
        rows = self._counters.totals
        uploaded = rows["uploaded"]
        self._log.info(
            "%s uploaded (%d rows/min), %s in flight, %d on disk%s, %s rejected",
            pluralize(uploaded, "row"),
            60 * (uploaded - self._last_uploaded) / seconds,
            pluralize(in_flight, "chunk"),
            backlog,
            ": the server is unreachable" if is_offline else "",
            rows["failed"],
        )
        self._last_time, self._last_uploaded = now, uploaded

    def released(self) -> None:
        """Log that items do not wait any more, because the crawl is being closed."""
        folder = self._folder
        self._log.warning(
            "The crawl is being closed, so items do not wait for uploads any more. Rows that are not uploaded "
            "within %g s after the last item (SUPABASE_CLOSE_TIMEOUT) %s.",
            self._close_timeout,
            f"stay in {folder}, or go to this log if they cannot be written there" if folder else "go to this log",
        )

    def unreachable_at_close(self) -> None:
        """Log that the close waits for a server that does not answer."""
        self._log.info(
            "The server is unreachable: waiting up to %g s for it (SUPABASE_CLOSE_TIMEOUT).%s",
            self._close_timeout,
            " What is not uploaded by then is left to the next run." if self._folder else "",
        )

    def not_uploaded(self, *, in_flight: int, backlog: int) -> None:
        """Log that the close does not wait any longer for these chunks."""
        self._log.warning(
            "Not uploaded after %g s (SUPABASE_CLOSE_TIMEOUT): %s in flight, %d waiting.%s",
            self._close_timeout,
            pluralize(in_flight, "chunk"),
            backlog,
            " They are left to the next run." if self._folder else "",
        )

    def summary(self) -> None:
        """Log what the crawl did."""
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
        if counters.chunks and counters.outcomes:
            self._log.info(
                "%s (%d failed, %.3f s on average), %s sent again",
                pluralize(counters.chunks, "chunk"),
                len(counters.failed_chunks),
                effort.seconds / counters.outcomes,
                pluralize(effort.retries, "request"),
            )
        if any(rows[f"recovered{part}"] for part in ("", "_superseded", "_failed", "_spooled")):
            self._log.info(
                "Of earlier runs: %s uploaded, %d rejected, %d superseded by a newer row of the same key, %d left",
                pluralize(rows["recovered"], "row"),
                rows["recovered_failed"],
                rows["recovered_superseded"],
                rows["recovered_spooled"],
            )
        folder = self._folder
        if folder and (left := rows["spooled"] + rows["recovered_spooled"]):
            self._log.error("%s", kept_rows(left, folder))
        if failed := rows["failed"] + rows["recovered_failed"]:
            self._log.error("%s", rejected_rows(failed, counters.rejected_by_code, folder and folder / REJECTED))

    def counts_as_failed(self) -> bool:
        """Return whether rows that are not stored make the crawl fail (SUPABASE_FAIL_ON), and log it."""
        rows = self._counters.totals
        counts = {
            "rejected": rows["failed"] + rows["recovered_failed"],
            "spooled": rows["spooled"] + rows["recovered_spooled"],
        }
        found = [
            f"{pluralize(counts[name], 'row')} {name}" for name in sorted(self._config.monitors.fail_on) if counts[name]
        ]
        if found:
            self._log.error("The exit code is 1: %s (SUPABASE_FAIL_ON).", ", ".join(found))
        return bool(found)
