"""A crawl in a process of its own, because a reactor can run only once: started, awaited, checked."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from scrapy_supabase.errors import SupabaseError
from scrapy_supabase.messages import pluralize, sentence
from scrapy_supabase.monitoring.stats import Readings
from scrapy_supabase.spool.reject_file import REJECTED

if TYPE_CHECKING:
    from scrapy import Spider

_EXCERPT = 30  # lines of the log in an error
_HEAD = 10  # of these, the lines from the beginning of a longer record, whose end names the exception
_MOST_REJECTED = 5  # rejected rows in an error
_RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[")  # the beginning of a record in Scrapy's log


@dataclass(frozen=True, slots=True)
class CrawlResult:
    """The result of a crawl: Scrapy's stats, the log, and the lines that it added to the reject file.

    A line has `code`, `message`, `details`, `hint`, `table`, `row` and more: docs/reference/spool.md. `problem` is the
    reason if the crawl could not run.
    """

    stats: dict[str, Any]
    log: str = field(repr=False)
    rejected: list[dict[str, Any]]
    problem: str = ""


class CrawlError(SupabaseError):
    """A crawl that failed, or lost rows. `result` is its result, which may be incomplete."""

    def __init__(self, message: str, result: CrawlResult) -> None:
        super().__init__(message)
        self.result = result


def run(
    spider: type[Spider] | str,
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any],
    folder: Path,
    timeout: float,
) -> CrawlResult:
    """Crawl in `folder`; end the crawl after `timeout` seconds.

    The result's `problem` is set if the crawl could not run or took too long. Raises `CrawlError` if the spider, a
    setting or an argument cannot be sent to the crawl's process.
    """
    spool = settings["SUPABASE_SPOOL_DIR"]
    before = len(_rejects(spool))
    with tempfile.TemporaryDirectory() as own:
        answer, log = Path(own) / "answer", Path(own) / "log"
        job = _job(spider, settings, arguments, answer)
        problem = ""
        with log.open("wb") as output:
            try:
                done = subprocess.run(  # noqa: S603 (ourselves)
                    [sys.executable, "-P", Path(__file__).with_name("child.py")],
                    input=job, stdout=output, stderr=subprocess.STDOUT, cwd=folder, timeout=timeout, check=False,
                )  # fmt: skip
                if done.returncode:
                    problem = f"its process ended with exit code {done.returncode}."
            except subprocess.TimeoutExpired:
                problem = f"it was stopped after {timeout:g} s. If it needs longer, raise timeout."
        text = log.read_text(errors="replace")
        problem = problem and "\n".join([problem, "The end of its log:", *text.splitlines()[-_EXCERPT:]])
        found = msgspec.msgpack.decode(answer.read_bytes()) if answer.exists() else {}
    rejected = [json.loads(line) for line in _rejects(spool)[before:]]
    return CrawlResult(found.get("stats", {}), text, rejected, found.get("problem") or problem)


def check(result: CrawlResult, *, rows: bool) -> None:
    """Raise `CrawlError` if a crawl failed; with `rows`, also if rows of it are not in the database."""
    __tracebackhide__ = True
    readings, reason = Readings(result.stats), str(result.stats.get("finish_reason", ""))
    if result.problem:
        raise CrawlError(f"The crawl could not run: {result.problem}", result)
    if not readings:
        raise CrawlError(
            "The crawl ran without the pipeline of scrapy-supabase: the settings switch it off. Check "
            "SUPABASE_ENABLED, ITEM_PIPELINES and ADDONS.",
            result,
        )
    if reason.startswith("supabase_"):
        excerpt = _excerpt(result.log, rf" ERROR: Closing the crawl .*\({reason}\)")
        raise CrawlError(f"The crawl was closed ({reason}): nothing could be uploaded.\n{excerpt}", result)
    if raised := [name for name in result.stats if name.startswith("spider_exceptions/")]:
        names = sorted({name.partition("/")[2] for name in raised} - {"count"})
        raise CrawlError(f"The spider raised {', '.join(names)}.\n{_excerpt(result.log, ' ERROR: ')}", result)
    if rows and (failed := readings.count("failed", "recovered_failed")):
        raise CrawlError(_rejections(failed, result), result)
    if rows and (left := readings.count("spooled", "recovered_spooled")):
        excerpt = _excerpt(result.log, " WARNING: ")
        raise CrawlError(f"Not uploaded: {pluralize(left, 'row')} (check_rows=False allows that).\n{excerpt}", result)


def _excerpt(log: str, first: str) -> str:
    """Return the log's record whose first line matches `first`, or the end of the log if there is none."""
    lines = log.splitlines()
    start = next((number for number, line in enumerate(lines) if re.search(first, line)), -_EXCERPT)
    record = takewhile(lambda line: not _RECORD.match(line), lines[start:][1:])
    whole = [*lines[start:][:1], *record]
    if len(whole) > _EXCERPT:
        whole[_HEAD : -(_EXCERPT - _HEAD - 1)] = ["  …"]
    return "\n".join(whole)


def _rejections(failed: int, result: CrawlResult) -> str:
    lines = [f"Rejected: {pluralize(failed, 'row')} (check_rows=False allows that):"]
    for one in result.rejected[:_MOST_REJECTED]:
        words = " ".join(sentence(one[name]) for name in ("message", "details", "hint") if one.get(name))
        lines.append(f"  {one['table']}, {one['code']}: {words} {json.dumps(one['row'])[:300]}")
    return "\n".join(lines)


def _job(spider: type[Spider] | str, settings: Mapping[str, Any], arguments: Mapping[str, Any], answer: Path) -> bytes:
    """Return the input of child.py: a line of JSON, then a pickle, which needs the `sys.path` from the line."""
    header: dict[str, Any] = {"path": [path or str(Path.cwd()) for path in sys.path], "answer": str(answer)}
    if isinstance(spider, str):
        header["spider"] = spider
    else:
        path = f"{spider.__module__}.{spider.__qualname__}"
        if "<locals>" in spider.__qualname__ or spider.__module__ == "__main__":
            raise CrawlError(
                f"The crawl's process cannot import the spider {path}. Define it at the top level of a module, not "
                "in a function.",
                CrawlResult({}, "", []),
            )
        file = getattr(sys.modules.get(spider.__module__), "__file__", None)
        header |= {"module": spider.__module__, "file": file, "spider": spider.__qualname__}
    for kind, values in (("setting", settings), ("spider argument", arguments)):
        for name, value in values.items():
            try:
                pickle.dumps(value)
            except Exception as error:
                raise CrawlError(
                    f"The {kind} {name} cannot be sent to the crawl's process: {sentence(error)} Define classes and "
                    "functions at the top level of a module; a setting may also be an import path.",
                    CrawlResult({}, "", []),
                ) from error
    return json.dumps(header).encode() + b"\n" + pickle.dumps((dict(settings), dict(arguments)))


def _rejects(spool: str | Path | None) -> list[str]:
    path = Path(spool) / REJECTED if spool else None
    text = path.read_text(encoding="utf-8") if path and path.exists() else ""
    return [line for line in text.split("\n") if line]
