"""Real crawls in processes of their own, against a real server: stored rows, counts and messages."""

from __future__ import annotations

import json
import re
import signal
import stat
from collections.abc import Callable
from typing import Any

import pytest

from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST, Crawler, check_balance
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]

TABLE = "create table t (id bigint primary key, title text, price numeric check (price >= 0), n int); "
GRANT = "grant all on t to service_role"
THREE = """
create table t (id bigint primary key, title text, pages int, author bigint);
create table t_author (id bigint primary key, name text); create table t_tag (id bigint primary key, label text);
create table t_price (id bigint primary key, amount numeric);
alter table t add foreign key (author) references t_author;
grant all on t, t_author, t_tag, t_price to service_role
"""


@pytest.fixture
def table(sql: Sql) -> Sql:
    """Create the table `t`."""
    sql(TABLE + GRANT)
    return sql


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    """Return the items 0, 1, …"""
    return [{"id": number, "title": f"t{number}", **more} for number in range(count)]


@pytest.mark.parametrize("mode", ["asyncio", "select", "none"])
@pytest.mark.parametrize("version", ["newest", "oldest"])
def test_every_mode_and_version_of_scrapy(crawl: Crawler, table: Sql, site: Site, mode: str, version: str) -> None:
    """All rows of a crawled site are stored; 250 rows take three chunks."""
    pages = [items(10, n=page) for page in range(25)]
    for page, rows in enumerate(pages):
        for row in rows:
            row["id"] += 10 * page
    options = {"python": str(OLDEST)} if version == "oldest" else {}
    done = crawl({"pages": 25, "site": site(pages)}, mode=mode, **options)
    assert done.stats["finish_reason"] == "finished", done.log
    assert done.counts("received", "uploaded", "failed", "spooled", "chunk") == (250, 250, 0, 0, 3)
    assert table("select count(*), sum(n) from t") == [(250, 10 * sum(range(25)))]
    assert "250 rows received: 250 uploaded in" in done.log
    assert "3 chunks (0 not fully uploaded, 0." in done.log
    assert "Unhandled" not in done.log
    assert "Traceback" not in done.log


def test_the_add_on_and_a_later_pipeline(crawl: Crawler, table: Sql) -> None:
    """One `ADDONS` line is enough; changes of the item by later pipelines do not matter."""
    done = crawl({"items": items(3)}, addon=True, ITEM_PIPELINES={"tests.crawl.Changer": 900})
    assert done.counts("uploaded") == (3,)
    assert table("select title from t order by id") == [("t0",), ("t1",), ("t2",)]


def test_mixed_items_to_several_tables_with_a_foreign_key(crawl: Crawler, sql: Sql) -> None:
    """Five kinds of items; books come before the authors they refer to, and are stored nevertheless."""
    sql(THREE)
    books = [
        {"_class": "Book", "id": n, "title": f"b{n}", "author": n % 7, **({"pages": n} if n % 2 else {})}
        for n in range(60)
    ]
    authors = [{"_class": "Author", "id": n, "name": f"a{n}"} for n in range(7)]
    tags = [{"_class": "Tag", "id": n, "label": f"l{n}"} for n in range(5)]
    prices = [{"_class": "Price", "id": n, "amount": "1.50"} for n in range(5)]
    done = crawl(
        {"items": [*books, *authors, *tags, *prices, {"id": 99, "title": "a dict"}]},
        SUPABASE_TABLE=None,
        SUPABASE_TABLES={
            "tests.crawl.Book": "t",
            "tests.crawl.Author": {"table": "t_author"},
            "tests.crawl.Tag": "t_tag",
            "tests.crawl.Price": "t_price",
            "*": "t",
        },
        BATCH_CHUNK_SIZE=20,
    )
    assert done.counts("received", "uploaded", "failed") == (78, 78, 0), done.log
    assert sql("select count(*), count(author), count(pages) from t") == [(61, 60, 30)]
    assert sql("select sum(amount) from t_price") == [(pytest.approx(7.5),)]


def test_two_spiders_in_one_process_share_nothing(crawl: Crawler, table: Sql) -> None:
    """Each has its own counts and its own run folder."""
    done = crawl({"items": items(150)}, {"items": [{"id": n} for n in range(1000, 1050)]})
    counts = [stats["supabase/uploaded_count"] for stats in done.all_stats]
    assert counts == [150, 50]
    assert table("select count(*) from t") == [(200,)]


def test_bad_rows_are_rejected_with_their_reason(crawl: Crawler, table: Sql) -> None:
    """The good ones are stored; the ERROR at the end has number, reasons and file."""
    mixed = [{**item, "price": -1 if item["id"] % 50 == 7 else 1} for item in items(200)]
    done = crawl({"items": [*mixed, {"id": "x", "title": "no number"}]})
    assert done.counts("received", "uploaded", "failed") == (201, 196, 5)
    assert sorted((line["code"], line["row"]["id"]) for line in done.rejected) == [
        ("22P02", "x"),
        *(("23514", number) for number in (7, 57, 107, 157)),
    ]
    assert {"time", "table", "message", "details", "hint", "spider"} <= set(done.rejected[0])
    assert re.search(r"Rejected: 5 rows: 4 x 23514 \(t\): new row .+; 1 x 22P02 \(t\): invalid .+ Each is in", done.log)
    assert stat.S_IMODE((done.folder / "spool" / "rejected.jsonl").stat().st_mode) == 0o600


def test_items_that_cannot_become_rows_are_rejected(crawl: Crawler, table: Sql) -> None:
    """No table, no known field, an odd field name: the crawl goes on."""
    done = crawl(
        {
            "items": [
                {"id": 1},
                {"_class": "Tag", "id": 1, "label": "x"},
                {"_class": "Tag", "id": 2, "label": "y"},
                {"zz": 1},
            ]
        },
        SUPABASE_TABLE=None,
        SUPABASE_TABLES={"builtins.dict": "t"},
    )
    assert done.counts("received", "uploaded", "failed") == (4, 1, 3)
    assert [line["code"] for line in done.rejected] == ["no_table", "no_table", "no_column"]
    assert done.rejected[0]["row"] == {"id": 1, "label": "x"}
    assert done.log.count("Items of class tests.crawl.Tag have no table") == 1


def test_the_newest_version_of_a_key_wins(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """Four concurrent uploads, the first ones slowest: without rule 6 they would overtake each other."""
    proxy.faults.extend([faults.passes, faults.passes, *[faults.stalls(0.3 - 0.02 * n) for n in range(12)]])
    versions = [{"id": key, "n": version} for version in range(12) for key in range(10)]
    done = crawl({"items": versions}, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE=10, BATCH_FLUSH_INTERVAL=0)
    assert done.counts("uploaded", "superseded", "failed") == (120, 0, 0), done.log
    assert table("select distinct n from t") == [(11,)]


def test_versions_with_other_columns_keep_their_order(crawl: Crawler, table: Sql) -> None:
    """If a key is in an open chunk of another column set, that chunk goes first."""
    done = crawl(
        {"items": [{"id": 1, "title": "old"}, {"id": 1, "n": 5}, {"id": 1, "title": "new"}, {"id": 1, "n": 6}]}
    )
    assert done.counts("uploaded", "chunk") == (4, 4)
    assert table("select title, n from t") == [("new", 6)]


def test_versions_in_one_chunk_are_superseded(crawl: Crawler, table: Sql) -> None:
    """The last version wins and the others are counted; in `ignore` mode, the first wins."""
    versions = [{"id": number % 3, "n": number} for number in range(9)]
    done = crawl({"items": versions})
    assert done.counts("received", "uploaded", "superseded") == (9, 3, 6)
    assert table("select id, n from t order by id") == [(0, 6), (1, 7), (2, 8)]
    table("truncate t")
    crawl({"items": versions}, SUPABASE_MODE="ignore")
    assert table("select id, n from t order by id") == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("mode", ["asyncio", "select", "none"])
def test_a_fatal_finding_closes_before_the_first_page(crawl: Crawler, sql: Sql, site: Site, mode: str) -> None:
    """No grants: no page is fetched; the log has the reason and the SQL."""
    sql(TABLE)
    done = crawl({"pages": 3, "site": site([items(1)] * 3)}, mode=mode)
    assert done.stats["finish_reason"] == "supabase_permission_denied"
    assert "GRANT select, insert, update ON public.t TO service_role;" in done.log
    assert "downloader/request_count" not in done.stats


def test_a_fatal_finding_on_the_oldest_scrapy(crawl: Crawler, sql: Sql) -> None:
    """The same with a Scrapy that cannot stop a crawl in `open_spider`."""
    done = crawl({"items": items(3)}, python=str(OLDEST))
    assert done.stats["finish_reason"] == "supabase_no_table"


def test_a_fatal_answer_keeps_every_row(crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site) -> None:
    """The project is paused: the crawl closes, and all rows not uploaded are in the spool."""
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = faults.answers(540, "<h1>Project paused</h1>")
    pages = [[{"id": page * 10 + n} for n in range(10)] for page in range(40)]
    done = crawl({"pages": 40, "site": site(pages)}, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE=10)
    assert done.stats["finish_reason"] == "supabase_paused"
    uploaded, spooled = done.counts("uploaded", "spooled")
    assert uploaded == 10
    lines = [line for path in done.spooled for line in path.read_text().splitlines()[1:]]
    assert len(lines) == spooled > 0
    assert f"Not uploaded: {spooled} rows, kept in" in done.log
    assert "restore it in the Supabase dashboard" in done.log


def test_a_server_that_stays_down_leaves_the_rows_in_the_spool(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """Every second request fails, then all: exactly the rows not stored are on disk."""
    proxy.faults.extend([faults.passes, faults.passes, faults.passes])
    proxy.always = faults.answers(503, "<h1>down</h1>")
    done = crawl({"items": items(300)}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.5)
    assert done.counts("uploaded", "spooled", "chunk_failed", "outage") == (100, 200, 2, 1)
    assert "Not uploaded: 200 rows, kept in" in done.log
    assert "for the next crawl. To upload them now, run: scrapy supabase replay" in done.log
    assert table("select count(*) from t") == [(100,)]
    assert len(done.spooled) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in done.spooled} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in done.spooled} == {0o700}


def test_half_of_all_requests_fail(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """A 503 for every second request: no row is lost or duplicated."""
    proxy.faults.extend([faults.passes, *[faults.answers(503, "<h1>busy</h1>"), faults.passes] * 30])
    done = crawl({"items": items(500)}, SUPABASE_URL=proxy.url, BATCH_RETRY_ATTEMPTS=10)
    assert done.counts("uploaded", "spooled") == (500, 0)
    assert done.counts("retry")[0] > 0
    assert table("select count(*) from t") == [(500,)]


def test_the_close_does_not_wait_for_ever(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """A server that never answers: after `SUPABASE_CLOSE_TIMEOUT` the remaining rows stay in the spool."""
    proxy.faults.extend([faults.passes, faults.passes])
    proxy.always = faults.hangs
    done = crawl({"items": items(150)}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.5)
    assert done.counts("uploaded", "spooled") == (0, 150)
    assert "Not uploaded within 0.5 s (SUPABASE_CLOSE_TIMEOUT): 2 chunks in flight, 0 waiting." in done.log
    assert len(done.spooled) == 2


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("mode", ["asyncio", "select", "none"])
def test_control_c_flushes_and_twice_does_not_hang(
    crawl: Crawler, table: Sql, site: Site, proxy: FaultProxy, signals: int, mode: str
) -> None:
    """Once: scraped rows are uploaded. Twice: the process ends; rows not uploaded are in the spool."""
    pages = [[{"id": page * 10 + n} for n in range(10)] for page in range(2000)]
    plan = {"pages": 2000, "site": site(pages)}
    process = crawl.start(plan, mode=mode, SUPABASE_URL=proxy.url, CONCURRENT_REQUESTS=4)
    assert eventually(lambda: len(proxy.seen) > 4)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
    done = crawl.finish(process, balanced=signals == 1)
    stored = table("select count(*) from t")[0][0]
    if signals == 1:
        assert done.stats["finish_reason"] == "shutdown"
        assert done.counts("uploaded", "spooled") == (stored, 0)
    else:
        kept = {row for path in done.spooled for row in path.read_text().splitlines()[1:]}
        assert stored + len(kept) >= 10


def test_the_column_for_a_declared_field_has_its_type(crawl: Crawler, sql: Sql) -> None:
    """The warning at open has the SQL type from the item class."""
    sql("create table t_tag (label text primary key); grant all on t_tag to service_role")
    tables = {"tests.crawl.Tag": {"table": "t_tag", "stamps": {"seen": "now"}}}
    done = crawl({"items": [{"_class": "Tag", "id": 1, "label": "x"}]}, SUPABASE_TABLE=None, SUPABASE_TABLES=tables)
    assert "ADD COLUMN id bigint; ALTER TABLE public.t_tag ADD COLUMN seen timestamp with time zone;" in done.log
    assert sql("select label from t_tag") == [("x",)]


def test_kill_9_leaves_unconfirmed_rows_on_disk(crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site) -> None:
    """Every processed item is in the database or in the spool."""
    proxy.faults.extend([faults.passes, faults.passes, faults.passes])
    proxy.always = faults.hangs
    pages = [[{"id": page * 10 + n} for n in range(10)] for page in range(30)]
    process = crawl.start({"pages": 30, "site": site(pages)}, SUPABASE_URL=proxy.url)
    spool = crawl.folder / "spool"

    def all_there() -> bool:
        lines = [line for path in spool.glob("*/*.jsonl") for line in path.read_text().splitlines()[1:]]
        kept = {json.loads(line)["id"] for line in lines if line.endswith("}")}
        stored = {row[0] for row in table("select id from t")}
        return len(stored) == 100 and len(kept | stored) == 300

    assert eventually(all_there)
    process.kill()
    crawl.finish(process, balanced=False)
    assert table("select count(*) from t")[0][0] == 100


def test_an_error_of_another_pipeline_does_not_matter(crawl: Crawler, table: Sql) -> None:
    """A delivered item stays delivered, whatever follows."""
    pipelines = {"scrapy_supabase.SupabasePipeline": 300, "tests.crawl.Dropper": 400}
    done = crawl({"items": items(5)}, ITEM_PIPELINES=pipelines)
    assert done.counts("uploaded") == (5,)


def test_a_stats_collector_that_fails_stops_nothing(crawl: Crawler, table: Sql, site: Site) -> None:
    """Periodic work goes on, the crawl ends normally, and the error is logged once with each key."""
    plan = {"pages": 200, "site": site([[{"id": page}] for page in range(200)])}
    given: dict[str, Any] = {"CONCURRENT_REQUESTS": 1, "DOWNLOAD_DELAY": 0.5, "BATCH_FLUSH_INTERVAL": 0.1}
    process = crawl.start(plan, STATS_CLASS="tests.crawl.BrokenStats", **given)
    try:
        said = crawl.log_of
        assert eventually(lambda: said(process).count("uploaded, 0 rejected") >= 2, 60), said(process)
    finally:
        process.send_signal(signal.SIGINT)
        done = crawl.finish(process, balanced=False)
    rows = table("select count(*) from t")[0][0]
    assert f"{rows} rows received: {rows} uploaded" in done.log
    assert "Spider closed (shutdown)" in done.log
    assert done.log.count("ConnectionError: the server of the stats is gone") == 1
    assert done.log.count("supabase/uploaded_count/t") == 1


@pytest.mark.parametrize("mode", ["asyncio", "select"])
def test_a_stats_collector_that_refuses_fractions(crawl: Crawler, table: Sql, site: Site, mode: str) -> None:
    """A refused key is logged once; the other keys are published."""
    plan = {"pages": 3, "site": site([[{"id": page}] for page in range(3)])}
    done = crawl(plan, mode=mode, STATS_CLASS="tests.crawl.WholeNumbers", DOWNLOAD_DELAY=1, BATCH_FLUSH_INTERVAL=1)
    assert done.counts("received", "uploaded", "failed", "spooled") == (3, 3, 0, 0), done.log
    assert done.stats["supabase/uploaded_count/t"] == 3
    assert done.stats["supabase/last_upload_time"]
    assert done.log.count("The stats collector (STATS_CLASS) refused supabase/upload_seconds: ") == 1, done.log
    assert done.log.count("ValueError: value is not an integer or out of range") == 1


def test_back_pressure_slows_the_crawl(crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site) -> None:
    """A slow server: items wait, the time is counted, no row is lost."""
    proxy.always = faults.delays(0.05)
    pages = [[{"id": page * 50 + n} for n in range(50)] for page in range(20)]
    done = crawl(
        {"pages": 20, "site": site(pages)}, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE=10, SUPABASE_CONCURRENT_UPLOADS=2
    )
    assert done.counts("uploaded") == (1000,)
    assert done.stats["supabase/backpressure_seconds"] > 0


def test_without_a_spool_rows_not_uploaded_are_logged(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """`SUPABASE_SPOOL_DIR = None`: there is no file to keep them in, so they are in the log and count as failed."""
    proxy.faults.extend([faults.passes, faults.passes])
    proxy.always = faults.answers(503, "<h1>down</h1>")
    plan = {"items": items(3)}
    settings = {"SUPABASE_URL": proxy.url, "SUPABASE_SPOOL_DIR": "@none", "SUPABASE_CLOSE_TIMEOUT": 0.5}
    done = crawl(plan, **settings)
    assert done.counts("uploaded", "failed", "spooled") == (0, 3, 0)
    assert "Not stored in table t (not_kept): the row was not uploaded" in done.log
    assert '{"id":2,"title":"t2"}' in done.log


@pytest.mark.parametrize("where", ["settings", "environment"])
def test_a_disabled_pipeline(crawl: Crawler, where: str) -> None:
    """`SUPABASE_ENABLED = False` needs no other setting."""
    given: dict[str, Any] = {"SUPABASE_URL": None, "SUPABASE_KEY": None}
    if where == "settings":
        done = crawl({"items": items(3)}, SUPABASE_ENABLED=False, **given)
    else:
        done = crawl({"items": items(3)}, environment={"SUPABASE_ENABLED": "false"}, **given)
    assert done.stats["item_scraped_count"] == 3
    assert "supabase/received_count" not in done.stats


def test_all_wrong_settings_are_logged_together_before_the_first_request(crawl: Crawler, site: Site) -> None:
    """A missing key, a wrong mode and a wrong number in one message; no page is fetched; the process fails."""
    process = crawl.start(
        {"pages": 1, "site": site([items(1)])}, SUPABASE_KEY=None, SUPABASE_MODE="upset", BATCH_CHUNK_SIZE="many"
    )
    done = crawl.finish(process, balanced=False)
    assert "3 wrong settings for scrapy-supabase:" in done.log
    assert "SUPABASE_KEY is missing" in done.log
    assert "SUPABASE_MODE is 'upset' (str): it must be one of upsert, insert, ignore, update." in done.log
    assert "BATCH_CHUNK_SIZE is 'many' (str): it must be a whole number of rows, 1 to 1000, or \"auto\"." in done.log
    assert "Crawled (200)" not in done.log


def test_stamps_and_mapping(crawl: Crawler, sql: Sql, site: Site) -> None:
    """Fields are renamed and columns stamped; scraped values are not replaced."""
    sql("""create table t (id bigint primary key, name text, run uuid, seen timestamptz, seen_hour timestamptz,
        seen_date date, spider text, page text); grant all on t to service_role""")
    url = site([[{"id": 1, "title": "a"}], [{"id": 2, "title": "b", "page": "its own"}]])
    done = crawl(
        {"pages": 2, "site": url},
        addon=True,
        SUPABASE_TABLES={
            "*": {
                "table": "t",
                "columns": {"title": "name"},
                "stamps": {
                    "run": "run_id",
                    "seen": "now",
                    "seen_hour": "hour",
                    "seen_date": "date",
                    "spider": "spider",
                    "page": "url",
                },
            }
        },
        SUPABASE_TABLE=None,
    )
    assert done.counts("uploaded") == (2,), done.log
    assert sql("select name, spider, page from t order by id") == [
        ("a", "test0", f"{url}/0"),
        ("b", "test0", "its own"),
    ]
    assert sql(
        "select count(distinct run), bool_and(seen > now() - interval '1 min' and seen_hour = date_trunc('hour', seen) "
        "and seen_date = seen::date) from t"
    ) == [(1, True)]


def test_stamps_alone_say_nothing_about_the_key(crawl: Crawler, table: Sql) -> None:
    """The fields of dict items are unknown: no warning about a missing key. For an item class there is one."""
    done = crawl({"items": items(1)}, SUPABASE_STAMPS={"title": "spider"})
    assert done.counts("uploaded") == (1,)
    assert "value for its key" not in done.log
    told = crawl(
        {"items": []},
        SUPABASE_TABLE=None,
        SUPABASE_TABLES={"tests.crawl.Author": {"table": "t", "columns": {"id": "n", "name": "title"}}},
    )
    assert "gets no value for its key (id) from the items" in told.log


def test_the_url_stamp_without_its_middleware_is_an_error(crawl: Crawler, table: Sql) -> None:
    """The message has the line to add."""
    process = crawl.start({"items": items(1)}, SUPABASE_STAMPS={"title": "url"})
    done = crawl.finish(process, balanced=False)
    assert "SPIDER_MIDDLEWARES = {'scrapy_supabase.UrlStampMiddleware': 950}" in done.log


def test_the_api_key_is_never_shown(crawl: Crawler, table: Sql, project: Any, proxy: FaultProxy) -> None:
    """It is in no DEBUG log, even with failures, in no stat and in no file."""
    proxy.faults.extend([faults.passes, faults.resets_after, faults.answers(503, "<h1>x</h1>")])
    done = crawl({"items": [*items(120), {"id": "bad"}]}, SUPABASE_URL=proxy.url)
    files = "".join(path.read_text() for path in done.folder.rglob("*") if path.is_file())
    shown = done.log + str(done.all_stats) + files
    assert project.key not in shown
    assert project.key.split(".")[2] not in shown


def test_a_local_supabase_is_started_for_the_crawl(crawl: Crawler, open_folder: Any) -> None:
    """`SUPABASE_URL = "local"` with migrations, in a project folder, twice."""
    import subprocess
    import sys

    folder = open_folder / "project"
    (folder / "migrations").mkdir(parents=True)
    (folder / "migrations" / "001_t.sql").write_text(TABLE + GRANT)
    (folder / "spider.py").write_text(
        "import scrapy\nclass S(scrapy.Spider):\n    name = 's'\n    async def start(self):\n"
        "        yield {'id': 1, 'title': 'a'}\n"
    )
    command = [sys.executable, "-m", "scrapy", "runspider", "spider.py"]
    for setting in (
        'ADDONS={"scrapy_supabase.Addon": 300}',
        "SUPABASE_URL=local",
        "SUPABASE_TABLE=t",
        "SUPABASE_MIGRATIONS=migrations",
    ):
        command += ["-s", setting]
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        assert "1 row received: 1 uploaded" in done.stderr, done.stderr
    command = [sys.executable, "-m", "scrapy", "supabase", "sql", "select * from t"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60).stdout
    assert "(1 row)" in shown


def test_stats_balance_is_checked() -> None:
    """The check of the balance, which every crawl test makes, can fail."""
    with pytest.raises(AssertionError):
        check_balance({"supabase/received_count": 2, "supabase/uploaded_count": 1})
