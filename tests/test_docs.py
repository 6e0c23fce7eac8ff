"""Every setting, stat, command and error has its line in docs/reference, and every line is about one that exists."""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections import Counter
from dataclasses import fields
from pathlib import Path

import msgspec
import pytest

from scrapy_supabase import errors, pytest_plugin
from scrapy_supabase.backends.answers import classify
from scrapy_supabase.commands import NAMES, module_of
from scrapy_supabase.middleware import SENT_ANYWAY
from scrapy_supabase.models import Chunk, Effort, Mode, Origin, Outcome, Rejection, Row, RowCounts
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.stats import PREFIX, RequestStats, Stats, count_skipped
from scrapy_supabase.schema.ddl import ledger_sql, snapshots_sql
from scrapy_supabase.settings import config as settings
from scrapy_supabase.spool.base import Loaded
from scrapy_supabase.testing import CrawlResult, LocalSupabaseFixture
from tests.docs_pages import PAGES, prose_of

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
    for path in (ROOT / "scrapy_supabase" / "settings").glob("*.py"):
        spelled = set(re.findall(r'"((?:SUPABASE|BATCH)_[A-Z_]+)"', path.read_text()))
        assert spelled <= settings.KNOWN, path


def test_only_settings_reads_settings_and_only_stats_knows_keys() -> None:
    """Rule 7 of the architecture."""
    for path in SOURCES:
        name = path.relative_to(ROOT / "scrapy_supabase").as_posix()
        text = path.read_text()
        if not name.startswith(("settings/", "local/")):
            reads = re.findall(r"settings\.get\w*\(|os\.environ|os\.getenv", text)
            # Scrapy's own reactor; and the spool of a command that needs no server.
            allowed = {"testing/child.py": ["settings.getbool("], "commands/replay.py": ["os.environ"]}
            assert reads == allowed.get(name, []), name
        if name != "monitoring/stats.py":
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
    counters = Counters()
    stats = Stats(collector, counters)
    row = Row("t", ("a",), None, b"{}")
    chunk = Chunk(1, (row,), "1.jsonl", superseded=1)
    effort = Effort(1, 1, 1, 1, 1, 1, 1.0)
    effort.errors["23505"] += 1
    counters.on_chunk_sealed(chunk)
    old = msgspec.structs.replace(chunk, origin=Origin("run", "spider", Mode.UPSERT, ()))
    for each in (chunk, old):
        counters.on_chunk_done(Outcome(each, 1, (Rejection("t", b"", "c", "m"),), (), (row,), None, effort))
        counters.on_chunk_done(Outcome(each, 1, counts=RowCounts(1, 1, 1, 1)))
        counters.on_rows_kept(each, 1)
    counters.on_outdated(Counter({"t": 1}))
    counters.on_chunk_loaded(Loaded(None, torn=1))
    counters.on_outage_end(1.0)
    counters.on_throttled()
    counters.refused(Rejection("t", b"", "c", "m"))
    counters.cleaned("t")
    counters.on_unseen("t", 1)
    counters.on_waited(1.0)
    stats.publish(chunk_size=100, concurrency=4)
    count_skipped(collector, "t")
    requests = RequestStats(collector)
    requests.enqueued()
    for count in (requests.leased, requests.acknowledged, requests.given_back):
        count(1)
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
    others = {pytest_plugin.MIGRATIONS, SENT_ANYWAY}
    reasons = set(re.findall(r'"(supabase_[a-z_]+)"', text)) - others | {errors.FatalError.reason}
    listed = names("errors.md", r"^\| `(\w+)` \|")
    assert {name for name in listed if name.startswith("supabase_")} == reasons
    before = r"ItemError\(|error=\(|code=|\.table, text, |row\.table, row\.data, |\btable, row\.data, |NOT_KEPT = "
    codes = set(re.findall(f'(?:{before})"([a-z_]+)"', text))
    assert {name for name in listed if not name.startswith("supabase_")} == codes


def test_the_fixture() -> None:
    """Its attributes, the arguments of a crawl, what a crawl returns, and the option of pytest."""
    page = (REFERENCE / "api.md").read_text().partition("## Fixture `local_supabase`\n")[2]
    listed = set(re.findall(r"`\W*(\w+)", page))
    attributes = {name for name in vars(LocalSupabaseFixture) if not name.startswith("_")} - {"close"}
    arguments = set(inspect.signature(LocalSupabaseFixture.crawl).parameters) - {"self"}
    results = {field.name for field in fields(CrawlResult)}
    assert listed >= attributes | arguments | results | {pytest_plugin.MIGRATIONS}


def test_the_tests_that_show_a_guarantee_exist() -> None:
    """Every failure point of the page names one."""
    page = (ROOT / "docs" / "explanation" / "delivery-guarantees.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    assert len(named) > 15
    for path, name in named:
        text = (ROOT / path).read_text()
        assert not name or re.search(rf"^(def|class) {name}\b", text, re.MULTILINE), (path, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_what_exists(page: Path) -> None:
    """Settings, stats and finish reasons that are spelled in the code."""
    text = page.read_text()
    code = "".join(path.read_text() for path in SOURCES)
    names_of = r"\b(?:SUPABASE|BATCH)_(?!TEST_)[A-Z_]*[A-Z]\b|\bsupabase_[a-z_]*[a-z]\b"
    stats = {key.partition("/")[0] for key in names("stats.md", r"^\| `([^`]+)`")}
    metrics = {f"supabase_{stat}{suffix}" for stat in stats for suffix in ("", "_by_table")}  # how-to/monitors.md
    assert set(re.findall(names_of, text)) <= set(re.findall(names_of, code)) | metrics
    assert set(re.findall(r"(?<![\w./])supabase/([a-z_]+)\b(?!\.)", text)) <= stats


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading of it; addresses elsewhere are not asked for."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts and MyST make them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


CLASSES = {
    "transient": errors.TransientError,
    "transient, twice at most": errors.TransientError,
    "too large": errors.TooLargeError,
    "upsert refused": errors.UpsertRefusedError,
    "schema drift": errors.SchemaDriftError,
    "missing reference": errors.MissingReferenceError,
    "bad rows": errors.BadRowsError,
}


def test_answers_are_classified_as_the_page_says() -> None:
    """Every code of both tables, and none that is fatal in the first."""
    page = (ROOT / "docs" / "explanation" / "answers.md").read_text()
    rows = re.findall(r"^\| ([a-z, ]+|`supabase_\w+`) \| (.*?) \|", page, re.MULTILINE)
    seen = 0
    for name, answers in rows:
        for code in re.findall(r"`([^`]+)`", answers):
            error = classified(code)
            seen += 1
            if name.startswith("`"):
                assert isinstance(error, errors.FatalError), code
                assert error.reason == name.strip("`"), code
            elif code != "42501":  # of a policy; the code alone is a missing grant
                assert type(error) is CLASSES[name], code
                assert (getattr(error, "tries", None) == 2) == (name == "transient, twice at most"), code
    assert seen >= 50


def classified(code: str) -> errors.ServerError:
    """What becomes of an answer with that code, where `\u2026` is any end."""
    if code.startswith("http_"):
        return classify(int(code.removeprefix("http_")), b"")
    code = code.replace("\u2026", "").ljust(8 if code.startswith("PGRST") else 5, "0")
    names = {"PGRST204": "Could not find the 'a' column of 't'", "42703": 'column "a" does not exist'}
    body = {"code": code, "message": names.get(code, 'column "a"')}
    return classify(400, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("migration", "pattern"),
    [
        ("006_add_daily_snapshots.sql", r"create table if not exists public\.snapshot_versions .*?;"),
        ("006_add_daily_snapshots.sql", r"create or replace function .*?^end \$\$;"),
        ("006_add_daily_snapshots.sql", r"^(?:revoke|grant) execute .*?;$"),
        ("009_scrapy_runs.sql", r"create table if not exists .*?;"),
        ("009_scrapy_runs.sql", r"^(?:grant|alter) .*?;.*?$"),
        ("011_scrapy_runs_last_seen.sql", r"^alter .*?;$"),
    ],
)
def test_page_and_command_print_what_the_migration_has(migration: str, pattern: str) -> None:
    """For who has the package and not its migrations."""
    page = (ROOT / "docs" / "how-to" / "daily-snapshots.md").read_text()
    found = re.findall(pattern, (ROOT / "migrations" / migration).read_text(), re.MULTILINE | re.DOTALL)
    assert found
    assert [statement for statement in found if statement not in page] == []
    printed = snapshots_sql() if migration.startswith("006") else ledger_sql("scrapy_runs")
    assert [statement for statement in found if statement not in printed] == []
