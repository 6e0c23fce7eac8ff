"""Monitors for Spidermon that fail if rows of a crawl were rejected or not uploaded.

SPIDERMON_SPIDER_CLOSE_MONITORS = ["scrapy_supabase.contrib.spidermon.SupabaseMonitorSuite"]

They need the extra `spidermon`. docs/how-to/monitors.md shows how to turn a failed monitor into an exit code.
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
from scrapy_supabase.settings.config import Config, is_enabled
from scrapy_supabase.settings.monitors import Thresholds
from scrapy_supabase.spool.reject_file import REJECTED

__unittest = True  # unittest omits the frames of this module, so that a failure is printed without a traceback


class SupabaseMonitor(BaseScrapyMonitor):
    """Base class of the monitors, with the pipeline's stats, the thresholds and the spool folder."""

    readings: Readings
    _config: Config

    def setUp(self) -> None:
        """Read settings and stats. Skip if the pipeline is disabled. Raises `ConfigurationError` for wrong settings."""
        if not is_enabled(self.crawler.settings):
            self.skipTest("SUPABASE_ENABLED is False")
        self._config = Config.from_settings(self.crawler.settings)
        self.readings = Readings(self.data.stats)
        if not self.readings:
            self.fail(
                "The pipeline of scrapy-supabase has not run. Enable it with ADDONS = {'scrapy_supabase.Addon': 300}, "
                "or remove its monitors from Spidermon's settings."
            )

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds of the settings `SUPABASE_MONITOR_…`."""
        return self._config.monitors.thresholds

    @property
    def spool(self) -> Path | None:
        """The spool folder, as an absolute path; None without a spool."""
        return self._config.spool.folder and self._config.spool.folder.absolute()


@monitors.name("Supabase: rejected rows")
class FailedRateMonitor(SupabaseMonitor):
    """Fails if the share of rejected rows exceeds SUPABASE_MONITOR_MAX_FAILED_RATE."""

    def test_failed_rate(self) -> None:
        """Compare the share of rejected rows, those of earlier runs included, with the threshold."""
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
    """Fails if more rows than SUPABASE_MONITOR_MAX_SPOOLED_ROWS are left for the next crawl."""

    def test_spooled_rows(self) -> None:
        """Compare the number of rows left in the spool, those of earlier runs included, with the threshold."""
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
    """Fails if rows wait and the last upload is older than SUPABASE_MONITOR_MAX_UPLOAD_AGE seconds."""

    def test_upload_age(self) -> None:
        """Compare the time since the last upload with the threshold, but only if rows wait."""
        waiting = self.readings.waiting()
        age = self.readings.seconds_waited(datetime.now(UTC))
        if waiting and age > self.thresholds.upload_age:
            where = "Kept in memory only: there is no spool (SUPABASE_SPOOL_DIR)."
            if self.spool:
                again = replay_command(self.spool)
                where = (
                    f"Kept in {self.spool}: this crawl or the next uploads these rows when the server is reachable "
                    f"again. To upload them without a crawl after this one, run: {again}"
                )
            self.fail(
                f"Waiting: {pluralize(waiting.total(), 'row')}. The server has stored none for {age:.0f} s, longer "
                f"than {self.thresholds.upload_age:g} s (SUPABASE_MONITOR_MAX_UPLOAD_AGE): {_listed(waiting)}. The "
                f"last WARNING of scrapy_supabase in the log has the server's answer. {where}"
            )


@monitors.name("Supabase: crawl closed by a fatal error")
class FatalErrorMonitor(SupabaseMonitor):
    """Fails if the pipeline closed the crawl after a fatal error. Other monitors may then have seen no row at all."""

    def test_finish_reason(self) -> None:
        """Check that the finish reason is not one of the pipeline's."""
        reason = str(self.data.stats.get("finish_reason", ""))
        if reason.startswith("supabase_"):
            where = f" Rows that were scraped before are kept in {self.spool}." if self.spool else ""
            self.fail(
                f"The crawl was closed ({reason}): nothing could be uploaded.{where} For cause and remedy, see the "
                "ERROR in the log that begins with `Closing the crawl`."
            )


class SupabaseMonitorSuite(MonitorSuite):
    """All monitors, for `SPIDERMON_SPIDER_CLOSE_MONITORS`, when every stat of the pipeline is final."""

    monitors: ClassVar[list[type]] = [FatalErrorMonitor, FailedRateMonitor, SpooledRowsMonitor, UploadAgeMonitor]


class SupabasePeriodicMonitorSuite(MonitorSuite):
    """The monitor that works while the crawl runs, for `SPIDERMON_PERIODIC_MONITORS`."""

    monitors: ClassVar[list[type]] = [UploadAgeMonitor]


def _listed(rows: Counter[str]) -> str:
    return ", ".join(f"{number} for {table}" for table, number in rows.most_common() if number) or "no table"
