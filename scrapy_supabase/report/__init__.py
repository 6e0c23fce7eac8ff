"""The run report: one self-contained HTML page about what a run did, made from a `last_run.LastRun`."""

from __future__ import annotations

from scrapy_supabase.monitoring.last_run import LastRun

__all__ = ["page_of"]


def page_of(run: LastRun) -> str:
    """Return the HTML page about a run."""
    from scrapy_supabase.report import page  # only here: most crawls have no page

    return page.page_of(run)
