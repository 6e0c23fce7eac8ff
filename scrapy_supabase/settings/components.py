"""The components, settings and spiders of a project, for commands."""

from __future__ import annotations

from collections.abc import Iterator

from scrapy.settings import BaseSettings
from scrapy.spiderloader import get_spider_loader
from scrapy.utils.misc import load_object

from scrapy_supabase.settings.tables import uses_spider_name


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


def scheduler(settings: BaseSettings) -> type:
    """Return the class of `SCHEDULER`. Raises what its import raises."""
    found: type = load_object(settings["SCHEDULER"])
    return found


def scheduler_name(settings: BaseSettings) -> str:
    """Return the value of `SCHEDULER` as text."""
    return str(settings.get("SCHEDULER"))


def is_set(settings: BaseSettings, name: str) -> bool:
    """Return whether the project sets `name`, a setting of this package."""
    return settings.getpriority(name) is not None


def spiders_for(settings: BaseSettings) -> list[str]:
    """Return the names of all spiders of the project, if the names of its tables depend on them."""
    return sorted(get_spider_loader(settings).list()) if uses_spider_name(settings) else []
