"""The Scrapy add-on, enabled by `ADDONS = {"scrapy_supabase.Addon": 300}`."""

from __future__ import annotations

from scrapy.settings import BaseSettings

from scrapy_supabase.middleware import SkipStoredMiddleware, UrlStampMiddleware
from scrapy_supabase.pipeline import SupabasePipeline


class Addon:
    """Scrapy add-on that enables the pipeline (at 300) and the spider middlewares (at 100 and 950).

    A component that the project's settings already contain keeps its place.
    """

    def update_settings(self, settings: BaseSettings) -> None:
        """Add the components to the settings. Scrapy calls this before it creates any component."""
        settings.setdefault_in_component_priority_dict("ITEM_PIPELINES", SupabasePipeline, 300)
        settings.setdefault_in_component_priority_dict("SPIDER_MIDDLEWARES", SkipStoredMiddleware, 100)
        settings.setdefault_in_component_priority_dict("SPIDER_MIDDLEWARES", UrlStampMiddleware, 950)
