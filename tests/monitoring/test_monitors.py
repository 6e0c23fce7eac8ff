"""Spidermon's monitors, exit codes and metrics, in the project of docs/how-to/monitors.md, crawled from the shell."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scrapy_supabase.models import Chunk, Outcome, Rejection, Row
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.stats import Readings, Stats
from tests import fault_proxy as faults
from tests import fork_server
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST, Crawl, Crawler
from tests.fix_project import Project
from tests.monitoring.test_counters import Collector

Sql = Callable[..., list[tuple[Any, ...]]]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monitors.md"
TABLE = (
    "create table t_books (id int primary key, price numeric check (price >= 0)); grant all on t_books to service_role"
)
SPIDER = """
import scrapy

class BooksSpider(scrapy.Spider):
    name = "books"

    async def start(self):
        for number in range(200):
            yield {"id": number, "price": -1 if number < int(getattr(self, "bad", 0)) else 1}
"""


class Books:
    """The project of the page."""

    def __init__(self, folder: Path, project: Project) -> None:
        self.folder, self.project = folder, project
        (folder / "scrapy.cfg").write_text("[settings]\ndefault = shop.settings\n")
        blocks: defaultdict[str, str] = defaultdict(str)
        for path, code in re.findall(
            r"^```python\n# (shop/\S+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
        ):
            blocks[path] += code
        files = {"shop/__init__.py": "", "shop/commands/__init__.py": "", "shop/spiders/__init__.py": SPIDER}
        settings = (
            "ADDONS = {'scrapy_supabase.Addon': 300}\nSUPABASE_TABLE = 't_books'\nTELNETCONSOLE_ENABLED = False\n"
            "SPIDER_MODULES = ['shop.spiders']\n"
        )
        for name, text in {**files, **blocks, "shop/settings.py": settings + blocks["shop/settings.py"]}.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def change(self, text: str) -> None:
        """Add a line to the settings."""
        with (self.folder / "shop" / "settings.py").open("a") as file:
            file.write(text + "\n")

    def crawl(self, *arguments: str, without: str = "EXTENSIONS.pop('shop.prometheus.PushStats')") -> tuple[int, str]:
        """Exit code and log of `scrapy crawl books`, without the parts of the page that a test is not about."""
        self.change(without)
        environment = {**os.environ, "SUPABASE_URL": self.project.url, "SUPABASE_KEY": self.project.key}
        done = fork_server.scrapy("crawl", "books", *arguments, cwd=self.folder, env=environment)
        assert self.project.key not in done.stderr
        return done.returncode, done.stderr


@pytest.fixture
def books(tmp_path: Path, project: Project, sql: Sql) -> Books:
    """The project, and its table."""
    sql(TABLE)
    return Books(tmp_path, project)


def failures(log: str) -> dict[str, str]:
    """What Spidermon's monitors said: name → message."""
    entry = r"^(?:FAIL|ERROR): (?:Supabase: )?([^\n/]*)/test_\w+\n-+\n(.*?)\n\n"
    return dict(re.findall(entry, log, re.MULTILINE | re.DOTALL))


def monitored(crawl: Crawler, *plans: dict[str, Any], **settings: Any) -> Crawl:
    """A crawl with the monitors at its close."""
    return crawl(
        *plans,
        EXTENSIONS={"spidermon.contrib.scrapy.extensions.Spidermon": 500},
        SPIDERMON_ENABLED=True,
        SPIDERMON_SPIDER_CLOSE_MONITORS=["scrapy_supabase.contrib.spidermon.SupabaseMonitorSuite"],
        **settings,
    )


def test_a_failed_monitor_sets_the_exit_code(books: Books) -> None:
    """Three of 200 rows rejected; the message has number, table, file and command."""
    code, log = books.crawl("-a", "bad=3")
    spool = books.folder / ".scrapy" / "supabase"
    assert code == 1, log
    assert failures(log) == {
        "rejected rows": "AssertionError: Rejected: 3 of 200 rows (1.50%), more than 1.00% "
        f"(SUPABASE_MONITOR_MAX_FAILED_RATE): 3 for t_books. Each is in {spool / 'rejected.jsonl'} with its reason. "
        f"After fixing the table or the rows, run: scrapy supabase replay --rejected {spool}"
    }
    assert "Traceback" not in log


def test_without_the_command_of_the_page_the_exit_code_is_0(books: Books) -> None:
    """What the page says of Scrapy: should that change, the page can be shorter."""
    books.change("COMMANDS_MODULE = ''")
    code, log = books.crawl("-a", "bad=3")
    assert code == 0
    assert "rejected rows" in failures(log)


@pytest.mark.parametrize("arguments", [("-a", "bad=2"), ("-s", "TWISTED_REACTOR_ENABLED=False")])
def test_all_passed_is_exit_code_0(books: Books, arguments: tuple[str, ...]) -> None:
    """Exactly at the threshold, and without a reactor."""
    books.change("SPIDERMON_PERIODIC_MONITORS = {}")
    code, log = books.crawl(*arguments)
    assert (code, failures(log)) == (0, {}), log
    assert "4 monitors in" in log


def test_a_crawl_that_was_closed_for_a_missing_table_fails(books: Books, sql: Sql) -> None:
    """No row was received, so no other monitor fails."""
    sql("drop table t_books")
    code, log = books.crawl()
    assert code == 1
    assert failures(log) == {
        "crawl closed by a fatal error": "AssertionError: The crawl was closed (supabase_no_table): nothing could be "
        f"uploaded. Rows that were scraped before are kept in {books.folder / '.scrapy' / 'supabase'}. "
        "For cause and remedy, see the ERROR in the log that begins with `Closing the crawl`."
    }
    assert " ERROR: Closing the crawl before its first page (supabase_no_table): " in log


def test_rows_that_are_left_fail_two_monitors(crawl: Crawler, sql: Sql, proxy: FaultProxy) -> None:
    """The server becomes unreachable after the check at open: rows are left, and none was stored for too long."""
    sql("create table t (id bigint primary key); grant all on t to service_role")
    proxy.faults.extend([faults.passes] * 2 + [faults.resets_before] * 500)
    done = monitored(
        crawl,
        {"items": [{"id": n} for n in range(5)]},
        SUPABASE_URL=proxy.url,
        SUPABASE_CLOSE_TIMEOUT=0.5,
        SUPABASE_MONITOR_MAX_UPLOAD_AGE=0.1,
    )
    spool = crawl.folder / "spool"
    said = failures(done.log)
    assert set(said) == {"rows left in the spool", "time since the last upload"}, done.log
    assert said["rows left in the spool"] == (
        "AssertionError: Not uploaded: 5 rows, more than 0 (SUPABASE_MONITOR_MAX_SPOOLED_ROWS): 5 for t. Kept in "
        f"{spool} for the next crawl. To upload them now, run: scrapy supabase replay {spool}"
    )
    assert re.match(
        r"AssertionError: Waiting: 5 rows\. The server has stored none for \d s, longer than 0.1 s "
        r"\(SUPABASE_MONITOR_MAX_UPLOAD_AGE\): 5 for t\. The last WARNING of scrapy_supabase in the log has the "
        rf"server's answer\. Kept in {spool}: this crawl or the next .*, run: scrapy supabase replay {spool}$",
        said["time since the last upload"],
    )


@pytest.mark.parametrize(("mode", "python"), [("asyncio", sys.executable), ("select", str(OLDEST))])
def test_the_age_is_checked_while_the_crawl_runs(
    crawl: Crawler, sql: Sql, proxy: FaultProxy, mode: str, python: str
) -> None:
    """The periodic suite fails before the close; also with the oldest Scrapy and Spidermon."""
    sql("create table t (id bigint primary key); grant all on t to service_role")
    proxy.faults.extend([faults.passes] * 2 + [faults.resets_before] * 500)
    done = crawl(
        {"items": [{"id": n} for n in range(5)]},
        mode=mode,
        python=python,
        SUPABASE_URL=proxy.url,
        SUPABASE_MAX_OUTAGE=1.5,
        EXTENSIONS={"spidermon.contrib.scrapy.extensions.Spidermon": 500},
        SPIDERMON_ENABLED=True,
        SPIDERMON_PERIODIC_MONITORS={"scrapy_supabase.contrib.spidermon.SupabasePeriodicMonitorSuite": 0.3},
        SUPABASE_MONITOR_MAX_UPLOAD_AGE=0.1,
        SUPABASE_CLOSE_TIMEOUT=2,
    )
    assert "time since the last upload" in failures(done.log), done.log
    assert "rows left in the spool" not in done.log


def test_a_crawl_without_the_pipeline(crawl: Crawler, sql: Sql) -> None:
    """A disabled pipeline skips the monitors; one that was never enabled fails them, with the remedy."""
    off = monitored(crawl, {"items": [{"id": 1}]}, SUPABASE_ENABLED=False)
    assert off.log.count("SKIPPED (SUPABASE_ENABLED is False)") + off.log.count("(SUPABASE_ENABLED is False)") >= 4
    assert failures(off.log) == {}
    missing = monitored(crawl, {"items": [{"id": 1}]}, ITEM_PIPELINES={})
    assert len(failures(missing.log)) == 4
    assert "ADDONS = {'scrapy_supabase.Addon': 300}" in failures(missing.log)["rejected rows"]


def test_a_wrong_threshold_is_an_error_before_the_first_page(crawl: Crawler, sql: Sql) -> None:
    """With the setting's name, even if no monitor would read it for an hour."""
    sql("create table t (id bigint primary key); grant all on t to service_role")
    done = crawl.finish(crawl.start({"items": [{"id": 1}]}, SUPABASE_MONITOR_MAX_FAILED_RATE="2 %"), balanced=False)
    assert "SUPABASE_MONITOR_MAX_FAILED_RATE is '2 %' (str): it must be a fraction of the rows" in done.log
    assert sql("select count(*) from t") == [(0,)]


def test_the_age_counts_only_while_rows_wait() -> None:
    """A spider that yields nothing for an hour is no outage, nor is the first row after that hour."""
    now = datetime.now(UTC)
    hour, minute = now - timedelta(hours=1), now - timedelta(minutes=1)
    stats = {"supabase/received_count/t": 5, "supabase/uploaded_count/t": 3, "supabase/failed_count/t": 1}
    assert Readings(stats).waiting() == {"t": 1}
    assert Readings({**stats, "supabase/superseded_count/t": 1}).waiting() == {}
    assert Readings(stats).seconds_waited(now) == 0
    for upload, began, seconds in [(hour, minute, 60), (minute, hour, 60), (None, hour, 3600), (hour, hour, 3600)]:
        times = {"supabase/last_upload_time": upload, "supabase/waiting_since": began}
        assert Readings({**stats, **times}).seconds_waited(now) == seconds


def test_the_times_are_those_of_the_stats() -> None:
    """`waiting_since` stays while rows wait, and is set again after a time without; a rejection is no upload."""
    collector = Collector()
    counters = Counters()
    stats = Stats(collector, counters)

    def time(name: str) -> datetime:
        stats.publish(chunk_size=100, concurrency=4)
        found: datetime = collector.values[f"supabase/{name}"]
        return found

    seen = []
    for number in range(3):
        chunk = Chunk(number, (Row("t", ("a",), None, b"{}"),), "1.jsonl")
        counters.on_chunk_sealed(chunk)
        seen.append(time("waiting_since"))
        if number:
            counters.on_chunk_done(Outcome(chunk, 1))
    first, second, _ = seen
    assert first == second
    assert time("last_upload_time") >= first
    counters.on_chunk_done(Outcome(chunk, 0, (Rejection("t", b"", "c", "m"),)))
    counters.on_chunk_sealed(chunk)
    assert time("waiting_since") > first


@pytest.fixture
def pushgateway() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What a Pushgateway is to its client: its address, and (path, body) of what was pushed."""
    pushed: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            pushed.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", pushed
    server.shutdown()
    server.server_close()


def test_prometheus_and_statsd_get_the_stats(books: Books, pushgateway: tuple[str, list[tuple[str, str]]]) -> None:
    """With the page's code: tables are labels, times are seconds since 1970, and StatsD's sums are the stats."""
    address, pushed = pushgateway
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.setblocking(False)
        port = statsd.getsockname()[1]
        before = datetime.now(UTC).timestamp()
        code, log = books.crawl("-a", "bad=2", without=f"PUSHGATEWAY, STATSD_PORT = {address!r}, {port}")
        assert code == 0, log
        sums: defaultdict[str, float] = defaultdict(float)
        while (datagram := next(received(statsd), None)) is not None:
            name, _, count = datagram.removesuffix("|c").partition(":")
            sums[name] += float(count)
    assert sums["supabase.uploaded_count.t_books"] == sums["supabase.uploaded_count"] == 198
    assert sums["supabase.error_count.23514"] >= 1
    ((path, body),) = pushed
    assert path == "/metrics/job/scrapy/spider/books"
    samples = {
        (sample.name, *sample.labels.items()): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert samples["supabase_uploaded_count",] == 198
    assert samples["supabase_failed_count_by_table", ("table", "t_books")] == 2
    assert samples["supabase_error_count_by_code", ("code", "23514")] >= 1
    assert samples["supabase_last_upload_time",] >= before


def received(server: socket.socket) -> Iterator[str]:
    """Datagrams that have arrived."""
    try:
        while True:
            yield server.recv(1000).decode()
    except BlockingIOError:
        return
