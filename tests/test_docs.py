"""Every setting, stat, command and error has its line in docs/reference, and every line is about one that exists."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

from scrapy_supabase import errors, settings
from scrapy_supabase.commands import NAMES, module_of
from scrapy_supabase.models import Chunk, Effort, Mode, Origin, Outcome, Rejection, Row
from scrapy_supabase.pace import Pace
from scrapy_supabase.spool import Loaded
from scrapy_supabase.stats import PREFIX, Stats

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
SOURCES = sorted((ROOT / "scrapy_supabase").rglob("*.py"))


def names(page: str, pattern: str) -> set[str]:
    """What a page lists."""
    return set(re.findall(pattern, (REFERENCE / page).read_text(), re.MULTILINE))


def test_settings() -> None:
    """Those that exist, each with its default."""
    listed = names("settings.md", r"^`([A-Z_]+)`(?: ᴱ)?\n: \*Default:\*")
    assert listed == settings.KNOWN | {"SUPABASE_DB_URL"}


def test_settings_read_by_the_code_are_known() -> None:
    """No name is spelled in the code that is not in `KNOWN`."""
    text = (ROOT / "scrapy_supabase" / "settings.py").read_text()
    spelled = set(re.findall(r'"((?:SUPABASE|BATCH)_[A-Z_]+)"', text))
    assert spelled <= settings.KNOWN | {"SUPABASE_DB_URL"}


def test_only_settings_reads_settings_and_only_stats_knows_keys() -> None:
    """Rule 7 of the architecture."""
    for path in SOURCES:
        name = path.relative_to(ROOT / "scrapy_supabase").as_posix()
        text = path.read_text()
        if name != "addon.py" and not name.startswith(("settings", "local/", "commands/")):
            reads = re.findall(r"settings\.get\w*\(|os\.environ|os\.getenv", text)
            assert reads == (["settings.getbool("] if name == "pipeline.py" else []), name
        if name != "stats.py":
            assert not re.search(r"[\"']supabase/[a-z]", text), name


def test_stats() -> None:
    """Keys that the code can set, all of them set once."""

    class Collector:
        def __init__(self) -> None:
            self.keys: set[str] = set()

        def inc_value(self, key: str, count: int = 1, start: int = 0) -> None:  # noqa: ARG002
            self.keys.add(key)

        def set_value(self, key: str, value: object) -> None:  # noqa: ARG002
            self.keys.add(key)

        max_value = set_value

    collector = Collector()
    stats = Stats(collector)
    row = Row("t", ("a",), None, b"{}")
    chunk = Chunk(1, (row,), "1.jsonl", superseded=1)
    effort = Effort(1, 1, 1, 1, 1, 1, 1.0)
    effort.errors["23505"] += 1
    stats.sealed(chunk)
    old = replace(chunk, origin=Origin("run", "spider", Mode.UPSERT, ()))
    for each in (chunk, old):
        stats.settled(Outcome(each, 1, (Rejection("t", b"", "c", "m"),), (), (row,), None, effort))
        stats.left(each, 1)
    stats.read_back(Loaded(None, torn=1))
    stats.was_gone(1.0)
    stats.slowed()
    stats.paced(Pace(uploads=4, rows=100, most_rows=100))
    stats.refused("t", "c")
    stats.cleaned("t")
    stats.waited(1.0)
    made = {key.removeprefix(PREFIX).removesuffix("/t").replace("23505", "<code>") for key in collector.keys}
    assert names("stats.md", r"^\| `([^`]+)`") == made
    per_table = {key.removeprefix(PREFIX).removesuffix("/t") for key in collector.keys if key.endswith("/t")}
    assert names("stats.md", r"^\| `([^`]+)` ᵀ") == per_table


def test_commands() -> None:
    """Every sub-command and every option of it."""
    page = (REFERENCE / "commands.md").read_text()
    sections = dict(re.findall(r"^## `scrapy supabase (\w+)[^\n]*\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(NAMES)
    for name in NAMES:
        parser = argparse.ArgumentParser(add_help=False)
        module_of(name).add_options(parser)
        options = {option for action in parser._actions for option in action.option_strings}
        assert set(re.findall(r"^\| `(--[\w-]+)", sections[name], re.MULTILINE)) == options


def test_errors() -> None:
    """Finish reasons, and the codes of rows refused before they were sent."""
    text = "".join(path.read_text() for path in SOURCES)
    reasons = set(re.findall(r'"(supabase_[a-z_]+)"', text)) | {errors.FatalError.reason}
    listed = names("errors.md", r"^\| `(\w+)` \|")
    assert {name for name in listed if name.startswith("supabase_")} == reasons
    before = r"ItemError\(|error=\(|code=|\.table, text, |row\.table, row\.data, |\btable, row\.data, "
    codes = set(re.findall(f'(?:{before})"([a-z_]+)"', text))
    assert {name for name in listed if not name.startswith("supabase_")} == codes


def test_the_tests_that_show_a_guarantee_exist() -> None:
    """Every failure point of the page names one."""
    page = (ROOT / "docs" / "explanation" / "delivery-guarantees.md").read_text()
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", page)
    assert len(named) > 15
    for path, name in named:
        text = (ROOT / path).read_text()
        assert not name or re.search(rf"^(def|class) {name}\b", text, re.MULTILINE), (path, name)
