"""What a project has switched on, and what it has set itself: for `check`."""

from __future__ import annotations

from collections.abc import Iterator

from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object


def components(settings: BaseSettings, name: str) -> Iterator[type]:
    """The classes of a setting such as `ITEM_PIPELINES`; those that cannot be imported are left out."""
    for path, order in settings.getwithbase(name).items():
        if order is not None:
            try:
                found = load_object(path)
            except Exception:  # noqa: BLE001, S112 (somebody else's component: the crawl will say what it has)
                continue
            if isinstance(found, type):
                yield found


def is_set(settings: BaseSettings, name: str) -> bool:
    """Whether the project has given a setting of ours a value."""
    return settings.getpriority(name) is not None
