"""What a crawl says, from its first line to its last: when all is well, and when it is not."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from supabase import create_client

from scrapy_supabase import upload_to_supabase
from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.spool.run_folders import note_run
from tests import fault_proxy as faults
from tests.delivery.test_write_options import MIXED, mixed_items
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_project import Project
from tests.messages import Said, of_log
from tests.monitoring.test_snapshots import LEDGER
from tests.polling import eventually
from tests.test_messages_commands import leave

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]
TABLE = "create table t (id bigint primary key, title text, n int); grant all on t to service_role"
DOWN = faults.answers(503, "<h1>down</h1>")
ONE = {"SUPABASE_CONCURRENT_UPLOADS": 1}  # so that what is said has an order


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql(TABLE)
    return sql


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    """Items 0, 1, …"""
    return [{"id": number, "title": f"t{number}", **more} for number in range(count)]


def test_all_is_well(crawl: Crawler, said: Said, table: Sql, project: Project) -> None:
    """At INFO: where rows go, what became of them; at DEBUG a line a chunk. Nothing above INFO."""
    done = crawl({"items": items(3)})
    said("A crawl of three items", of_log(done.log))
    said("The same, at DEBUG", [line for line in of_log(done.log, least="DEBUG") if line.startswith("DEBUG")])
    done = crawl({"items": items(1, n=1)}, SUPABASE_URL=None, SUPABASE_DB_URL=project.db_url, BATCH_CHUNK_SIZE="auto")
    said("A crawl of one item, over a database connection, with chunks that grow", of_log(done.log))
    done = crawl({"items": []})
    said("A crawl without an item", of_log(done.log))
    done = crawl({"items": items(1)}, SUPABASE_ENABLED=False)
    said("The pipeline is switched off", re.findall(r"WARNING: Disabled .*SUPABASE_ENABLED.*", done.log))


def test_rows_are_counted(crawl: Crawler, said: Said, table: Sql) -> None:
    """What was new, changed, equal, and not found."""
    table(function_sql("public", "service_role"))
    options = {"table": "t", "mode": "update", "if_changed": True}
    crawl({"items": items(2)})
    done = crawl({"items": items(3)}, SUPABASE_TABLE=None, SUPABASE_TABLES={"*": options})
    said("A crawl that updates two of three rows, which are equal", of_log(done.log))


def test_many_column_sets(crawl: Crawler, said: Said, sql: Sql) -> None:
    """Small requests get a warning that names the setting, and the function that helps, too."""
    sql("drop function if exists scrapy_upsert; notify pgrst, 'reload schema'")
    sql(MIXED)
    crawl({"items": mixed_items(800, 1)})
    done = crawl({"items": mixed_items(800, 2)})
    warned = [re.sub(r"[\d.]+(?= rows on average)", "<n>", line) for line in of_log(done.log, least="WARNING")]
    said("Items with many sets of fields", warned)


def test_progress(crawl: Crawler, said: Said, table: Sql, site: Site) -> None:
    """One line a minute (here: a tenth of a second)."""
    pages = [[{"id": page, "title": "x"}] for page in range(15)]
    plan = {"pages": 15, "site": site(pages), "progress_every": 0.1}
    done = crawl(plan, DOWNLOAD_DELAY=0.1, RANDOMIZE_DOWNLOAD_DELAY=False, BATCH_CHUNK_SIZE=1)
    lines = [
        re.sub(r"\d+ (row|chunk)s? (uploaded|in flight)", r"<n> \1s \2", line)
        for line in of_log(done.log)
        if "rows/min" in line
    ]
    said("A crawl that takes longer than a minute", lines)


def test_rejected_rows(crawl: Crawler, said: Said, table: Sql) -> None:
    """How many, why, where they are, and the command that uploads them once they are mended."""
    wrong = [{"id": "x", "title": "no number"}, {"id": "y", "title": "no number"}, {"zz": 1}]
    done = crawl({"items": [*items(2), *wrong]})
    messages = of_log(done.log)
    said("A crawl with rows that the table refuses", messages)
    path = done.folder / "spool" / "rejected.jsonl"
    path.write_text(path.read_text().replace('"x"', '"8"').replace('"y"', '"9"').replace('"row":{"zz":1}', '"row":{}'))
    run_printed(messages[-1], crawl.project)
    assert table("select count(*) from t") == [(4,)]


def test_rows_before_those_that_they_refer_to(crawl: Crawler, said: Said, sql: Sql) -> None:
    """The summary says why there are answers with 23503, though all rows are stored."""
    sql(
        "create table t_author (id bigint primary key, name text); create table t (id bigint primary key, title text, "
        "author bigint references t_author); grant all on t, t_author to service_role; notify pgrst, 'reload schema'"
    )
    books = [{"_class": "Book", "id": n, "title": "x", "author": 1} for n in range(4)]
    done = crawl(
        {"items": [*books, {"_class": "Author", "id": 1, "name": "a"}]},
        SUPABASE_TABLE=None,
        SUPABASE_TABLES={"tests.crawl.Book": "t", "tests.crawl.Author": "t_author"},
        BATCH_CHUNK_SIZE=4,
    )
    assert done.counts("uploaded", "failed") == (5, 0), done.log
    assert done.stats["supabase/error_count/23503"] == 1
    said("A crawl that meets rows before those that they refer to", of_log(done.log)[-1:])


def test_rows_that_make_a_crawl_fail(crawl: Crawler, said: Said, table: Sql) -> None:
    """Which, how many, and the setting that makes them count."""
    done = crawl({"items": [*items(2), {"id": "x"}]}, SUPABASE_FAIL_ON=["rejected"])
    said("A crawl whose exit code is 1 because of rejected rows", of_log(done.log, least="ERROR")[-1:])


def test_most_rows_are_rejected(crawl: Crawler, said: Said, table: Sql) -> None:
    """The first of each kind, once that it is most of them, and at the end an example for each kind."""
    wrong = [{"id": f"x{n}", "title": "no number"} for n in range(150)]
    done = crawl({"items": [*wrong, *items(50)]}, SUPABASE_CONCURRENT_UPLOADS=1)
    said("A crawl most of whose rows are rejected", of_log(done.log))


@pytest.mark.parametrize(
    ("most", "how"),
    [
        (20, "A crawl that may have 20 rejected rows"),
        (0.1, "A crawl of whose rows a tenth may be rejected"),
    ],
)
def test_too_many_rows_are_rejected(crawl: Crawler, said: Said, table: Sql, site: Site, most: float, how: str) -> None:
    """SUPABASE_MAX_FAILED closes the crawl; what is good is uploaded all the same."""
    pages = [[{"id": f"x{n}" if n % 2 else 100 * page + n, "title": "t"} for n in range(50)] for page in range(30)]
    plan = {"pages": 30, "site": site(pages)}
    done = crawl(plan, SUPABASE_MAX_FAILED=most, BATCH_CHUNK_SIZE=50, DOWNLOAD_DELAY=0.2)
    assert done.stats["finish_reason"] == "supabase_max_failed"
    received, uploaded, failed = done.counts("received", "uploaded", "failed")
    assert uploaded == failed == received // 2
    assert received < 1500
    lines = [re.sub(r"\d+ of \d+ rows", "<n> of <n> rows", line) for line in of_log(done.log, least="ERROR")]
    said(how, lines[:1])


def run_printed(message: str, project: Project, **settings: str) -> None:
    """Run the command that a message ends with, in the crawl's project."""
    command = shlex.split(message.partition("run: scrapy supabase ")[2])
    given = {"SUPABASE_URL": project.url, "SUPABASE_KEY": project.key, **settings}
    options = [option for name, value in given.items() for option in ("-s", f"{name}={value}")]
    subprocess.run([sys.executable, "-m", "scrapy", "supabase", *options, *command], check=False, timeout=60)


def test_nothing_can_be_uploaded(crawl: Crawler, said: Said, sql: Sql) -> None:
    """Before the first page: why, what to do, and that nothing is lost."""
    done = crawl({"items": []})
    said("No table when the crawl opens", of_log(done.log))


def test_an_end_in_the_middle(crawl: Crawler, said: Said, table: Sql, proxy: FaultProxy, site: Site) -> None:
    """Why, what to do; where the rows are, and the command that uploads them."""
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = faults.answers(540, "<h1>Project paused</h1>")
    plan = {"pages": 40, "site": site([[{"id": 10 * page + n} for n in range(10)] for page in range(40)])}
    done = crawl(plan, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE=10, **ONE)
    messages = of_log(done.log)
    said("The project is paused while the crawl runs", _without_numbers(messages))
    proxy.always = faults.passes
    run_printed(messages[-1], crawl.project, SUPABASE_URL=proxy.url)
    (received,) = done.counts("received")
    assert table("select count(*) from t") == [(received,)]


def _without_numbers(messages: Sequence[str]) -> list[str]:
    """How far a crawl has come when it is closed differs from run to run."""
    return [
        re.sub(r"\b\d+(?= (rows?|chunks?|requests?|uploaded|left|not fully)\b)", "<n>", message) for message in messages
    ]


def test_the_server_goes_and_comes_back(crawl: Crawler, said: Said, table: Sql, proxy: FaultProxy) -> None:
    """The rows are kept while it is gone; the close waits for it as long as it was told."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    left = crawl({"items": items(2)}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.3, **ONE)
    said("The server is unreachable when the crawl closes", of_log(left.log))
    proxy.faults.extend([faults.passes] * 2)
    proxy.faults.extend([DOWN] * 3)
    proxy.always = faults.passes
    back = crawl({"items": items(1)}, SUPABASE_URL=proxy.url, **ONE)
    said("The server is unreachable for a moment; an earlier run left rows", of_log(back.log))


def test_the_server_is_still_gone(crawl: Crawler, said: Said, table: Sql, proxy: FaultProxy, site: Site) -> None:
    """The close says for how long it waits, and that nothing is lost."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    plan = {"pages": 15, "site": site([[{"id": page}] for page in range(15)]), "progress_every": 0.1}
    settings = {"SUPABASE_CLOSE_TIMEOUT": 0.2, "BATCH_CHUNK_SIZE": 1, "BATCH_RETRY_ATTEMPTS": 1, **ONE}
    done = crawl(plan, SUPABASE_URL=proxy.url, DOWNLOAD_DELAY=0.1, RANDOMIZE_DOWNLOAD_DELAY=False, **settings)
    lines = [re.sub(r"\d+ chunks? on disk", "<n> chunks on disk", line) for line in of_log(done.log)]
    said("The server is unreachable from the first chunk on", lines)


def test_the_close_takes_too_long(crawl: Crawler, said: Said, table: Sql, proxy: FaultProxy) -> None:
    """What is left, and where it is."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.hangs
    done = crawl({"items": items(2)}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.3)
    said("A server that does not answer when the crawl closes", of_log(done.log))


def test_without_a_spool(crawl: Crawler, said: Said, table: Sql, proxy: FaultProxy) -> None:
    """Rows that are not uploaded are in the log, with the setting that would have kept them."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    settings = {"SUPABASE_SPOOL_DIR": "@none", "SUPABASE_CLOSE_TIMEOUT": 0.3, "BATCH_RETRY_ATTEMPTS": 1, **ONE}
    done = crawl({"items": items(1)}, SUPABASE_URL=proxy.url, **settings)
    said("The server is unreachable, and there is no spool", of_log(done.log))


@pytest.mark.parametrize("spool", ["@none", None])
def test_control_c_while_items_wait(
    crawl: Crawler, said: Said, table: Sql, proxy: FaultProxy, site: Site, spool: str | None
) -> None:
    """What becomes of the rows, and within what time."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    process = crawl.start(
        {
            "pages": 9,
            "site": site([[{"id": 10 * page + n, "title": "x" * 99} for n in range(10)] for page in range(9)]),
        },
        SUPABASE_URL=proxy.url,
        SUPABASE_SPOOL_DIR=spool or str(crawl.folder / "spool"),
        SUPABASE_SPOOL_MAX_BYTES=1024,
        SUPABASE_CLOSE_TIMEOUT=0.5,
        BATCH_CHUNK_SIZE=1,
        SUPABASE_CONCURRENT_UPLOADS=1,
    )
    waits = "The crawl waits until it is reachable again" if spool else "more than SUPABASE_SPOOL_MAX_BYTES allows"
    assert eventually(lambda: waits in crawl.log_of(process), 30)
    process.send_signal(signal.SIGINT)
    lines = [line for line in of_log(crawl.finish(process).log) if "The crawl is closing" in line]
    if spool:
        said("Ctrl-C while items wait, and there is no spool", lines)
    else:
        said("Ctrl-C while items wait", lines)


def test_a_ledger_that_does_not_answer(crawl: Crawler, said: Said, sql: Sql, proxy: FaultProxy) -> None:
    """It gets two seconds, or what is left of the time for the close."""
    sql(f"{TABLE}; {LEDGER}")

    def silent_at_the_end(exchange: faults.Exchange) -> None:
        (faults.hangs if b"finished_at" in exchange.body else faults.passes)(exchange)

    proxy.always = silent_at_the_end
    settings = {"SUPABASE_URL": proxy.url, "SUPABASE_RUNS_TABLE": "t_runs", "SUPABASE_CLOSE_TIMEOUT": 0.5}
    done = crawl({"items": items(1)}, **settings)
    said("A ledger that does not answer when the crawl closes", [line for line in of_log(done.log) if "WARN" in line])


def test_a_stats_collector_that_fails(crawl: Crawler, said: Said, table: Sql, proxy: FaultProxy) -> None:
    """One of the user's own: each key is reported once, and the summary is right."""
    proxy.always = faults.delays(0.05)  # else an upload may take 0.0 s, which is no fraction
    done = crawl({"items": items(1)}, STATS_CLASS="tests.crawl.WholeNumbers", SUPABASE_URL=proxy.url)
    said("A stats collector that refuses fractions", of_log(done.log))


def test_what_earlier_runs_left(crawl: Crawler, said: Said, sql: Sql, proxy: FaultProxy) -> None:
    """Rows without a key may be doubled; a table that is gone does not end the crawl."""
    sql(f"{TABLE}; create table t_log (line text); grant all on t_log to service_role")
    proxy.faults.extend([faults.passes] * 5)  # two more, as the table has no column "label"
    proxy.always = DOWN
    tables = {"*": "t", "tests.crawl.Tag": {"table": "t_log", "columns": {"id": "line"}}}
    rows = [{"id": 1}, {"_class": "Tag", "id": 1, "label": "x"}]
    settings = {"SUPABASE_URL": proxy.url, "SUPABASE_CLOSE_TIMEOUT": 0.1, "BATCH_RETRY_ATTEMPTS": 1, **ONE}
    crawl({"items": rows}, SUPABASE_TABLE=None, SUPABASE_TABLES=tables, **settings)
    proxy.always = faults.passes
    sql("drop table t; notify pgrst, 'reload schema'")
    done = crawl({"items": []}, SUPABASE_TABLE="t_log", SUPABASE_URL=proxy.url, **ONE)
    said("Earlier runs left rows without a key, and rows for a table that is gone", of_log(done.log))


def test_rows_that_may_be_older(crawl: Crawler, said: Said, table: Sql, proxy: FaultProxy, tmp_path: Path) -> None:
    """A later run stored rows in their table: they stay where they are."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    settings = {"SUPABASE_URL": proxy.url, "SUPABASE_CLOSE_TIMEOUT": 0.1, "BATCH_RETRY_ATTEMPTS": 1, **ONE}
    crawl({"items": items(2)}, **settings)
    proxy.always = faults.passes
    note_run(tmp_path / "spool", "a later run", proxy.url.removeprefix("http://"), ("t",))
    said(
        "Earlier runs left rows that may be older",
        of_log(crawl({"items": items(1)}, SUPABASE_URL=proxy.url, **ONE).log),
    )


def test_rows_of_another_project(crawl: Crawler, said: Said, table: Sql, tmp_path: Path) -> None:
    """The WARNING has the other name, and the command in case both mean one database."""
    leave(tmp_path / "spool", "old.example.com", {"id": 1}, {"id": 2})
    said("Earlier runs left rows of another project", of_log(crawl({"items": items(1)}, **ONE).log))


def test_a_script(said: Said, table: Sql, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """At INFO: a line a chunk, and the sum."""
    caplog.set_level("INFO", "scrapy_supabase.script")
    client = create_client(project.url, project.key)
    upload_to_supabase(client, items(3), "t", chunk_size=2, concurrent_uploads=1)  # in this order
    upload_to_supabase(client, iter(items(1)), "t")
    said("A script uploads three rows, and then one", [f"{r.levelname}: {r.getMessage()}" for r in caplog.records
                                                         if r.name == "scrapy_supabase.script"])  # fmt: skip


def test_a_local_supabase_does_not_start(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the last thing that is said, and stands in one ERROR before the traceback."""
    (tmp_path / "s.py").write_text(
        "import scrapy\nclass S(scrapy.Spider):\n    name = 's'\n    start_urls = ['data:,']\n"
    )
    monkeypatch.setenv("SCRAPY_SUPABASE_POSTGRES", "/nowhere")
    given = ['ADDONS={"scrapy_supabase.Addon": 300}', "SUPABASE_URL=local", "SUPABASE_TABLE=t"]
    options = [part for setting in given for part in ("-s", setting)]
    command = [sys.executable, "-m", "scrapy", "runspider", "s.py", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    messages = of_log(done.stderr)
    said("A crawl whose local Supabase does not start", messages)
    assert done.stderr.splitlines()[-1].endswith(messages[-1].removeprefix("ERROR: "))
