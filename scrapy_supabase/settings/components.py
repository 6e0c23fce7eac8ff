"""The components and settings that a project has enabled or set, for `scrapy supabase check`."""

from __future__ import annotations

from collections.abc import Iterator

from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object


def components(settings: BaseSettings, name: str) -> Iterator[type]:
    """Yield the enabled classes of a setting such as `ITEM_PIPELINES`, except those that cannot be imported."""
    for path, order in settings.getwithbase(name).items():
        if order is not None:
            try:
                component = load_object(path)
            except Exception:  # noqa: BLE001, S112 (somebody else's component: the crawl will report the error)
                continue
            if isinstance(component, type):
                yield component


def is_set(settings: BaseSettings, name: str) -> bool:
    """Return whether the project sets `name`, a setting of this package."""
    return settings.getpriority(name) is not None
