"""Run report: a self-contained HTML page about a run, made from a `last_run.LastRun`."""

from __future__ import annotations

from scrapy_supabase.monitoring.last_run import LastRun

__all__ = ["page_of"]


def page_of(run: LastRun) -> str:
    """Return the HTML page about a run."""
    from scrapy_supabase.report import page  # imported here, because most crawls write no page

    return page.page_of(run)
