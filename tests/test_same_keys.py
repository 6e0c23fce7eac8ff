"""Many processes that store the same keys at once: no deadlock, no mixed row, no row lost."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from scrapy.settings import Settings

from scrapy_supabase.assembly import new_schema
from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.monitoring.upload_result import UploadResult
from scrapy_supabase.script import Upload
from scrapy_supabase.settings.config import Config
from scrapy_supabase.spool.no_spool import NoSpool
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawl, Crawler
from tests.fix_project import Project
from tests.test_busy_server import BUSY

Sql = Callable[..., list[tuple[Any, ...]]]
Items = list[dict[str, Any]]
# A chunk holds its locks for as long as its rows wait.
SLOW = """create or replace function t_slow() returns trigger language plpgsql as $$
begin perform pg_sleep(0.001); return new; end $$;
create trigger slow before insert or update on t for each row execute function t_slow(); grant all on t to service_role;
notify pgrst, 'reload schema'"""
TABLE = f"create table t (id bigint primary key, n int, v int, title text); {SLOW}"
VERSIONS = 2
OPTIONS: dict[str, Any] = {
    "BATCH_CHUNK_SIZE": 20,
    "BATCH_RETRY_DELAY": 0.02,
    "SUPABASE_OPEN_TIMEOUT": 60,
    "SUPABASE_CLOSE_TIMEOUT": 300,
}


@pytest.fixture
def deadlocks(sql: Sql, request: pytest.FixtureRequest) -> Iterator[Callable[[], int]]:
    """Count the deadlocks since the start of the test.

    In the server's log: a connection that a pool keeps publishes its statistics up to ten seconds later.
    """
    if os.environ.get("SUPABASE_TEST_URL"):
        counted = "select deadlocks::int from pg_stat_database where datname = current_database()"
        ((before,),) = sql(counted)
        yield lambda: sql(counted)[0][0] - before
        return
    log = request.getfixturevalue("open_folder") / "shared stack" / "postgres.log"
    size = log.stat().st_size
    sql("alter system set deadlock_timeout = '50ms'")  # each deadlock lasts as long
    sql("select pg_reload_conf()")
    yield lambda: log.read_bytes()[size:].count(b"deadlock detected")
    sql("alter system reset deadlock_timeout")
    sql("select pg_reload_conf()")


def items_of(process: int, keys: int, **more: Any) -> Items:
    """Return each key in two versions, in an order of the process's own."""
    order = [(key, version) for version in range(VERSIONS) for key in random.Random(process).sample(range(keys), keys)]
    return [{"id": k, "n": process, "v": v, "title": f"{process}-{v}", **more} for k, v in order]


def check_rows(sql: Sql, keys: int) -> None:
    """Each key is there once, as the last version that some process has of it, and no row is mixed from two."""
    found = sql("select count(*), count(distinct id), min(v), bool_and(title = n || '-' || v) from t")
    assert found == [(keys, keys, VERSIONS - 1, True)]


def check_crawls(ends: Sequence[Crawl], keys: int) -> None:
    """Each of the crawls stored all its rows."""
    assert {end.stats["finish_reason"] for end in ends} == {"finished"}, [end.log for end in ends]
    for end in ends:
        uploaded, superseded, *others = end.counts("uploaded", "superseded", "failed", "spooled")
        assert (uploaded + superseded, others) == (VERSIONS * keys, [0, 0]), end.log
        assert "40P01" not in end.log


def crawl_same_keys(number: int, keys: int, folder: Path, project: Project, **settings: Any) -> list[Crawl]:
    """Start `number` crawls at once and wait for their end."""
    crawlers = [Crawler(folder / str(n), project) for n in range(number)]
    running = []
    for n, crawler in enumerate(crawlers):
        crawler.folder.mkdir()
        running.append(crawler.start({"items": items_of(n, keys)}, **{**OPTIONS, **settings}))
    ends = [crawler.finish(process) for crawler, process in zip(crawlers, running, strict=True)]
    check_crawls(ends, keys)
    return ends


def upload_at_once(project: Project, items: Sequence[Items], over: str, **settings: Any) -> list[UploadResult]:
    """Upload each of `items` by an engine of its own, all at the same time."""
    server = {"SUPABASE_URL": project.url, "SUPABASE_KEY": project.key}
    if over == "database":
        server = {"SUPABASE_DB_URL": project.db_url}
    config = Config.from_settings(Settings({**OPTIONS, **server, "SUPABASE_TABLE": "t", **settings}), {})
    results: list[UploadResult] = [UploadResult()] * len(items)
    together = threading.Barrier(len(items))

    def run(at: int) -> None:
        with Upload(config, Run("test"), new_schema(config), NoSpool(lambda _: None)) as upload:
            upload.begin()
            together.wait(30)
            upload.build_and_add(items[at])
            upload.finish()
            results[at] = upload.result

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


OVER = pytest.mark.parametrize("over", ["rest", "database"])


def check_uploads(results: Sequence[UploadResult], rows: int) -> None:
    """Each of the uploads stored all its rows."""
    for result in results:
        assert (result.uploaded + result.superseded, result.failed, result.left) == (rows, 0, 0), result


def few_connections(sql: Sql, project: Project, most: int) -> str:
    """Return the connection string of a role that may have `most` connections."""
    sql(f"""do $$ begin create role t_fleet login password 'few'; exception when duplicate_object then null; end $$;
        alter role t_fleet connection limit {most}; grant all on t to t_fleet;
        grant usage on schema public to t_fleet""")
    return make_conninfo(project.db_url, user="t_fleet", password="few")


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("options", [{}, {"SUPABASE_IF_CHANGED": True}], ids=["plain", "changed"])
@OVER
def test_sixteen_crawls(
    over: str,
    options: dict[str, Any],
    sql: Sql,
    proxy: FaultProxy,
    project: Project,
    tmp_path: Path,
    deadlocks: Callable[[], int],
) -> None:
    """429 above four requests at once, or ten connections."""
    sql(f"{TABLE}; {function_sql('public', 'service_role')}")
    server: dict[str, Any] = {"SUPABASE_URL": proxy.url}
    if over == "database":
        server = {"SUPABASE_URL": None, "SUPABASE_DB_URL": few_connections(sql, project, 10)}
    proxy.faults.extend([BUSY] * 16)
    proxy.always = faults.above(4, 0)
    ends = crawl_same_keys(16, 500, tmp_path, project, **server, **options)
    check_rows(sql, 500)
    refused = sum(end.stats.get(f"supabase/error_count/{code}", 0) for end in ends for code in ("http_429", "53300"))
    print(f"16 crawls of 500 keys, {over}, {options}: {refused} requests refused, {deadlocks()} deadlocks")
    assert deadlocks() == 0


@OVER
def test_a_server_with_room_for_few(
    over: str, sql: Sql, project: Project, proxy: FaultProxy, deadlocks: Callable[[], int]
) -> None:
    """The short form of the test above: 429 and 53300 are waited for, and no row is lost."""
    sql(TABLE)
    proxy.always = faults.above(8, 0)
    server: dict[str, Any] = {"SUPABASE_URL": proxy.url}
    if over == "database":
        server = {"SUPABASE_DB_URL": few_connections(sql, project, 6)}
    check_uploads(upload_at_once(project, [items_of(n, 40) for n in range(4)], over, **server), 80)
    check_rows(sql, 40)
    assert deadlocks() == 0


@pytest.mark.parametrize(
    ("over", "options"),
    [("rest", {"if_changed": True}), ("database", {"insert_only": ["first"]})],
    ids=["rest", "database"],
)
def test_statements_that_compare(
    over: str, options: dict[str, Any], sql: Sql, project: Project, deadlocks: Callable[[], int]
) -> None:
    """The counting statement locks rows in the order of their keys, too, whatever the plan."""
    sql(f"create table t (id bigint primary key, n int, v int, title text, first int); {SLOW}")
    sql(function_sql("public", "service_role"))
    items = [items_of(n, 60, first=n) for n in range(4)]
    results = upload_at_once(project, items, over, SUPABASE_TABLES={"*": {"table": "t", **options}})
    check_uploads(results, 120)
    check_rows(sql, 60)
    assert deadlocks() == 0


@OVER
def test_a_key_of_texts(over: str, sql: Sql, project: Project, deadlocks: Callable[[], int]) -> None:
    """Two columns, with letters that collations sort in different ways."""
    sql("create table t (shop text, sku text, id int, n int, v int, title text, primary key (shop, sku))")
    sql(SLOW)
    items = [items_of(n, 60) for n in range(4)]
    for item in (item for each in items for item in each):
        item |= {"shop": "äAbB"[item["id"] % 4], "sku": f"{'zZ'[item['id'] % 2]}{item['id']}"}
    check_uploads(upload_at_once(project, items, over), 120)
    check_rows(sql, 60)
    assert deadlocks() == 0


@OVER
def test_a_second_unique_index_that_is_older(
    over: str, sql: Sql, project: Project, deadlocks: Callable[[], int]
) -> None:
    """PostgreSQL checks it first, and refuses a new row that another process has just stored; it is sent again."""
    sql("create table t (id bigint not null, slug text unique, n int); alter table t add primary key (id)")
    sql("grant all on t to service_role; notify pgrst, 'reload schema'")
    items = [[{"id": k, "slug": f"s{k}", "n": n} for k in range(1500)] for n in range(6)]
    check_uploads(upload_at_once(project, items, over), 1500)
    assert sql("select count(*), count(distinct id) from t") == [(1500, 1500)]
    assert deadlocks() == 0


@OVER
def test_rows_that_are_unique_in_two_ways(over: str, sql: Sql, project: Project, deadlocks: Callable[[], int]) -> None:
    """Processes lock the second index in opposite orders: whoever is the victim tries again, and no row is lost."""
    sql(f"create table t (id bigint primary key, slug text unique, n int); {SLOW}")
    items = [[{"id": n * 60 + k, "slug": f"s{k if n % 2 else 59 - k:02}", "n": n} for k in range(60)] for n in range(4)]
    results = upload_at_once(project, items, over)
    assert [(result.uploaded + result.failed, result.left) for result in results] == [(60, 0)] * 4
    assert sum(result.uploaded for result in results) == 60
    assert {code for result in results for _, code in result.reasons} == {"23505"}
    assert sql("select count(*), count(distinct slug) from t") == [(60, 60)]
    print(f"{deadlocks()} deadlocks")
