"""Messages about settings and arguments, provoked one by one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from scrapy.settings import Settings
from supabase import create_client

from scrapy_supabase import init_supabase, upload_to_supabase
from scrapy_supabase.errors import ConfigurationError, SupabaseError
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.explicit import config_for_table
from tests import fork_server
from tests.fix_crawl import OLDEST, Crawler
from tests.messages import Said, of_log

GOOD = {"SUPABASE_URL": "https://abc.supabase.co", "SUPABASE_KEY": "sb_secret_x", "SUPABASE_TABLE": "t"}


def read(changes: dict[str, Any], environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the messages about valid settings with `changes`; None removes a setting. `environ` replaces them all."""
    given = {name: value for name, value in {**GOOD, **changes}.items() if value is not None and environ is None}
    try:
        found = Config.from_settings(Settings(given), environ or {})
    except ConfigurationError as error:
        return [f"{type(error).__name__}: {error}"]
    return [f"WARNING: {warning}" for warning in found.warnings]


REVIEWS: dict[str, Any] = {"table": "reviews", "parent": {"book": "url"}}


def children(options: Any, **more: Any) -> dict[str, Any]:
    """Return the settings of a table with this option `children`."""
    return {"SUPABASE_TABLES": {"*": {"table": "t", "children": options, **more}}}


SEEN = {"table": "t", "stamps": {"run": "run_id"}}
CASES: Sequence[tuple[str, dict[str, Any]]] = (
    ("Nothing is set", {"SUPABASE_URL": None, "SUPABASE_KEY": None, "SUPABASE_TABLE": None}),
    ("A key with a space in it", {"SUPABASE_KEY": "two words"}),
    ("A key in quotation marks, from an env file", {"SUPABASE_KEY": '"sb_secret_s3cret"'}),
    ("A key as the URL", {"SUPABASE_URL": "sb_secret_s3cret"}),
    (
        "A connection string as the URL",
        {"SUPABASE_URL": "postgresql://postgres:s3cret@db.abc.supabase.co:5432/postgres"},
    ),
    ("A page of the dashboard as the URL", {"SUPABASE_URL": "https://supabase.com/dashboard/project/abc/editor"}),
    ("The dashboard as the URL", {"SUPABASE_URL": "https://app.supabase.com"}),
    ("Two URLs", {"SUPABASE_URL": "https://abc.supabase.co https://def.supabase.co"}),
    ("A URL with a password over http", {"SUPABASE_URL": "http://me:s3cret@db.example.com"}),
    ("A URL without https", {"SUPABASE_URL": "abc.supabase.co"}),
    ("A URL of another host over http", {"SUPABASE_URL": "http://db.example.com"}),
    ("A chunk size that is no number", {"BATCH_CHUNK_SIZE": "ten"}),
    ("A chunk size above the maximum", {"BATCH_CHUNK_SIZE": 5000}),
    ("Too few chunk bytes", {"BATCH_CHUNK_BYTES": 10}),
    ("A flush interval below 0", {"BATCH_FLUSH_INTERVAL": -1}),
    ("No attempts", {"BATCH_RETRY_ATTEMPTS": 0}),
    ("A delay that is no number", {"BATCH_RETRY_DELAY": "soon"}),
    ("A timeout of 0", {"SUPABASE_TIMEOUT": 0}),
    ("A concurrency of 0", {"SUPABASE_CONCURRENT_UPLOADS": 0}),
    ("An infinite close timeout", {"SUPABASE_CLOSE_TIMEOUT": float("inf")}),
    ("An outage of negative length", {"SUPABASE_MAX_OUTAGE": -1}),
    ("A spool folder that is a number", {"SUPABASE_SPOOL_DIR": 5}),
    ("A spool size that is too small", {"SUPABASE_SPOOL_MAX_BYTES": 1}),
    ("A flag that is neither True nor False", {"SUPABASE_SPOOL_FSYNC": "perhaps"}),
    ("A migrations folder that does not exist", {"SUPABASE_MIGRATIONS": "/nowhere"}),
    ("An empty schema", {"SUPABASE_SCHEMA": ""}),
    ("An unknown mode", {"SUPABASE_MODE": "replace"}),
    ("Conflict columns with a comma too many", {"SUPABASE_ON_CONFLICT": "a,,b"}),
    ("Conflict columns as JSON that does not end", {"SUPABASE_ON_CONFLICT": '["a"'}),
    ("Stamps that are a list", {"SUPABASE_STAMPS": ["now"]}),
    ("An unknown stamp", {"SUPABASE_STAMPS": {"seen": "yesterday"}}),
    ("A table that is a number", {"SUPABASE_TABLE": 5}),
    ("SUPABASE_TABLES as a text", {"SUPABASE_TABLES": "books"}),
    (
        "SUPABASE_TABLES alone, as a text that is not JSON",
        {"SUPABASE_TABLE": None, "SUPABASE_TABLES": "{'*': 'books'}"},
    ),
    ("An entry of SUPABASE_TABLES with a misspelt key", {"SUPABASE_TABLES": {"*": {"tabel": "t"}}}),
    ("An entry of SUPABASE_TABLES with an option that does not exist", {"SUPABASE_TABLES": {"*": {"name": "t"}}}),
    ("An item class that cannot be imported", {"SUPABASE_TABLES": {"nowhere.Item": "t"}}),
    ("An item class that is not a class", {"SUPABASE_TABLES": {"os.getcwd": "t"}}),
    ("Two fields for one column", {"SUPABASE_TABLES": {"*": {"table": "t", "columns": {"a": "c", "b": "c"}}}}),
    ("One table with two modes", {"SUPABASE_TABLES": {dict: {"table": "t", "mode": "insert"}}}),
    (
        "An entry of SUPABASE_TABLES that is a number",
        {"SUPABASE_TABLES": {"*": 5}},
    ),
    ("A hash of no field", {"SUPABASE_STAMPS": {"key": "hash()"}}),
    ("Constants that are a list", {"SUPABASE_CONSTANTS": ["source"]}),
    ("A constant that cannot be stored", {"SUPABASE_CONSTANTS": {"source": object}}),
    ("A constant for a stamped column", {"SUPABASE_CONSTANTS": {"c": 1}, "SUPABASE_STAMPS": {"c": "now"}}),
    ("An unknown treatment of empty texts", {"SUPABASE_EMPTY_TEXT": "NULL"}),
    ("A misspelt treatment of missing fields", {"SUPABASE_MISSING": "nul"}),
    ("Missing fields as NULL, and None left out", {"SUPABASE_MISSING": "null", "SUPABASE_NONE": "skip"}),
    ("A comparison that is no bool", {"SUPABASE_TABLES": {"*": {"table": "t", "if_changed": "yes"}}}),
    (
        "Columns only for new rows in mode update",
        {"SUPABASE_MODE": "update", "SUPABASE_TABLES": {"*": {"table": "t", "insert_only": "seen"}}},
    ),
    ("A merge in mode insert", {"SUPABASE_TABLES": {"*": {"table": "t", "mode": "insert", "merge": ["data"]}}}),
    (
        "A key to merge, and a column twice",
        {"SUPABASE_TABLES": {"*": {"table": "t", "on_conflict": "a", "merge": ["a", "b"], "insert_only": "b"}}},
    ),
    (
        "One table with two sets of options",
        {"SUPABASE_TABLES": {"*": {"table": "t", "merge": "a"}, "scrapy.Item": {"table": "t"}}},
    ),
    ("Unseen rows without a stamp", {"SUPABASE_TABLES": {"*": {"table": "t", "unseen": {"delete": True}}}}),
    ("Unseen rows as a text", {"SUPABASE_TABLES": {"*": {**SEEN, "unseen": "delete"}}}),
    ("An option of unseen rows, misspelt", {"SUPABASE_TABLES": {"*": {**SEEN, "unseen": {"delte": True}}}}),
    ("Unseen rows without a change", {"SUPABASE_TABLES": {"*": {**SEEN, "unseen": {"where": {"a": 1}}}}}),
    ("Unseen rows that are perhaps deleted", {"SUPABASE_TABLES": {"*": {**SEEN, "unseen": {"delete": "yes"}}}}),
    (
        "Unseen rows with wrong values",
        {"SUPABASE_TABLES": {"*": {**SEEN, "unseen": {"set": {"a": [1], "run": "x"}, "where": 5, "at_most": 20}}}},
    ),
    ("Unseen rows set to nothing", {"SUPABASE_TABLES": {"*": {**SEEN, "unseen": {"set": {}, "where": {"a": {}}}}}}),
    (
        "Unseen rows in mode ignore",
        {"SUPABASE_TABLES": {"*": {**SEEN, "mode": "ignore", "unseen": {"delete": True}}}},
    ),
    (
        "Unseen rows, and stored rows that are kept",
        {
            "SUPABASE_TABLES": {"*": {**SEEN, "if_changed": True, "unseen": {"delete": True}}},
            "SUPABASE_DAILY_SNAPSHOTS": True,
        },
    ),
    ("A function for the end that is a list", {"SUPABASE_AFTER_CRAWL": ["refresh"]}),
    ("An unknown treatment of None", {"SUPABASE_NONE": True}),
    ("A JSON column that is a list", {"SUPABASE_TABLES": {"*": {"table": "t", "json_column": ["data"]}}}),
    (
        "A JSON column to which a field is mapped",
        {"SUPABASE_TABLES": {"*": {"table": "t", "json_column": "data", "columns": {"raw": "data"}}}},
    ),
    ("Children that are a text", children("reviews")),
    ("A child table without options", children({"reviews": "reviews"})),
    ("A misspelt option of a child table", children({"reviews": {**REVIEWS, "parents": {}}})),
    ("A child table without its parent's columns", children({"reviews": {"table": "reviews"}})),
    ("A child table without a name", children({"reviews": {"parent": {"book": "url"}}})),
    (
        "Columns of a parent that are none",
        children({"reviews": {**REVIEWS, "parent": {"book": "link", "of": "reviews"}}}, columns={"link": "url"}),
    ),
    ("A position that is a number", children({"reviews": {**REVIEWS, "position": 1}})),
    ("Perhaps replaced children", children({"reviews": {**REVIEWS, "replace": "yes"}})),
    ("Replaced children without a stamp", children({"reviews": {**REVIEWS, "replace": True}})),
    (
        "Replaced children that keep the id of an earlier run",
        children(
            {"reviews": {**REVIEWS, "stamps": {"run": "run_id"}, "unseen": {"delete": True}, "replace": True}},
            stamps={"run": "run_id"},
            mode="ignore",
        ),
    ),
    (
        "Columns of a child that two options fill",
        children({"reviews": {**REVIEWS, "position": "book", "constants": {"book": 1}}}),
    ),
    ("A child table that is its own parent", children({"reviews": {**REVIEWS, "table": "t"}})),
    (
        "A column that the class of the parent lacks",
        {"SUPABASE_TABLES": {"tests.crawl.Author": children({"reviews": REVIEWS})["SUPABASE_TABLES"]["*"]}},
    ),
    ("References that are a list", {"SUPABASE_TABLES": {"*": {"table": "t", "references": ["p"]}}}),
    (
        "References with wrong options",
        {
            "SUPABASE_TABLES": {
                "*": {
                    "table": "t",
                    "stamps": {"e": "now"},
                    "references": {
                        "a": "categories",
                        "b": {"table": 5, "column": 5, "create": "yes", "match": {}},
                        "c": {"tabel": "x", "match": "name"},
                        "d": {"table": "p", "match": {"name": "n"}, "columns": {"name": "m"}},
                        "e": {"table": "p", "match": {"name": "n"}},
                    },
                }
            }
        },
    ),
    ("A table chosen by a number", {"SUPABASE_TABLES": {"*": {"by": 5, "tables": {"a": "t"}}}}),
    ("A function that cannot be imported", {"SUPABASE_TABLES": {"*": {"by": "tests.crawl.no", "tables": {"a": "t"}}}}),
    ("A choice among no tables", {"SUPABASE_TABLES": {"*": {"by": "type", "tables": {}}}}),
    (
        "An option beside a choice of tables",
        {"SUPABASE_TABLES": {"*": {"by": "type", "tables": {"a": "t"}, "mode": "insert"}}},
    ),
    ("The name of an unknown spider", {"SUPABASE_TABLES": {"*": "{spider}_rows"}}),
    ("A row id column that is a number", {"SUPABASE_ROW_ID_COLUMN": 5}),
    ("A row id column beside conflict columns", {"SUPABASE_ROW_ID_COLUMN": "id", "SUPABASE_ON_CONFLICT": "a"}),
    ("An invalid connection string", {"SUPABASE_DB_URL": "https://me:s3cret@host"}),
    ("A password with a slash in it", {"SUPABASE_DB_URL": "postgresql://me:a/s3cret@host/db"}),
    (
        "The local Supabase and another database",
        {"SUPABASE_URL": "local", "SUPABASE_DB_URL": "postgresql://me:s3cret@192.0.2.1/shop"},
    ),
    ("A misspelt setting", {"SUPABASE_TABEL": "t"}),
    ("A misspelt required setting", {"SUPABASE_URL": None, "SUPABASE_ULR": "https://a.example"}),
    ("A report that is a folder", {"SUPABASE_REPORT": "."}),
    ("Rows that make a crawl fail, misspelt", {"SUPABASE_FAIL_ON": "rejects"}),
    ("A number of rejected rows that is none", {"SUPABASE_MAX_FAILED": 2.5}),
    ("A rate of rejected rows in per cent", {"SUPABASE_MONITOR_MAX_FAILED_RATE": "2 %"}),
    ("A rate of rejected rows above 1", {"SUPABASE_MONITOR_MAX_FAILED_RATE": 5}),
    ("A negative number of spooled rows", {"SUPABASE_MONITOR_MAX_SPOOLED_ROWS": -1}),
    ("A lease time that is not a number", {"SUPABASE_LEASE_TIME": "half a minute"}),
    ("An upload age that is not a number", {"SUPABASE_MONITOR_MAX_UPLOAD_AGE": "an hour"}),
)


@pytest.mark.parametrize(("how", "changes"), CASES, ids=[how for how, _ in CASES])
def test_a_wrong_setting(said: Said, how: str, changes: dict[str, Any]) -> None:
    """The message names the setting, prints the value unless it is secret, and says what is allowed."""
    messages = read(changes)
    assert "s3cret" not in str(messages)
    assert "two words" not in str(messages)
    said(how, messages)


ENVIRONMENTS: Sequence[tuple[str, dict[str, str]]] = (
    ("A misspelt variable", {"SUPABASE_ON_CONFLCT": "id"}),
    ("The key under another name", {"SUPABASE_KEY": "", "SUPABASE_SERVICE_ROLE_KEY": "s3cret"}),
)


@pytest.mark.parametrize(("how", "changes"), ENVIRONMENTS, ids=[how for how, _ in ENVIRONMENTS])
def test_an_environment(said: Said, how: str, changes: dict[str, str]) -> None:
    """A misspelt variable is reported as a misspelt setting is. A key under another name is not printed."""
    messages = read({}, {**GOOD, **changes})
    assert "s3cret" not in str(messages)
    said(how, messages)


def test_variables_of_other_programs() -> None:
    """No warning about names that are only somewhat alike, or whose setting is set under its right name, too."""
    others = ("SUPABASE_DB_SCHEMA", "SUPABASE_ANON_KEY", "SUPABASE_API_URL", "SUPABASE_JWT_SECRET", "SUPABASE_TABEL")
    assert read({}, {**GOOD, **dict.fromkeys(others, "x")}) == []


def test_a_database_without_psycopg(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "psycopg.conninfo", None)
    said("A database, and psycopg is not installed", read({"SUPABASE_DB_URL": "postgresql://me@host/db"}))


def test_a_supabase_that_is_too_new(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 3 has no `create_client` (tests/test_supabase_3.py installs a pre-release)."""
    monkeypatch.setitem(sys.modules, "supabase", ModuleType("supabase"))
    monkeypatch.setattr("scrapy_supabase.script.version", lambda _: "3.0.0a1")
    with pytest.raises(ConfigurationError) as raised:
        init_supabase("https://abc.supabase.co", "sb_secret_x")
    said("supabase 3 is installed", f"ConfigurationError: {raised.value}")


def test_load_without_a_table(said: Said) -> None:
    """The message names the option and the setting."""
    with pytest.raises(ConfigurationError) as raised:
        config_for_table(Settings(), None, {})
    said("load without a table", f"ConfigurationError: {raised.value}")
    routed = {"SUPABASE_TABLES": {"*": {"by": "kind", "tables": {"a": "t_a", "b": "t_b"}}}}
    with pytest.raises(ConfigurationError) as raised:
        config_for_table(Settings(routed), None, {})
    said("load, and the items choose the table", f"ConfigurationError: {raised.value}")


ARGUMENTS: Sequence[tuple[str, Callable[[Any], object]]] = (
    (
        "A script's order_by with an unknown direction",
        lambda client: upload_to_supabase(client, [], "t", order_by="a.up"),
    ),
    (
        "A script's order_by with values of several types",
        lambda client: upload_to_supabase(client, [{"a": 1}, {"a": "x"}], "t", order_by="a"),
    ),
    ("A script's negative top_n", lambda client: upload_to_supabase(client, [], "t", top_n=-1)),
    ("A script's table without a name", lambda client: upload_to_supabase(client, [], "")),
    ("A script's invalid conflict columns", lambda client: upload_to_supabase(client, [], "t", on_conflict=[5])),  # type: ignore[list-item]
    ("A script's invalid chunk size", lambda client: upload_to_supabase(client, [], "t", chunk_size="many")),
    ("A script's DataFrame", lambda client: upload_to_supabase(client, pd.DataFrame({"id": [1]}), "t")),
    ("A script's row without a list", lambda client: upload_to_supabase(client, {"id": 1}, "t")),
    ("A script's rows that are none", lambda client: upload_to_supabase(client, "rows.jsonl", "t")),
    ("A script without a project", lambda _: init_supabase("", "")),
)


@pytest.mark.parametrize(("how", "call"), ARGUMENTS, ids=[how for how, _ in ARGUMENTS])
def test_a_wrong_argument(said: Said, monkeypatch: pytest.MonkeyPatch, how: str, call: Callable[[Any], object]) -> None:
    """The message names the argument and says what is allowed."""
    for name in ("SUPABASE_URL", "SUPABASE_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SupabaseError) as raised:
        call(create_client("https://abc.supabase.co", "sb_secret_x"))
    said(how, f"{type(raised.value).__name__}: {raised.value}")


SPIDER = """
import scrapy
class S(scrapy.Spider):
    name = "s"
    async def start(self):
        yield {"id": 1}
"""
MODES = {
    "asyncio": "",
    "select": "TWISTED_REACTOR=twisted.internet.selectreactor.SelectReactor",
    "none": "TWISTED_REACTOR_ENABLED=False",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("python", [sys.executable, str(OLDEST)], ids=["newest", "oldest"])
def test_wrong_settings_in_a_crawl(said: Said, tmp_path: Path, python: str, mode: str) -> None:
    """The list is one ERROR before Scrapy's traceback, and again its last lines. The exit code is 1."""
    (tmp_path / "s.py").write_text(SPIDER)
    given = ['ITEM_PIPELINES={"scrapy_supabase.SupabasePipeline": 300}', "SUPABASE_URL=local", "SUPABASE_TABLE=t"]
    wrong = ["SUPABASE_MODE=upset", "BATCH_CHUNK_SIZE=many", MODES[mode]]
    options = [part for setting in [*given, *wrong] if setting for part in ("-s", setting)]
    done = fork_server.scrapy("runspider", str(tmp_path / "s.py"), *options, python=python)
    assert done.returncode == 1
    messages = of_log(done.stderr)
    said("A crawl with two wrong settings", messages)
    log = done.stderr
    assert log.index(messages[0].removeprefix("ERROR: ")) < log.index("Traceback")
    # Without a reactor, Scrapy does not close what it has opened before the pipelines, and says so at the very end.
    lines = [line for line in log.splitlines() if "client_session" not in line and "Unclosed" not in line]
    assert lines[-1] == messages[0].splitlines()[-1]
    assert "wrong settings for scrapy-supabase:\\n" not in log  # no repr of it


def test_the_url_stamp_without_its_middleware(crawl: Crawler, said: Said, sql: Any) -> None:
    """One ERROR before the traceback says which line to add."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    done = crawl.finish(crawl.start({"items": [{"id": 1}]}, SUPABASE_STAMPS={"title": "url"}), balanced=False)
    said("The url stamp without its middleware", of_log(done.log, least="ERROR"))


def test_a_spool_that_cannot_be_written(crawl: Crawler, said: Said, sql: Any, tmp_path: Path) -> None:
    """One ERROR before the traceback has the folder, the system's reason and the remedy."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    (tmp_path / "spool").write_text("")
    done = crawl.finish(crawl.start({"items": [{"id": 1}]}), balanced=False)
    said("A spool folder that is a file", of_log(done.log, least="ERROR"))
