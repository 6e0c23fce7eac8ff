"""Monitors for Spidermon: what a crawl left undone fails them, with where the rows are and what to do.

SPIDERMON_SPIDER_CLOSE_MONITORS = ["scrapy_supabase.contrib.spidermon.SupabaseMonitorSuite"]

They need the extra `spidermon`. docs/how-to/monitors.md shows how a failed monitor ends in an exit code.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

try:
    from spidermon import MonitorSuite, monitors
    from spidermon.contrib.scrapy.monitors.base import BaseScrapyMonitor
except ImportError as error:
    raise ImportError("Spidermon is not installed. Run: pip install 'scrapy-supabase[spidermon]'") from error

from scrapy_supabase.messages import pluralize, replay_command
from scrapy_supabase.monitoring.stats import Readings
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.monitors import Thresholds
from scrapy_supabase.spool.reject_file import REJECTED

__unittest = True  # unittest's way to leave a module's frames out: a failure is its message, without a traceback


class SupabaseMonitor(BaseScrapyMonitor):
    """What the monitors have in common: the stats of the pipeline, the thresholds, the place of the rows."""

    readings: Readings
    _config: Config

    def setUp(self) -> None:
        """Skip where the pipeline is switched off. Raises `ConfigurationError` for a wrong threshold."""
        if not self.crawler.settings.getbool("SUPABASE_ENABLED", True):
            self.skipTest("SUPABASE_ENABLED is False")
        self._config = Config.from_settings(self.crawler.settings)
        self.readings = Readings(self.data.stats)
        if not self.readings:
            self.fail(
                "The pipeline of scrapy-supabase has not run. Enable it with ADDONS = {'scrapy_supabase.Addon': 300}, "
                "or take its monitors out of Spidermon's settings."
            )

    @property
    def thresholds(self) -> Thresholds:
        """The most that is fine."""
        return self._config.monitors.thresholds

    @property
    def spool(self) -> Path | None:
        """Where rows are that are not in the database."""
        return self._config.spool.folder and self._config.spool.folder.absolute()


@monitors.name("Supabase: rejected rows")
class FailedRateMonitor(SupabaseMonitor):
    """No more of the rows were rejected than SUPABASE_MONITOR_MAX_FAILED_RATE allows."""

    def test_failed_rate(self) -> None:
        """Of all rows the crawl had: its own, and those that earlier runs had left in the spool."""
        failed = self.readings.count("failed", "recovered_failed")
        had = self.readings.count("received", "recovered", "recovered_failed", "recovered_spooled")
        if had and failed / had > self.thresholds.failed_rate:
            where = "The log has each of them."
            if self.spool:
                again = replay_command(self.spool, "--rejected")
                where = (
                    f"Each is in {self.spool / REJECTED} with its reason. After fixing the table or the rows, run: "
                    f"{again}"
                )
            self.fail(
                f"Rejected: {failed} of {pluralize(had, 'row')} ({failed / had:.2%}), more than "
                f"{self.thresholds.failed_rate:.2%} (SUPABASE_MONITOR_MAX_FAILED_RATE): "
                f"{_listed(self.readings.tables('failed', 'recovered_failed'))}. {where}"
            )


@monitors.name("Supabase: rows left in the spool")
class SpooledRowsMonitor(SupabaseMonitor):
    """No more rows are left for the next crawl than SUPABASE_MONITOR_MAX_SPOOLED_ROWS allows."""

    def test_spooled_rows(self) -> None:
        """Rows of this crawl, and of earlier ones."""
        left = self.readings.count("spooled", "recovered_spooled")
        if left > self.thresholds.spooled_rows:
            where = "The log has each of them."
            if self.spool:
                again = replay_command(self.spool)
                where = f"Kept in {self.spool} for the next crawl. To upload them now, run: {again}"
            self.fail(
                f"Not uploaded: {pluralize(left, 'row')}, more than {self.thresholds.spooled_rows} "
                f"(SUPABASE_MONITOR_MAX_SPOOLED_ROWS): "
                f"{_listed(self.readings.tables('spooled', 'recovered_spooled'))}. {where}"
            )


@monitors.name("Supabase: time since the last upload")
class UploadAgeMonitor(SupabaseMonitor):
    """The server has taken rows within SUPABASE_MONITOR_MAX_UPLOAD_AGE seconds, if there were any."""

    def test_upload_age(self) -> None:
        """A spider that yields nothing for long is fine: only rows that wait are counted."""
        waiting = self.readings.waiting()
        age = self.readings.seconds_waited(datetime.now(UTC))
        if waiting and age > self.thresholds.upload_age:
            where = "Held in memory only: there is no spool (SUPABASE_SPOOL_DIR)."
            if self.spool:
                again = replay_command(self.spool)
                where = (
                    f"Kept in {self.spool} and uploaded by this crawl or the next, when the server is reachable again. "
                    f"To upload what is left then without a crawl, run: {again}"
                )
            self.fail(
                f"Waiting: {pluralize(waiting.total(), 'row')}, and the server has taken none for {age:.0f} s, longer "
                f"than {self.thresholds.upload_age:g} s (SUPABASE_MONITOR_MAX_UPLOAD_AGE): {_listed(waiting)}. The "
                f"log's last WARNING of scrapy_supabase says what it answers. {where}"
            )


@monitors.name("Supabase: an end before its time")
class FatalErrorMonitor(SupabaseMonitor):
    """The crawl was not closed because nothing could be uploaded: then, other monitors may have seen no row at all."""

    def test_finish_reason(self) -> None:
        """Finish reasons of the pipeline's own."""
        reason = str(self.data.stats.get("finish_reason", ""))
        if reason.startswith("supabase_"):
            where = f" Rows that were scraped before are kept in {self.spool}." if self.spool else ""
            self.fail(
                f"The crawl was closed ({reason}): nothing could be uploaded.{where} The log says why and what to do, "
                "in the ERROR that begins with `Closing the crawl`."
            )


class SupabaseMonitorSuite(MonitorSuite):
    """All of them, for `SPIDERMON_SPIDER_CLOSE_MONITORS`: by then, every stat of the pipeline is final."""

    monitors: ClassVar[list[type]] = [FatalErrorMonitor, FailedRateMonitor, SpooledRowsMonitor, UploadAgeMonitor]


class SupabasePeriodicMonitorSuite(MonitorSuite):
    """What can be told while the crawl runs, for `SPIDERMON_PERIODIC_MONITORS`."""

    monitors: ClassVar[list[type]] = [UploadAgeMonitor]


def _listed(rows: Counter[str]) -> str:
    return ", ".join(f"{number} for {table}" for table, number in rows.most_common() if number) or "no table"
