"""A Scrapy plugin that uploads every item to a Supabase table, in chunks, without losing any.

Enable it with `ADDONS = {"scrapy_supabase.Addon": 300}`, or with
`ITEM_PIPELINES = {"scrapy_supabase.SupabasePipeline": 300}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scrapy_supabase.addon import Addon
    from scrapy_supabase.middleware import SkipStoredMiddleware, UrlStampMiddleware, select_rows
    from scrapy_supabase.monitoring.upload_result import UploadResult
    from scrapy_supabase.pipeline import SupabasePipeline
    from scrapy_supabase.script import init_supabase, upload_to_supabase

__all__ = [
    "Addon",
    "SkipStoredMiddleware",
    "SupabasePipeline",
    "UploadResult",
    "UrlStampMiddleware",
    "init_supabase",
    "select_rows",
    "upload_to_supabase",
]

_HOMES = {
    "Addon": "scrapy_supabase.addon",
    "SkipStoredMiddleware": "scrapy_supabase.middleware",
    "SupabasePipeline": "scrapy_supabase.pipeline",
    "UploadResult": "scrapy_supabase.monitoring.upload_result",
    "UrlStampMiddleware": "scrapy_supabase.middleware",
    "init_supabase": "scrapy_supabase.script",
    "select_rows": "scrapy_supabase.middleware",
    "upload_to_supabase": "scrapy_supabase.script",
}


def __getattr__(name: str) -> Any:
    # Each name imports only its own module: the gateway process and the commands need no pipeline.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
