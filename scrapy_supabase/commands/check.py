"""scrapy supabase check: list anything that would stop a crawl, and how to fix it.

Checks settings, spool, key, server and clocks, and for each table: does it
exist, may this key write to it, row-level security, conflict target, columns
and types of the item classes. Stores nothing. With a spider's name, uses that
spider's settings. The exit code is 1 if there is an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import Any

from scrapy.spiderloader import get_spider_loader
from scrapy.utils.project import inside_project

from scrapy_supabase.checkup.check import check
from scrapy_supabase.checkup.finding import Finding, Level
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize, sentence
from scrapy_supabase.settings.components import spiders_for

_MARKS = {Level.OK: "✓", Level.WARNING: "!", Level.ERROR: "✗"}
_PLAIN_MARKS = {Level.OK: "ok", Level.WARNING: "!", Level.ERROR: "X"}  # for terminals without Unicode


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("spider", nargs="?", metavar="SPIDER", help="use the settings of this spider of the project")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Print the findings and return the exit code."""
    if opts.spider:
        settings = _settings_of(settings, opts.spider)
    findings: list[Finding] = []
    spiders = [opts.spider] if opts.spider else spiders_for(settings)
    for finding in check(settings, in_project=inside_project(), spiders=spiders):
        findings.append(finding)
        if not opts.json:
            _print(finding)
    levels = Counter(finding.level for finding in findings)
    if opts.json:
        listed = [{"level": f.level, "subject": f.subject, "text": f.text, "remedy": f.remedy} for f in findings]
        print(json.dumps({"ok": not levels[Level.ERROR], "findings": listed}, ensure_ascii=False, indent=2))
    else:
        print(_summary(levels))
    return 1 if levels[Level.ERROR] else 0


def _settings_of(settings: Any, name: str) -> Any:
    """Return the project's settings, updated by those of a spider."""
    loader = get_spider_loader(settings)
    try:
        spider = loader.load(name)
    except KeyError:
        known = ", ".join(sorted(loader.list()))
        remedy = f"Use one of: {known}" if known else "Change to the folder where your project's scrapy.cfg is."
        raise ConfigurationError(f"There is no spider {name!r} here. {remedy}") from None
    settings = settings.copy()
    try:
        spider.update_settings(settings)
    except Exception as error:
        raise ConfigurationError(
            f"The settings of spider {name!r} cannot be read: {type(error).__name__}: {sentence(error)} Correct its "
            "custom_settings or update_settings."
        ) from error
    return settings


def _print(finding: Finding) -> None:
    try:
        mark = _MARKS[finding.level]
        mark.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        mark = _PLAIN_MARKS[finding.level]
    print(f"{mark} {finding.subject}: {finding.text}", flush=True)
    if finding.remedy:
        print(f"    {finding.remedy}", flush=True)


def _summary(levels: Counter[Level]) -> str:
    errors, warnings = levels[Level.ERROR], levels[Level.WARNING]
    counts = [pluralize(number, noun) for number, noun in ((errors, "error"), (warnings, "warning")) if number]
    return f"{' and '.join(counts)}." if counts else "No problems: a crawl can start."
