"""What follows the uploads of a crawl: when rows are marked, the function that is called, and what fails."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from scrapy.settings import BaseSettings

from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.delivery.run_end import EndedRun, Step, steps_of
from scrapy_supabase.models import Chunk, Outcome, Rejection, Row
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.monitoring.stats import lost_pages
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.settings.config import Config
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST, Crawler
from tests.fix_project import Project
from tests.messages import of_records
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]
TABLE = """create table t (id int primary key, title text, source text, run_id text, active boolean,
gone_at timestamptz); grant all on t to service_role;
insert into t values (90, 'x', 'another', null, true), (91, 'x', null, null, true);"""
FUNCTION = """create table t_calls (n int generated always as identity, run_id text, reason text, counts jsonb);
grant insert on t_calls to service_role; drop function if exists t_after(text, text, json);
create function t_after(run_id text, reason text, counts json) returns void language sql as
$$ insert into t_calls (run_id, reason, counts) values (run_id, reason, counts) $$; notify pgrst, 'reload schema'"""
MARK = {"set": {"active": False, "gone_at": "now"}, "where": {"source": "{spider}"}}


def settings(project: Project, over: str = "rest", unseen: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the settings of the table `t`, which is marked."""
    table = {
        "table": "t",
        "stamps": {"run_id": "run_id"},
        "constants": {"active": True, "gone_at": None, "source": "{spider}"},
        "unseen": unseen or MARK,
    }
    server = {"SUPABASE_DB_URL": project.db_url} if over == "database" else {}
    return {"SUPABASE_TABLE": None, "SUPABASE_TABLES": {"*": table}, **server}


def items(*numbers: int) -> list[dict[str, Any]]:
    """Items with these ids."""
    return [{"id": number, "title": f"t{number}"} for number in numbers]


def gone(sql: Sql) -> list[int]:
    """Return the ids of the rows that are marked."""
    assert sql("select count(*) from t where active = (gone_at is not null)") == [(0,)]
    return [number for (number,) in sql("select id from t where not active order by id")]


def test_rows_are_marked_and_come_back(crawl: Crawler, sql: Sql, project: Project) -> None:
    """Rows of other spiders stay as they are. The stats have the number; then the function is called.

    With the oldest Scrapy, over a database connection; docs/how-to/no-longer-seen.md does it over REST.
    """
    sql(TABLE + FUNCTION)
    given: dict[str, Any] = {**settings(project, "database"), "python": str(OLDEST), "SUPABASE_AFTER_CRAWL": "t_after"}
    crawl({"items": items(*range(10))}, **given)
    assert gone(sql) == []
    done = crawl({"items": items(*range(9))}, **given)
    assert gone(sql) == [9], done.log
    assert (done.stats["supabase/unseen_count"], done.stats["supabase/unseen_count/t"]) == (1, 1)
    assert "Table t: 1 unseen row marked (active, gone_at)" in done.log
    assert "'supabase/unseen_count': 1" in done.log.partition("Dumping Scrapy stats")[2]
    crawl({"items": items(*range(10))}, **given)
    assert gone(sql) == []
    assert sql("""select count(distinct run_id), min(reason), array_agg(counts->'total'->'uploaded' order by n),
        array_agg(counts->'tables'->'t'->'unseen' order by n) from t_calls""") == [
        (3, "finished", [10, 9, 10], [0, 1, 0])
    ]


@pytest.fixture
def poor_site() -> Iterator[str]:
    """A site whose pages are items, refused, broken, gone and no JSON, in this order."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = {
                "/0": (200, b'[{"id": 1}, {"id": 2}]'), "/1": (403, b"no"), "/2": (500, b"no"), "/3": (404, b"no"),
            }.get(self.path, (200, b"<h1>no JSON</h1>"))  # fmt: skip
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_crawl_that_lost_pages_and_items(crawl: Crawler, sql: Sql, project: Project, poor_site: str) -> None:
    """Nothing is marked. The reasons are in one line; a page that is gone is none. A missing function is an ERROR."""
    sql(TABLE)
    sql("insert into t values (3, 'x', 'test0', 'old', true)")
    pipelines = {"scrapy_supabase.SupabasePipeline": 300, "tests.crawl.Dropper": 400}
    done = crawl(
        {"pages": 5, "site": poor_site},
        **settings(project, unseen={**MARK, "at_most": 1.0}),
        ITEM_PIPELINES=pipelines,
        RETRY_TIMES=0,
        SUPABASE_AFTER_CRAWL="t_no_such_function",
        SUPABASE_FAIL_ON="after_crawl",
    )
    assert done.counts("uploaded", "failed") == (2, 0), done.log
    assert gone(sql) == []
    assert (
        "WARNING: Unseen rows of table t are not marked: the crawl is not complete: 1 exception in the spider "
        "(spider_exceptions); 1 page not fetched (retry/max_reached); 2 pages refused by the site (httperror); 2 items "
        "lost to an exception in an item pipeline.\n"
    ) in done.log
    assert done.log.count("ERROR: SUPABASE_AFTER_CRAWL is 't_no_such_function', but the database has no function") == 1
    assert "ERROR: The function t_no_such_function failed (SUPABASE_AFTER_CRAWL): PGRST202: " in done.log
    assert "ERROR: The exit code is 1: see the ERROR above (SUPABASE_FAIL_ON)." in done.log


def test_a_start_that_raises_and_an_item_with_its_own_run(crawl: Crawler, sql: Sql, project: Project) -> None:
    """Scrapy 2.14 ends such a crawl with the reason `finished`, and has no stat for it. The item would look unseen."""
    sql(TABLE)
    sql("insert into t values (3, 'x', 'test0', 'old', true)")
    given = settings(project, unseen={**MARK, "at_most": 1.0})
    own = [{**item, "run_id": "own"} for item in items(1)]
    done = crawl({"items": [*own, *items(2)], "raises": "no more jobs"}, python=str(OLDEST), **given)
    reasons = "an item has a value of its own for column 'run_id'; an exception in Spider.start"
    assert f"are not marked: the crawl is not complete: {reasons}.\n" in done.log
    assert gone(sql) == []


def test_a_crawl_that_is_stopped(crawl: Crawler, sql: Sql, project: Project, site: Site) -> None:
    """Ctrl-C: nothing is marked, and the function learns the reason. Over a database connection."""
    sql(TABLE + FUNCTION)
    sql("insert into t values (3, 'x', 'test0', 'old', true)")
    given = settings(project, "database", {**MARK, "at_most": 1.0})
    started = crawl.start(
        {"items": items(*range(10, 30)), "pages": 50, "site": site([[]] * 50)},
        SUPABASE_AFTER_CRAWL="t_after",
        BATCH_CHUNK_SIZE=20,
        CONCURRENT_REQUESTS=1,
        DOWNLOAD_DELAY=1,
        **given,
    )
    assert eventually(lambda: sql("select count(*) from t") == [(23,)], 30.0)
    started.send_signal(signal.SIGINT)
    done = crawl.finish(started)
    assert gone(sql) == [], done.log
    assert "are not marked: the crawl is not complete: it ended with the reason shutdown.\n" in done.log
    assert sql("select reason, counts->'total'->'uploaded' from t_calls") == [("shutdown", 20)]


def test_rows_of_a_killed_run(crawl: Crawler, sql: Sql, proxy: FaultProxy, project: Project) -> None:
    """The next crawl uploads them; those that it does not find itself are marked."""
    sql(TABLE)
    given = settings(project, unseen={**MARK, "at_most": 0.5})
    proxy.faults.extend([faults.passes] * 3)  # the checks when the crawl opens
    proxy.always = faults.answers(503, "<h1>down</h1>")
    killed = crawl.start({"items": items(*range(6))}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=100, **given)
    spool = crawl.folder / "spool"
    assert eventually(
        lambda: b"".join(path.read_bytes() for path in spool.glob("2*/*.jsonl")).count(b'"run_id":"') >= 6, 30.0
    )
    killed.send_signal(signal.SIGKILL)
    crawl.finish(killed, balanced=False)
    proxy.always = faults.passes
    done = crawl({"items": items(*range(4))}, SUPABASE_URL=proxy.url, **given)
    assert done.counts("recovered", "uploaded") == (6, 4), done.log
    assert gone(sql) == [4, 5], done.log


@pytest.fixture
def config(project: Project) -> Config:
    """The configuration of a crawl that marks rows and calls a function."""
    given = {key: value for key, value in settings(project).items() if value is not None}
    server = {"SUPABASE_URL": project.url, "SUPABASE_KEY": project.key, "BATCH_RETRY_DELAY": 0.01}
    return Config.from_settings(
        BaseSettings({**given, **server, "SUPABASE_AFTER_CRAWL": "t_after"}), {}, spiders=["test0"]
    )


@pytest.fixture
def ended(config: Config) -> Iterator[Callable[..., EndedRun]]:
    """Make a crawl of the table `t` that stored rows and has ended: `ended(url, reason=…)`."""
    made: list[EndedRun] = []

    def make(url: str, *, uploaded: int = 1, reason: str = "finished") -> EndedRun:
        counters = Counters()
        chunk = Chunk(1, (Row("t", ("id",), "1", b'{"id":1}'),), "1.jsonl")
        counters.on_chunk_sealed(chunk)
        counters.on_chunk_done(Outcome(chunk, uploaded))
        backend = PostgrestBackend(url, config.server.key, timeout=0.5)
        made.append(EndedRun(config, Run("test0"), backend, Schema(config.tables.specs), counters, reason))
        return made[-1]

    yield make
    for each in made:
        each.backend.close()


def run_steps(steps: list[Step]) -> None:
    """Run the steps, one after the other."""
    for step in steps:
        step.run(5.0, {})


@pytest.mark.parametrize("why", ["failed", "spooled", "reason", "nothing stored", "upserts refused"])
def test_a_crawl_that_is_not_complete(
    ended: Callable[..., EndedRun], project: Project, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """No row is counted or changed, and the function is called as ever."""
    reason = "shutdown" if why == "reason" else "finished"
    over = ended(project.url, uploaded=int(why != "nothing stored"), reason=reason)
    if why == "failed":
        over.counters.refused(Rejection("t_other", b"{}", "x", "y"))
    elif why == "spooled":
        over.counters.on_rows_kept(Chunk(2, (Row("t", ("id",), "1", b"{}"),), "2.jsonl"), 1)
    elif why == "upserts refused":
        over.schema.fall_back("t")
    assert [type(step).__name__ for step in steps_of(over, [])] == ["_CallFunction"]
    (message,) = of_records(caplog)
    assert message.startswith("WARNING: Unseen rows of table t are not marked: the crawl is not complete: ")


def test_the_server_is_gone_at_the_end(
    ended: Callable[..., EndedRun], sql: Sql, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Each step says so, and raises nothing. What has no answer may have happened; the next crawl does the rest."""
    sql(TABLE + FUNCTION)
    sql("insert into t select n, 'x', 'test0', 'old', true from generate_series(0, 9) n")
    sql("insert into t values (10, 'x', 'test0', 'new', true)")
    over = ended(proxy.url)
    over.run.id = "new"
    sql("update t set run_id = 'new' where id between 1 and 9")
    proxy.always = faults.answers(503, "<h1>down</h1>")
    steps = steps_of(over, [])
    run_steps(steps)
    assert [step.failed for step in steps] == [True, True]
    assert of_records(caplog, least=logging.ERROR) == [
        "ERROR: Unseen rows of table t are not marked: http_503: down. The next complete crawl includes them.",
        "ERROR: The function t_after failed (SUPABASE_AFTER_CRAWL): http_503: down. No row is affected.",
    ]
    caplog.clear()
    proxy.always = faults.passes
    proxy.faults.extend([faults.passes, faults.passes, *[faults.hangs] * 3, faults.resets_after])
    run_steps(steps_of(over, []))
    marked, called = of_records(caplog, least=logging.ERROR)
    assert marked.startswith("ERROR: Unseen rows of table t may not be marked: TimeoutError: no answer from ")
    assert "; it may have run. No row is affected." in called
    assert sql("select count(*) from t_calls") == [(1,)]
    run_steps(steps_of(over, []))
    assert gone(sql) == [0]
    assert over.counters.totals["unseen"] == 1


def test_what_scrapy_says_of_lost_pages() -> None:
    """Retries that succeed, pages that are gone, robots.txt and other sites are no loss."""
    complete = {
        "downloader/exception_count": 9,
        "downloader/exception_type_count/twisted.internet.error.TimeoutError": 3,
        "downloader/exception_type_count/scrapy.exceptions.IgnoreRequest": 5,
        "httperror/response_ignored_count": 3,
        "httperror/response_ignored_status_count/404": 2,
        "httperror/response_ignored_status_count/410": 1,
        "retry/reason_count/twisted.internet.error.TimeoutError": 3,
        "scheduler/dequeued": 7,
        "scheduler/enqueued": 7,
    }
    assert lost_pages(complete) == []
    more = {
        "downloader/exception_type_count/builtins.ValueError": 2,
        "httperror/response_ignored_status_count/429": 1,
        "scheduler/dequeued": 8,
    }
    assert lost_pages({**complete, **more}) == [
        "2 pages not fetched (downloader/exception_count)",
        "1 page refused by the site (httperror)",
        "it went on with the requests of an earlier crawl (JOBDIR)",
    ]
    shared = ["it shared its requests with other workers (Redis), which store rows of their own"]
    assert lost_pages({**complete, "scheduler/enqueued/redis": 1}) == shared
    assert lost_pages({**complete, "scheduler/dequeued/redis": 1}) == shared
