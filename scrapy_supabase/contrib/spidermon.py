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

from scrapy_supabase.settings import Config
from scrapy_supabase.settings_monitors import Thresholds
from scrapy_supabase.spool_file import REJECTED
from scrapy_supabase.stats import Readings

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
                "The pipeline of scrapy-supabase has not run. Enable it, ADDONS = {'scrapy_supabase.Addon': 300}, or "
                "take its monitors out of Spidermon's settings."
            )

    @property
    def thresholds(self) -> Thresholds:
        """The most that is fine."""
        return self._config.thresholds

    @property
    def spool(self) -> Path | None:
        """Where rows are that are not in the database."""
        return self._config.spool_dir and self._config.spool_dir.absolute()


@monitors.name("Supabase: rejected rows")
class FailedRateMonitor(SupabaseMonitor):
    """No more of the rows were rejected than SUPABASE_MONITOR_MAX_FAILED_RATE allows."""

    def test_failed_rate(self) -> None:
        """Of all rows the crawl had: its own, and those that earlier runs had left in the spool."""
        failed = self.readings.count("failed", "recovered_failed")
        had = self.readings.count("received", "recovered", "recovered_failed", "recovered_spooled")
        if had and failed / had > self.thresholds.failed_rate:
            where = f"They are in {self.spool / REJECTED}" if self.spool else "They are in the log"
            again = f" Once mended: scrapy supabase replay --rejected {self.spool}" if self.spool else ""
            self.fail(
                f"{failed} of {had} rows ({failed / had:.2%}) were rejected, more than "
                f"{self.thresholds.failed_rate:.2%} (SUPABASE_MONITOR_MAX_FAILED_RATE): "
                f"{_listed(self.readings.tables('failed', 'recovered_failed'))}. {where}, with the reasons.{again}"
            )


@monitors.name("Supabase: rows left in the spool")
class SpooledRowsMonitor(SupabaseMonitor):
    """No more rows are left for the next crawl than SUPABASE_MONITOR_MAX_SPOOLED_ROWS allows."""

    def test_spooled_rows(self) -> None:
        """Rows of this crawl, and of earlier ones."""
        left = self.readings.count("spooled", "recovered_spooled")
        if left > self.thresholds.spooled_rows:
            self.fail(
                f"{left} rows are not uploaded, more than {self.thresholds.spooled_rows} "
                f"(SUPABASE_MONITOR_MAX_SPOOLED_ROWS): "
                f"{_listed(self.readings.tables('spooled', 'recovered_spooled'))}. They are in {self.spool}. "
                f"The next crawl uploads them, or: scrapy supabase replay {self.spool}"
            )


@monitors.name("Supabase: time since the last upload")
class UploadAgeMonitor(SupabaseMonitor):
    """The server has taken rows within SUPABASE_MONITOR_MAX_UPLOAD_AGE seconds, if there were any."""

    def test_upload_age(self) -> None:
        """A spider that yields nothing for long is fine: only rows that wait are counted."""
        waiting = self.readings.waiting()
        age = self.readings.seconds_waited(datetime.now(UTC))
        if waiting and age > self.thresholds.upload_age:
            where = f"The rows are in {self.spool}" if self.spool else "The rows are in memory only"
            later = f"; what is left at the end: scrapy supabase replay {self.spool}" if self.spool else ""
            self.fail(
                f"{waiting.total()} rows wait, and the server has taken none for {age:.0f} s, longer than "
                f"{self.thresholds.upload_age:g} s (SUPABASE_MONITOR_MAX_UPLOAD_AGE): {_listed(waiting)}. {where}. "
                f"Is the server there? The log's last WARNING of scrapy_supabase says what it answers. When it is "
                f"back, a crawl uploads them{later}"
            )


@monitors.name("Supabase: an end before its time")
class FatalErrorMonitor(SupabaseMonitor):
    """The crawl was not closed because nothing could be uploaded: then, other monitors may have seen no row at all."""

    def test_finish_reason(self) -> None:
        """Finish reasons of the pipeline's own."""
        reason = str(self.data.stats.get("finish_reason", ""))
        if reason.startswith("supabase_"):
            where = f" Rows that were scraped before are in {self.spool}." if self.spool else ""
            self.fail(
                f"The crawl was closed with reason {reason}: nothing could be uploaded. The log says why and what to "
                f"do, at `Closing the crawl ({reason})`.{where}"
            )


class SupabaseMonitorSuite(MonitorSuite):
    """All of them, for `SPIDERMON_SPIDER_CLOSE_MONITORS`: by then, every stat of the pipeline is final."""

    monitors: ClassVar[list[type]] = [FatalErrorMonitor, FailedRateMonitor, SpooledRowsMonitor, UploadAgeMonitor]


class SupabasePeriodicMonitorSuite(MonitorSuite):
    """What can be told while the crawl runs, for `SPIDERMON_PERIODIC_MONITORS`."""

    monitors: ClassVar[list[type]] = [UploadAgeMonitor]


def _listed(rows: Counter[str]) -> str:
    return ", ".join(f"{number} for {table}" for table, number in rows.most_common() if number) or "no table"
