"""A script that runs one crawl, as `scrapy crawl` does; `crawl.py` sends spider and settings on standard input."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pickle
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    """Crawl, and write the stats, or the reason why there are none, to the file `answer`."""
    header = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = header["path"]  # before any other import: modules must be found where pytest found them
    answer: dict[str, Any] = {}
    try:
        answer["stats"] = _crawl(header)
    except CannotRunError as error:
        answer["problem"] = str(error)
    import msgspec

    Path(header["answer"]).write_bytes(msgspec.msgpack.encode(answer, enc_hook=str))


class CannotRunError(Exception):
    """The crawl cannot start. The message continues the sentence "The crawl could not run: ", and ends it."""


def _crawl(header: dict[str, Any]) -> dict[str, Any]:
    from scrapy.crawler import AsyncCrawlerProcess, CrawlerProcess
    from scrapy.utils.project import get_project_settings

    from scrapy_supabase.addon import Addon

    settings = get_project_settings()
    spider = _spider_class(header) if "module" in header else header["spider"]
    overrides, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 (from our parent)
    log = {"LOG_ENABLED": True, "LOG_FILE": None, "TELNETCONSOLE_ENABLED": False}
    settings.setdict({**log, **overrides}, "cmdline")
    settings.setdefault_in_component_priority_dict("ADDONS", Addon, 300)
    process = (CrawlerProcess if settings.getbool("TWISTED_REACTOR_ENABLED") else AsyncCrawlerProcess)(settings)
    if isinstance(spider, str) and spider not in process.spider_loader.list():
        raise CannotRunError(_no_such_spider(spider, process.spider_loader.list()))
    crawler = process.create_crawler(spider)
    failures: list[BaseException] = []
    ended: Any = process.crawl(crawler, **arguments)
    if isinstance(process, CrawlerProcess):  # a Deferred; else a task
        ended.addErrback(lambda failure: failures.append(failure.value))
    else:
        ended.add_done_callback(lambda task: failures.extend(filter(None, [task.exception()])))
    process.start()
    if failures or process.bootstrap_failed:
        raise CannotRunError(_reason(failures[0]) if failures else "it could not start. The reason is in its log.")
    return dict(crawler.stats.get_stats()) if crawler.stats else {}


def _reason(error: BaseException) -> str:
    from scrapy_supabase.errors import SupabaseError

    if isinstance(error, SupabaseError):
        return str(error)
    return "".join(traceback.format_exception(error)).rstrip()


def _spider_class(header: dict[str, Any]) -> Any:
    module = _module(header["module"], header["file"])
    found: Any = module
    for name in header["spider"].split("."):
        found = getattr(found, name, None)
    if found is None:
        raise CannotRunError(
            f"{header['module']} has no {header['spider']} when the crawl's process imports it. Define the spider at "
            "the top level of the module, not inside an if or a function."
        )
    return found


def _module(name: str, file: str | None) -> ModuleType:
    """Import the module `name`, or load it from `file` as pytest may have done with a test module."""
    try:
        module = importlib.import_module(name)
        if file is None or getattr(module, "__file__", None) == file:
            return module
    except ImportError as error:
        from scrapy_supabase.messages import sentence

        if file is None or error.name not in {name, name.partition(".")[0]}:
            raise CannotRunError(f"the spider's module {name} cannot be imported: {sentence(error)}") from error
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise CannotRunError(f"the spider's module {name} cannot be imported from {file}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _no_such_spider(name: str, known: list[str]) -> str:
    from scrapy.utils.conf import closest_scrapy_cfg

    project = closest_scrapy_cfg()
    if not project:
        return (
            f"spider {name!r} cannot be found by its name: there is no scrapy.cfg at or above {Path.cwd()}. "
            "Pass the spider class."
        )
    return f"the project of {project} has no spider {name!r}. Name one of: {', '.join(sorted(known)) or 'none'}"


if __name__ == "__main__":
    main()
