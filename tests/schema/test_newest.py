"""`ddl --newest`: with this trigger an older row never replaces a newer one, however it is sent."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scrapy.settings import Settings

from scrapy_supabase.checkup.check import check
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.schema.ddl import newest_sql
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_project import Project
from tests.polling import eventually
from tests.spool.test_replay import Command, command  # noqa: F401 (a fixture)

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = "create table t (id bigint primary key, title text, seen timestamptz); grant all on t to service_role;"
OLD, NEW = "2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"
DOWN = faults.answers(503, "<h1>down</h1>")


@pytest.fixture(params=[True, False], ids=["with the trigger", "without it"])
def guarded(request: pytest.FixtureRequest, sql: Sql) -> bool:
    """Create table `t` and return whether it has the trigger. Without it, the older row is stored."""
    sql(TABLE)
    if request.param:
        sql(newest_sql("t", "seen"))
        sql(newest_sql("t", "seen"))  # it may be run again
    return bool(request.param)


def old(*numbers: int) -> dict[str, Any]:
    """Return the plan of a crawl with older rows."""
    return {"items": [{"id": number, "title": "old", "seen": OLD} for number in numbers]}


def new(*numbers: int) -> dict[str, Any]:
    """Return the plan of a crawl with newer rows."""
    return {"items": [{"id": number, "title": "new", "seen": NEW} for number in numbers]}


def test_an_outage_during_one_crawl(
    crawl: Crawler, sql: Sql, proxy: FaultProxy, site: Any, tmp_path: Path, guarded: bool
) -> None:
    """Its rows wait on disk and are uploaded after the newer rows of a crawl on another machine."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    pages = [[{"id": 1, "title": "old", "seen": OLD}], *([{"id": 100 + n}] for n in range(400))]
    plan = {"pages": len(pages), "site": site(pages)}
    process = crawl.start(plan, SUPABASE_URL=proxy.url, DOWNLOAD_DELAY=0.05, BATCH_FLUSH_INTERVAL=0.1)
    assert eventually(lambda: "The server is unreachable" in crawl.log_of(process), 60), crawl.log_of(process)
    other = Crawler(tmp_path / "other", crawl.project)
    (tmp_path / "other").mkdir()
    assert other(new(1, 2)).counts("uploaded") == (2,)
    proxy.always = faults.passes
    process.send_signal(signal.SIGINT)
    assert crawl.finish(process).counts("spooled", "failed") == (0, 0)
    expected = "new" if guarded else "old"
    assert sql("select id, title from t where id < 100 order by id") == [(1, expected), (2, "new")]


def test_two_spools(crawl: Crawler, sql: Sql, proxy: FaultProxy, tmp_path: Path, guarded: bool) -> None:
    """Rows in the spool of one machine are recovered after another machine has stored newer rows."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    left = crawl(old(1, 3), SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2)
    assert left.counts("spooled") == (2,)
    proxy.always = faults.passes
    crawl(new(1, 2), SUPABASE_URL=proxy.url, SUPABASE_SPOOL_DIR=str(tmp_path / "another"))
    assert crawl({"items": []}, SUPABASE_URL=proxy.url).counts("recovered", "recovered_failed") == (2, 0)
    expected = "new" if guarded else "old"
    assert sql("select id, title from t order by id") == [(1, expected), (2, "new"), (3, "old")]


def test_replay_of_older_rows(
    crawl: Crawler,
    command: Command,  # noqa: F811
    sql: Sql,
    proxy: FaultProxy,
    guarded: bool,
    tmp_path: Path,
) -> None:
    """`--mode upsert` adds missing rows and keeps newer ones."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    crawl(old(1, 3), SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2)
    proxy.always = faults.passes
    crawl(new(1), SUPABASE_URL=proxy.url, SUPABASE_SPOOL_DIR=str(tmp_path / "another"))
    assert command("replay", "--mode", "upsert", url=proxy.url).returncode == 0
    assert sql("select id, title from t order by id") == [(1, "new" if guarded else "old"), (3, "old")]


@pytest.mark.parametrize("over", ["rest", "database"])
def test_rows_of_unknown_order(crawl: Crawler, sql: Sql, project: Project, over: str) -> None:
    """With equal or missing times, the last row is stored; a row without the column updates its other columns."""
    sql(TABLE + newest_sql("t", "seen"))
    sql(f"insert into t select n, 'first', '{NEW}' from generate_series(1, 5) n; update t set seen = null where id = 3")
    items: list[dict[str, Any]] = [
        {"id": 1, "title": "equal", "seen": NEW},
        {"id": 2, "title": "without", "seen": None},
        {"id": 3, "title": "over none", "seen": OLD},
        {"id": 4, "title": "some columns"},
        {"id": 5, "title": "older", "seen": OLD},
    ]
    settings = {"SUPABASE_DB_URL": project.db_url} if over == "database" else {}
    assert crawl({"items": items}, **settings).counts("uploaded", "failed") == (5, 0)
    titles = [title for (title,) in sql("select title from t order by id")]
    assert titles == ["equal", "without", "over none", "some columns", "first"]


def test_odd_names_and_kinds_of_tables(sql: Sql) -> None:
    """Names are quoted if necessary; partitioned tables work; the function has a fixed search path."""
    sql('create table "t Odd" ("When" int, id int); create table "t_parts" (id int, day int) partition by list (id)')
    sql('create table "t_parts_1" partition of "t_parts" for values in (1)')
    sql(newest_sql("t Odd", "When") + newest_sql("t_parts", "day"))
    sql('insert into "t Odd" values (2, 1); update "t Odd" set "When" = 1, id = 7')
    sql("insert into t_parts values (1, 2); update t_parts set day = 1")
    assert sql('select "When", id from "t Odd"') == [(2, 1)]
    assert sql("select day from t_parts") == [(2,)]
    assert sql("select proconfig from pg_proc where proname = 'scrapy_keep_stored_row'") == [(['search_path=""'],)]
    with pytest.raises(ConfigurationError):
        newest_sql("", "seen")
    with pytest.raises(ConfigurationError):
        newest_sql("t", "s" * 64)


def test_the_command_prints_a_trigger_for_each_table(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the schema of the settings. The option cannot be combined with those for a new table."""
    done = command("ddl", "--newest", "seen", "books", "My Offers", SUPABASE_SCHEMA="shop")
    assert done.returncode == 0
    assert done.stdout == newest_sql("books", "seen", "shop") + "\n" + newest_sql("My Offers", "seen", "shop")
    monkeypatch.setenv("SUPABASE_SCHEMA", "shop")
    assert command("ddl", "--newest", "seen", "books", "My Offers").stdout == done.stdout
    assert 'before update on shop."My Offers"\nfor each row when (new.seen < old.seen)' in done.stdout
    for wrong in (["--newest", "seen"], ["--newest", "seen", "books", "--key", "id"]):
        refused = command("ddl", *wrong)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "--newest takes the names of existing tables" in refused.stderr


def test_check_reports_the_trigger(project: Project, sql: Sql, tmp_path: Path) -> None:
    """Over a database connection; the REST API does not report triggers."""
    sql(TABLE)
    settings = {
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.key,
        "SUPABASE_TABLE": "t",
        "SUPABASE_SPOOL_DIR": str(tmp_path / "spool"),
    }

    def said(**more: Any) -> list[str]:
        found = check(Settings({**settings, **more}), in_project=False)
        return [finding.text for finding in found if "scrapy_keep_newest" in finding.text]

    database = {"SUPABASE_DB_URL": project.db_url}
    assert said() == []
    missing = "no trigger scrapy_keep_newest (ddl --newest): the row that arrives last is stored"
    assert said(**database) == [missing]
    sql(newest_sql("t", "seen"))
    assert said(**database) == ["the trigger scrapy_keep_newest keeps stored rows whose 'seen' is newer"]
    assert said(**database, SUPABASE_MODE="ignore") == []
    sql("alter table t disable trigger scrapy_keep_newest")
    assert said(**database) == [missing]
