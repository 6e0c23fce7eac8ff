"""Real crawls that are killed, cut off or stopped, and the next one: every row lands, each once, the newest version."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawl, Crawler
from tests.fix_project import Project
from tests.fork_server import Forked
from tests.messages import of_log
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]
TABLE = "create table t (id bigint primary key, title text, n int); grant all on t to service_role"
DOWN = faults.answers(503, "<h1>down</h1>")


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql(TABLE)
    return sql


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    """Return items with the ids 0, 1, …"""
    return [{"id": number, "title": f"t{number}", **more} for number in range(count)]


def run_folders(done: Crawl) -> list[Path]:
    """Return the folders of runs in the spool."""
    return [path for path in (done.folder / "spool").iterdir() if path.is_dir()]


@pytest.mark.parametrize("mode", ["asyncio", "select", "none"])
def test_the_next_crawl_uploads_what_one_left(crawl: Crawler, table: Sql, proxy: FaultProxy, mode: str) -> None:
    """Recovered rows go before its own rows with the same keys, and are counted apart."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    left = crawl({"items": items(250, n=1)}, mode=mode, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2)
    assert left.counts("spooled") == (250,)
    proxy.always = faults.passes
    done = crawl({"items": items(100, n=2)}, mode=mode, SUPABASE_URL=proxy.url)
    assert done.counts("received", "uploaded", "recovered", "spooled") == (100, 100, 250, 0)
    assert done.stats["supabase/recovered_count/t"] == 250
    assert table("select n, count(*) from t group by n order by n") == [(1, 150), (2, 100)]
    assert "Earlier runs left 3 chunks" in done.log
    assert "Rows of earlier runs: 250 uploaded, 0 rejected, 0 superseded" in done.log
    assert run_folders(done) == []


def test_a_crawl_with_other_settings_sends_rows_as_they_were_to_be_sent(
    crawl: Crawler, sql: Sql, proxy: FaultProxy
) -> None:
    """For another spider's rows, table, mode and conflict columns are those of the run that scraped them."""
    sql("create table t (id bigint primary key, n int, unique (n)); create table t_b (id bigint primary key, n int)")
    sql("grant all on t, t_b to service_role; insert into t values (1, 5)")
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    rows = [{"id": 7, "n": 5}, {"id": 8, "n": 6}]
    options = {"SUPABASE_MODE": "ignore", "SUPABASE_ON_CONFLICT": "n", "SUPABASE_URL": proxy.url}
    crawl({"items": rows}, **options, SUPABASE_CLOSE_TIMEOUT=0.2)
    proxy.always = faults.passes
    done = crawl({"items": [{"id": 1, "n": 1}]}, SUPABASE_TABLE="t_b", SUPABASE_URL=proxy.url)
    assert done.counts("uploaded", "recovered") == (1, 2)
    assert sql("select * from t order by id") == [(1, 5), (8, 6)]


def test_rows_for_a_table_that_is_gone_do_not_end_the_crawl(crawl: Crawler, sql: Sql, proxy: FaultProxy) -> None:
    """The crawl logs an ERROR, leaves the rows in the spool and continues."""
    sql("create table t (id bigint primary key); create table t_b (id bigint primary key)")
    sql("grant all on t, t_b to service_role")
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    crawl({"items": [{"id": 1}]}, SUPABASE_TABLE="t_b", SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2)
    sql("drop table t_b; notify pgrst, 'reload schema'")
    proxy.always = faults.passes
    done = crawl({"items": [{"id": 1}]}, SUPABASE_URL=proxy.url)
    assert done.stats["finish_reason"] == "finished"
    assert done.counts("uploaded", "recovered_spooled") == (1, 1)
    assert "Rows that an earlier run left for table t_b cannot be uploaded and stay in the spool: PGRST205" in done.log


def test_what_an_earlier_run_left_cannot_close_this_one(crawl: Crawler, sql: Sql, proxy: FaultProxy) -> None:
    """Its conflict column was dropped: an ERROR, its rows stay; this run's newer rows are stored."""
    sql("create table t (id bigint primary key, n int unique); grant all on t to service_role")
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    options = {"SUPABASE_URL": proxy.url, "SUPABASE_CLOSE_TIMEOUT": 0.2}
    crawl({"items": [{"id": 1, "n": 1}]}, SUPABASE_ON_CONFLICT="n", **options)
    sql("alter table t drop column n; notify pgrst, 'reload schema'")
    proxy.always = faults.passes
    done = crawl({"items": [{"id": 1}, {"id": 2}]}, SUPABASE_URL=proxy.url)
    assert done.stats["finish_reason"] == "finished", done.log
    assert done.counts("uploaded", "recovered_spooled") == (2, 1)
    assert done.log.count("Rows that an earlier run left for table t cannot be uploaded and stay in the spool") == 1


def test_a_code_that_only_one_row_meets_is_not_left_to_the_next_run(crawl: Crawler, sql: Sql) -> None:
    """A trigger always raises 40001 for the row: it is rejected in this run, and the next one recovers nothing."""
    sql("""create table t (id bigint primary key); grant all on t to service_role;
        create or replace function t_guard() returns trigger language plpgsql as $$ begin
        if new.id = 3 then raise exception 'again' using errcode = '40001'; end if; return new;
        end $$; create trigger guard before insert on t for each row execute function t_guard()""")
    done = crawl({"items": [{"id": n} for n in range(10)]})
    assert done.counts("uploaded", "failed", "spooled", "outage") == (9, 1, 0, 0)
    assert [line["code"] for line in done.rejected] == ["40001"]
    again = crawl({"items": [{"id": n} for n in range(10, 20)]})
    assert again.counts("uploaded", "recovered", "recovered_failed") == (10, 0, 0)


def test_rejects_of_an_earlier_run_keep_its_name(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """The reject file names the run and spider that scraped the row, and how to send it."""
    proxy.faults.extend([faults.passes] * 4)
    proxy.always = DOWN
    crawl(
        {"items": []},
        {"items": [{"id": 1, "n": 1}, {"id": 2, "n": "many"}]},
        SUPABASE_URL=proxy.url,
        SUPABASE_CLOSE_TIMEOUT=0.2,
    )
    proxy.always = faults.passes
    done = crawl({"items": []}, SUPABASE_URL=proxy.url)
    assert done.counts("recovered", "recovered_failed", "failed") == (1, 1, 0)
    (line,) = done.rejected
    assert (line["spider"], line["code"], line["mode"], line["key"]) == ("test1", "22P02", "upsert", ["id"])
    assert (line["columns"], line["row"]) == (["id", "n"], {"id": 2, "n": "many"})
    assert "Rejected: 1 row: 1 x 22P02 (t): " in done.log
    assert "scrapy supabase replay --rejected" in done.log


def test_an_outage_in_mid_crawl(crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site) -> None:
    """The server is unreachable for three seconds: the crawl continues, and all rows are stored."""
    pages = [[{"id": page * 10 + n} for n in range(10)] for page in range(600)]
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = DOWN
    plan = {"pages": 600, "site": site(pages)}
    process = crawl.start(plan, SUPABASE_URL=proxy.url)
    assert eventually(lambda: "The server is unreachable" in crawl.log_of(process))
    proxy.always = faults.passes
    done = crawl.finish(process)
    assert done.counts("uploaded", "spooled", "outage") == (6000, 0, 1), done.log
    assert table("select count(*) from t") == [(6000,)]
    gone, back = of_log(done.log, least="WARNING")
    assert gone.startswith("WARNING: The server is unreachable: http_503")
    assert back.startswith("WARNING: The server is reachable again after")
    assert done.stats["supabase/outage_seconds"] > 1  # the first look is after two seconds
    assert done.stats.get("supabase/backpressure_seconds", 0) < 0.5
    assert run_folders(done) == []


def test_an_outage_that_lasts_too_long_closes_the_crawl(
    crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site
) -> None:
    """`SUPABASE_MAX_OUTAGE` closes it with `supabase_unavailable`; the next crawl uploads every row from the spool."""
    pages = [[{"id": page * 10 + n} for n in range(10)] for page in range(2000)]
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = DOWN
    plan = {"pages": 2000, "site": site(pages)}
    settings = {"CONCURRENT_REQUESTS": 2, "DOWNLOAD_DELAY": 0.01, "SUPABASE_URL": proxy.url}
    done = crawl(plan, SUPABASE_MAX_OUTAGE=2, **settings)
    assert done.stats["finish_reason"] == "supabase_unavailable", done.log
    uploaded, spooled = done.counts("uploaded", "spooled")
    assert uploaded == 100
    assert "(SUPABASE_MAX_OUTAGE)" in done.log
    proxy.always = faults.passes
    again = crawl({"items": []}, SUPABASE_URL=proxy.url)
    assert again.counts("recovered") == (spooled,)
    assert table("select count(*) from t") == [(100 + spooled,)]


def test_an_outage_that_is_too_long_at_the_close(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """The close gives up before its own timeout, and logs the reason."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    done = crawl({"items": items(300)}, SUPABASE_URL=proxy.url, SUPABASE_MAX_OUTAGE=1, SUPABASE_CLOSE_TIMEOUT=30)
    assert done.counts("spooled") == (300,)
    assert done.log.count("(SUPABASE_MAX_OUTAGE)") == 1
    assert "Traceback" not in done.log
    assert done.stats["elapsed_time_seconds"] < 15


STOPS: dict[str, dict[str, Any]] = {
    "SIGTERM": {},
    "second Ctrl-C": {"SUPABASE_CLOSE_TIMEOUT": 60},
    "CLOSESPIDER_ITEMCOUNT": {"CLOSESPIDER_ITEMCOUNT": 500},
    "CLOSESPIDER_TIMEOUT": {"CLOSESPIDER_TIMEOUT": 2},
    "MemoryUsage": {"MEMUSAGE_LIMIT_MB": 400, "MEMUSAGE_CHECK_INTERVAL_SECONDS": 0.5},
    "another pipeline": {"ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300, "tests.crawl.Dropper": 400}},
}


def control_c_twice(crawl: Crawler, process: Any, said: str) -> None:
    """Interrupt the crawl, and again once it has logged `said`."""
    process.send_signal(signal.SIGINT)
    assert eventually(lambda: said in crawl.log_of(process))
    process.send_signal(signal.SIGINT)


def seen_by(witness: Path) -> set[int]:
    """Return the items that `tests.crawl.Witness` recorded."""
    return {int(line.split()[0]) for line in witness.read_text().splitlines()}


@pytest.mark.parametrize("mode", ["asyncio", "none"])
@pytest.mark.parametrize("stop", STOPS)
def test_every_way_to_stop_keeps_every_row(
    crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site, tmp_path: Path, stop: str, mode: str
) -> None:
    """The next crawl stores every item that a later pipeline saw, however the crawl ended."""
    pages = [[{"id": page * 10 + n, "title": "x"} for n in range(10)] for page in range(3000)]
    witness = tmp_path / "witness"
    pipelines = {"scrapy_supabase.SupabasePipeline": 300, "tests.crawl.Witness": 350}
    settings: dict[str, Any] = {
        "CONCURRENT_REQUESTS": 4,
        "WITNESS": str(witness),
        "SUPABASE_URL": proxy.url,
        "SUPABASE_CLOSE_TIMEOUT": 0.5,
        **STOPS[stop],
    }
    settings["ITEM_PIPELINES"] = {**settings.get("ITEM_PIPELINES", {}), **pipelines}
    if stop == "another pipeline":
        pages = pages[:40]
    proxy.faults.extend([faults.passes] * 4)
    proxy.always = DOWN
    plan = {"pages": len(pages), "site": site(pages), "grows_after": 800 if stop == "MemoryUsage" else None}
    process = crawl.start(plan, mode=mode, **settings)
    if stop in ("SIGTERM", "second Ctrl-C"):
        assert eventually(lambda: len(proxy.seen) > 5)
    if stop == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    elif stop == "second Ctrl-C":
        control_c_twice(crawl, process, "shutting down gracefully")
    done = crawl.finish(process, balanced=False)
    assert process.returncode == 0 or stop == "second Ctrl-C", done.log
    assert ("forcing unclean shutdown" in done.log) == (stop == "second Ctrl-C")
    assert re.search(r"ERROR: Not uploaded: \d+ rows, kept in .* run: scrapy supabase replay", done.log), done.log
    proxy.always = faults.passes
    again = crawl({"items": []}, SUPABASE_URL=proxy.url)
    seen = seen_by(witness)
    stored = {row[0] for row in table("select id from t")}
    assert len(seen) > 100
    assert seen <= stored, (sorted(seen - stored)[:10], done.log, again.log)
    assert run_folders(again) == []


@pytest.mark.parametrize("is_closing", [False, True])
@pytest.mark.parametrize("mode", ["asyncio", "select", "none"])
def test_without_a_spool_a_second_control_c_leaves_every_row_in_the_log(
    crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site, tmp_path: Path, mode: str, is_closing: bool
) -> None:
    """The log has every row that is not stored, those of an open chunk included."""
    pages = [[{"id": page * 10 + n} for n in range(10)] for page in range(3000)]
    witness = tmp_path / "witness"
    proxy.faults.extend([faults.passes] * 4)
    proxy.always = faults.hangs
    process = crawl.start(
        {"pages": len(pages), "site": site(pages)},
        mode=mode,
        CONCURRENT_REQUESTS=4,
        WITNESS=str(witness),
        ITEM_PIPELINES={"scrapy_supabase.SupabasePipeline": 300, "tests.crawl.Witness": 350},
        SUPABASE_URL=proxy.url,
        SUPABASE_SPOOL_DIR="@none",
        SUPABASE_CLOSE_TIMEOUT=60,
        SUPABASE_CONCURRENT_UPLOADS=300,  # all there are: where items wait for the server, so does the close
    )
    assert eventually(lambda: len(proxy.seen) > 5)
    control_c_twice(crawl, process, "The witness closes" if is_closing else "shutting down gracefully")
    done = crawl.finish(process, balanced=False)
    assert "forcing unclean shutdown" in done.log
    seen = seen_by(witness)
    stored = {row[0] for row in table("select id from t")}
    logged = {int(number) for number in re.findall(r"\(not_kept\).* The row: {\"id\":(\d+)}", done.log)}
    assert len(logged) > 100, done.log
    assert seen <= stored | logged, (sorted(seen - stored - logged)[:10], done.log)
    last_word = f"Rejected: {len(logged)} rows: {len(logged)} x not_kept (t). The log above has each of them."
    assert done.log.count(last_word) == 1
    assert "Traceback" not in done.log, done.log


def killed(crawl: Crawler, process: Forked, after: float, *, uploading: bool = False) -> bool:
    """`kill -9` the crawl `after` seconds, or when it has ended; with `uploading`, counted from its first item.

    Return whether it was still running.
    """
    if uploading:
        assert eventually(lambda: "Uploading to" in crawl.log_of(process), 60)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
    crawl.finish(process, balanced=False)
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("jobdir", [False, True])
@pytest.mark.parametrize("keyed", [True, False])
def test_kill_9_and_again(crawl: Crawler, sql: Sql, tmp_path: Path, keyed: bool, jobdir: bool) -> None:
    """After three kills, recovery included, each row is stored exactly once. `make soak` does it 30 times."""
    check_kills(crawl, sql, tmp_path, keyed=keyed, jobdir=jobdir, moments=[0.3, 0.5, 0.7], count=8000)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("jobdir", [False, True])
@pytest.mark.parametrize("keyed", [True, False])
def test_kill_9_thirty_times(crawl: Crawler, sql: Sql, tmp_path: Path, keyed: bool, jobdir: bool) -> None:
    """Kill a crawl of 20,000 items at random moments, from its start to after its end."""
    moments = [random.uniform(0.1, 3.5) for _ in range(30)]
    check_kills(crawl, sql, tmp_path, keyed=keyed, jobdir=jobdir, moments=moments, count=20_000)


def check_kills(
    crawl: Crawler, sql: Sql, folder: Path, *, keyed: bool, jobdir: bool, moments: list[float], count: int
) -> None:
    """Kill a crawl of `count` items at each of `moments` (seconds), then let one end."""
    if keyed:
        sql("create table t (id bigint primary key, title text, n int); grant all on t to service_role")
        settings: dict[str, Any] = {}
    else:
        sql(
            "create table t (row_id uuid not null unique, id bigint, n int, title text); grant all on t to service_role"
        )
        settings = {"SUPABASE_ROW_ID_COLUMN": "row_id"}
    if jobdir:
        settings["JOBDIR"] = str(folder / "job")
    witness = folder / "witness"
    settings["WITNESS"] = str(witness)
    settings["ITEM_PIPELINES"] = {"scrapy_supabase.SupabasePipeline": 300, "tests.crawl.Witness": 350}
    hit = [
        killed(crawl, crawl.start({"count": count, "n": number}, **settings), moment)
        for number, moment in enumerate(moments)
    ]
    assert any(hit)
    done = crawl({"count": count, "n": len(moments)}, **settings)
    assert run_folders(done) == []
    assert done.counts("spooled", "failed", "recovered_failed") == (0, 0, 0)
    seen: dict[int, list[int]] = {}
    for line in witness.read_text().splitlines():
        item, _, n = line.partition(" ")
        seen.setdefault(int(item), []).append(int(n))
    if keyed:
        assert sql("select count(*), min(n), max(n) from t") == [(count, len(moments), len(moments))]
        return
    stored = sql("select id, n, count(*), count(distinct row_id) from t group by 1, 2")
    assert all(rows == ids for _, _, rows, ids in stored)
    found = {(item, n): rows for item, n, rows, _ in stored}
    expected = {(item, n): 1 for item, versions in seen.items() for n in versions}
    assert set(expected) <= set(found)
    # Rows that were written down and not yet handed on when the process died are more than was promised: one a kill.
    assert len(found) - len(expected) <= len(moments)
    assert set(found.values()) == {1}


def test_rows_without_a_key_may_be_doubled_and_that_is_said(crawl: Crawler, sql: Sql, proxy: FaultProxy) -> None:
    """They are counted, and a warning has the remedy."""
    sql("create table t (id bigint, n int); grant all on t to service_role")
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    crawl({"items": items(5, n=1)}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2)
    proxy.always = faults.passes
    done = crawl({"items": []}, SUPABASE_URL=proxy.url)
    assert done.counts("recovered", "recovered_ambiguous") == (5, 5)
    assert "uploading rows without a key that an earlier run left. They are possibly duplicated" in done.log
    assert "SUPABASE_ROW_ID_COLUMN" in done.log


def test_row_ids_make_a_retry_harmless(crawl: Crawler, sql: Sql, proxy: FaultProxy) -> None:
    """The server stores the rows and hangs up: sending them again stores nothing twice; two runs do not collide."""
    sql("create table t (rid uuid unique, id bigint, title text); grant all on t to service_role")
    settings = {"SUPABASE_ROW_ID_COLUMN": "rid", "SUPABASE_URL": proxy.url}
    for _ in range(2):
        proxy.faults.extend([faults.passes, faults.passes, faults.resets_after, faults.resets_after])
        done = crawl({"items": items(300)}, **settings)
        assert done.counts("uploaded", "ambiguous_retry") == (300, 0), done.log
    assert sql("select count(*), count(distinct rid) from t") == [(600, 600)]
    assert sql("select distinct substr(rid::text, 15, 1) from t") == [("5",)]


@pytest.mark.parametrize("crawls", [4])
def test_crawls_at_once_share_a_folder_and_a_table(crawl: Crawler, sql: Sql, tmp_path: Path, crawls: int) -> None:
    """With overlapping keys and many dead runs, no row is lost, no deadlock occurs, nothing is adopted twice."""
    sql("create table t (id bigint primary key, title text, n int); grant all on t to service_role")
    for number in range(6):
        killed(crawl, crawl.start({"count": 20000, "n": number}), 0.3, uploading=True)
    folders = [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]
    crawlers = [Crawler(tmp_path / f"crawl{number}", crawl.project) for number in range(crawls)]
    for each in crawlers:
        each.folder.mkdir()
    spool = str(tmp_path / "spool")
    processes = [
        each.start({"count": 4000, "n": 100 + number}, SUPABASE_SPOOL_DIR=spool) for number, each in enumerate(crawlers)
    ]
    ended = [each.finish(process) for each, process in zip(crawlers, processes, strict=True)]
    assert all(done.counts("failed", "spooled", "recovered_failed") == (0, 0, 0) for done in ended)
    assert [line for done in ended for line in done.log.splitlines() if " ERROR: " in line] == []
    adopted = sum(done.log.count("Earlier runs left") for done in ended)
    assert adopted >= min(1, len(folders))
    assert sql("select count(*) filter (where id < 4000 and n >= 100) from t") == [(4000,)]
    assert not [path for path in (tmp_path / "spool").iterdir() if path.is_dir()]


def test_the_spool_of_a_run_is_private(crawl: Crawler, table: Sql, proxy: FaultProxy) -> None:
    """Folders 0700, files 0600, whatever the umask; the header says what a replay needs, and no key."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    done = crawl({"items": items(5)}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.2)
    for path in (done.folder / "spool").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    header = json.loads(done.spooled[0].read_text().splitlines()[0])
    assert set(header) == {
        *("format", "table", "columns", "mode", "on_conflict", "key", "opened", "spider", "project", "run")
    }
    assert header["key"] == ["id"]
    assert done.spooled[0].parent.name.endswith(header["run"][:8])


def resets_every_second() -> faults.Fault:
    """Store every second request, then reset its connection."""
    number = itertools.count()

    def fault(exchange: faults.Exchange) -> None:
        (faults.resets_after if next(number) % 2 else faults.passes)(exchange)

    return fault


def answers_503_to_every_second() -> faults.Fault:
    """Refuse every second request."""
    number = itertools.count()

    def fault(exchange: faults.Exchange) -> None:
        (DOWN if next(number) % 2 else faults.passes)(exchange)

    return fault


@pytest.mark.parametrize("kind", ["stores and resets", "503 to every second", "accepts and never answers"])
def test_a_server_that_is_half_there(crawl: Crawler, table: Sql, proxy: FaultProxy, kind: str) -> None:
    """No row is lost or stored twice, and the newest version is stored."""
    proxy.faults.extend([faults.passes] * 3)
    if kind == "accepts and never answers":
        proxy.faults.extend([faults.hangs] * 8)
    else:
        proxy.always = resets_every_second() if kind == "stores and resets" else answers_503_to_every_second()
    versions = [{"id": number % 1000, "n": number} for number in range(3000)]
    done = crawl({"items": versions}, SUPABASE_URL=proxy.url, SUPABASE_TIMEOUT=0.5, SUPABASE_CLOSE_TIMEOUT=30)
    assert done.counts("uploaded", "failed", "spooled") == (3000, 0, 0), done.log
    assert table("select count(*), min(n), max(n) from t") == [(1000, 2000, 2999)]
    assert done.counts("retry")[0] > 0


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(3, id="short"), pytest.param(20, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(300)])],
)
def test_the_server_is_stopped_and_started_again(tmp_path: Path, open_folder: Path, site: Site, seconds: int) -> None:
    """PostgreSQL and the REST API restart during the crawl; it continues, and all rows are stored once."""
    folder = open_folder / f"stopped {seconds}"
    pages = [[{"id": page * 10 + n, "title": "x" * 300} for n in range(10)] for page in range(250 * seconds)]
    with LocalSupabase(folder) as stack, psycopg.connect(stack.db_url, autocommit=True) as connection:
        connection.execute(TABLE.encode())
        connection.execute("notify pgrst, 'reload schema'")
        project = Project(stack.url, stack.service_role_key, stack.anon_key, stack.db_url)
        crawl = Crawler(tmp_path, project)
        process = crawl.start({"pages": len(pages), "site": site(pages)}, SUPABASE_CLOSE_TIMEOUT=60)

        def some_are_there() -> bool:
            return bool(connection.execute("select count(*) from t").fetchone() != (0,))

        assert eventually(some_are_there)
    until = time.monotonic() + seconds
    assert eventually(lambda: time.monotonic() > until and "The server is unreachable" in crawl.log_of(process), 60)
    port = int(project.url.rpartition(":")[2])
    with LocalSupabase(folder, port=port) as stack:
        done = crawl.finish(process)
        with psycopg.connect(stack.db_url, autocommit=True) as connection:
            assert connection.execute("select count(*) from t").fetchone() == (len(pages) * 10,)
    assert done.counts("uploaded", "spooled", "failed") == (len(pages) * 10, 0, 0), done.log
    assert "The server is reachable again after" in done.log
    assert done.stats["memusage/max"] < 400_000_000
    print(f"stopped for {seconds} s: {len(pages) * 10} rows, memory {done.stats['memusage/max'] >> 20} MiB at most")
