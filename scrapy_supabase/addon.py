"""One line turns everything on: `ADDONS = {"scrapy_supabase.Addon": 300}`."""

from __future__ import annotations

from scrapy.settings import BaseSettings

from scrapy_supabase.middleware import UrlStampMiddleware
from scrapy_supabase.pipeline import SupabasePipeline


class Addon:
    """Enables the pipeline (at 300) and what its settings need; what the project set itself stays as it is."""

    def update_settings(self, settings: BaseSettings) -> None:
        """Called by Scrapy before the components are made."""
        settings.setdefault_in_component_priority_dict("ITEM_PIPELINES", SupabasePipeline, 300)
        settings.setdefault_in_component_priority_dict("SPIDER_MIDDLEWARES", UrlStampMiddleware, 950)
