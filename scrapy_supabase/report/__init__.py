"""The run report: one self-contained HTML page about what a run did, made from a `last_run.LastRun`."""

from __future__ import annotations

from scrapy_supabase.report.page import page_of

__all__ = ["page_of"]
