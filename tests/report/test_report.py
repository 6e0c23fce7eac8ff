"""The run report: of real crawls, good and bad, and in a real browser."""

from __future__ import annotations

import os
import re
import signal
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scrapy_supabase.monitoring.histogram import Histogram
from scrapy_supabase.monitoring.last_run import FILE, Fatal, LastRun, Outage, Rejects, Rows, Sample, read_last_run
from scrapy_supabase.monitoring.timeline import Timeline
from scrapy_supabase.report import charts, page_of
from scrapy_supabase.report.markup import tag
from scrapy_supabase.report.verdict import Command, findings
from scrapy_supabase.report.words import duration, rate, size
from scrapy_supabase.schema.ddl import ledger_sql
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_browser import Browser, Seen
from tests.fix_crawl import Crawler
from tests.polling import eventually
from tests.spool.test_replay import command  # noqa: F401 (a fixture)

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]
TABLE = "create table t (id bigint primary key, title text, price numeric check (price >= 0), token text unique);"
GRANT = "grant all on t to service_role"
DOWN = faults.answers(503, "<h1>down</h1>")


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql(TABLE + GRANT)
    return sql


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Path of the page, in a folder that does not exist yet."""
    return tmp_path / "pages" / "report.html"


def items(count: int, **more: Any) -> list[dict[str, Any]]:
    """Items 0, 1, …"""
    return [{"id": number, "title": f"t{number}", **more} for number in range(count)]


def pages(count: int) -> list[list[dict[str, Any]]]:
    """Pages of ten items."""
    return [[{"id": page * 10 + n} for n in range(10)] for page in range(count)]


def titles(page: str) -> list[str]:
    """Return the titles of a page's findings."""
    return re.findall(r'class="body"><h2>(.*?)</h2>', page)


def last(crawl: Crawler) -> LastRun:
    """Return the record of the last run in the spool."""
    return read_last_run(crawl.folder / "spool")


# Real crawls


def tiles(page: str) -> dict[str, int]:
    """Return the figures of a page that count rows."""
    found = re.findall(r"<dt>([^<]+)</dt><dd>([0-9,]+)</dd>", page)
    return {name: int(value.replace(",", "")) for name, value in found if name != "Rows per second"}


def test_the_figures_add_up(crawl: Crawler, table: Sql, report: Path, proxy: FaultProxy) -> None:
    """Received rows are uploaded, superseded, rejected or left; rows of earlier runs are counted separately."""
    several = [{"id": 1, "price": price} for price in range(5)] + [{"id": n, "price": n - 3} for n in range(2, 9)]
    settings: dict[str, Any] = {"SUPABASE_URL": proxy.url, "SUPABASE_REPORT": str(report)}
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    left = crawl({"items": several}, SUPABASE_CLOSE_TIMEOUT=0.2, **settings)
    assert tiles(report.read_text()) == {"Received": 12, "Uploaded": 0, "Rejected": 0, "Left": 12}
    assert left.counts("received", "superseded", "spooled") == (12, 0, 12)
    proxy.always = faults.passes
    done = crawl({"items": several}, **settings)
    assert done.counts("recovered", "recovered_superseded", "recovered_failed", "recovered_spooled") == (7, 4, 1, 0)
    expected = {"Received": 12, "Uploaded": 7, "Superseded": 4, "Rejected": 1, "Left": 0, "From earlier runs": 7}
    assert tiles(report.read_text()) == expected


@pytest.mark.parametrize("mode", ["asyncio", "select", "none"])
def test_a_crawl_that_went_well(crawl: Crawler, table: Sql, report: Path, mode: str) -> None:
    """In every mode of Scrapy, the crawl writes the page and the record in the spool, which the next crawl keeps."""
    done = crawl({"items": items(250)}, mode=mode, SUPABASE_REPORT=str(report))
    page = report.read_text()
    assert titles(page) == ["All 250 rows are in the table."]
    assert crawl.project.key not in page + (crawl.folder / "spool" / FILE).read_text()
    assert f"Report written to {report}" in done.log
    run = last(crawl)
    assert (run.reason, run.total.uploaded, run.latency.number) == ("finished", 250, 3)
    assert run.settings["SUPABASE_KEY"].startswith("hidden: ")
    assert run.ended is not None
    assert crawl({"items": []}).counts("recovered", "failed") == (0, 0)


def test_rejected_rows_are_shown_without_secrets(crawl: Crawler, table: Sql, report: Path) -> None:
    """Secrets are hidden, even if PostgreSQL's message quotes them."""
    bad = [{"id": 900, "price": -1, "token": "hunter2"}, {"id": "x y", "token": "hunter3"}]
    twice = [{"id": 901, "token": "hunter4"}, {"id": 902, "token": "hunter4"}]
    done = crawl({"items": [*items(20, price=1), *bad, *twice]}, SUPABASE_REPORT=str(report))
    assert done.counts("uploaded", "failed") == (21, 3), done.log
    page = report.read_text()
    assert titles(page) == ["3 rows were rejected; the other 21 are in the tables."]
    assert f"scrapy supabase replay --rejected {crawl.folder / 'spool'}" in page
    assert "violates check constraint" in page
    assert "Key (token)=(hidden) already exists." in page
    assert "hunter" not in page + (crawl.folder / "spool" / FILE).read_text()


def test_an_item_without_a_row_is_in_the_report(crawl: Crawler, table: Sql, report: Path) -> None:
    """A row that was rejected before it was in a chunk is listed, too."""
    crawl({"items": [{"id": 1}, {"zz": 1}]}, SUPABASE_REPORT=str(report))
    (kind,) = last(crawl).rejects
    assert (kind.code, kind.rows, kind.samples[0].row) == ("no_column", 1, {"zz": "1"})


def test_a_crawl_that_is_closed_before_its_first_page(crawl: Crawler, sql: Sql, report: Path) -> None:
    """The page has the reason, and the SQL that fixes it in a block of its own."""
    sql(TABLE)
    crawl({"items": items(3)}, SUPABASE_REPORT=str(report))
    page = report.read_text()
    assert titles(page)[0] == "The crawl was closed: supabase_permission_denied."
    assert ">GRANT select, insert, update ON public.t TO service_role;</pre>" in page


def test_a_crawl_that_is_closed_in_the_middle(
    crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site, report: Path
) -> None:
    """The page has the reason, the number of rows left, and the command that uploads them."""
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = faults.answers(540, "<h1>Project paused</h1>")
    plan = {"pages": 40, "site": site(pages(40))}
    done = crawl(plan, SUPABASE_URL=proxy.url, BATCH_CHUNK_SIZE=10, SUPABASE_REPORT=str(report))
    (left,) = done.counts("spooled")
    page = report.read_text()
    assert titles(page)[:2] == ["The crawl was closed: supabase_paused.", f"{left} rows are not uploaded."]
    assert f"scrapy supabase replay {crawl.folder / 'spool'}" in page


def test_an_outage_is_on_the_time_line(crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site, report: Path) -> None:
    """The page has start and length of the outage, and the retries before it; all rows are stored in the end."""
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = DOWN
    process = crawl.start({"pages": 300, "site": site(pages(300))}, SUPABASE_URL=proxy.url, SUPABASE_REPORT=str(report))
    assert eventually(lambda: "The server is unreachable" in crawl.log_of(process))
    proxy.always = faults.passes
    crawl.finish(process)
    run = last(crawl)
    assert (len(run.outages), run.outage_count) == (1, 1)
    assert 0 < run.outages[0].seconds == run.outage_seconds < run.seconds
    assert run.timeline.total("retries") > 0
    page = report.read_text()
    assert titles(page) == ["All 3,000 rows are in the table."]
    assert "The server was unreachable for" in page


def test_a_close_that_takes_too_long(crawl: Crawler, table: Sql, proxy: FaultProxy, report: Path) -> None:
    """`SUPABASE_CLOSE_TIMEOUT`."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.hangs
    crawl({"items": items(150)}, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=0.3, SUPABASE_REPORT=str(report))
    assert titles(report.read_text()) == ["150 rows are not uploaded."]


def test_control_c(crawl: Crawler, table: Sql, site: Site, proxy: FaultProxy, report: Path) -> None:
    """The page has the early end; all scraped rows are in the table."""
    plan = {"pages": 2000, "site": site(pages(2000))}
    process = crawl.start(plan, SUPABASE_URL=proxy.url, CONCURRENT_REQUESTS=4, SUPABASE_REPORT=str(report))
    assert eventually(lambda: len(proxy.seen) > 4)
    process.send_signal(signal.SIGINT)
    done = crawl.finish(process)
    (uploaded,) = done.counts("uploaded")
    assert titles(report.read_text()) == [
        f"All {uploaded:,} rows are in the table.",
        "The crawl was ended early (shutdown).",
    ]


def test_a_spider_that_raises(crawl: Crawler, table: Sql, site: Site, report: Path) -> None:
    """The page has both facts: the rows are in the table, and the spider raised."""
    url = site([[{"id": 1}], [{"_class": "Tag", "nonsense": 1}]])
    crawl({"pages": 2, "site": url}, SUPABASE_REPORT=str(report))
    assert titles(report.read_text()) == ["The only row is in its table.", "The spider raised 1 exception."]


def test_a_crawl_that_is_killed_and_the_command(
    crawl: Crawler,
    table: Sql,
    site: Site,
    proxy: FaultProxy,
    command: Callable[..., Any],  # noqa: F811
) -> None:
    """After `kill -9`, the page has the last known state, and that the run did not end."""
    plan = {"pages": 5000, "site": site(pages(5000))}
    process = crawl.start(plan, SUPABASE_URL=proxy.url, CONCURRENT_REQUESTS=4, DOWNLOAD_DELAY=0.005)
    file = crawl.folder / "spool" / FILE
    assert eventually(lambda: file.exists() and last(crawl).total.uploaded > 0, within=30)
    process.kill()
    crawl.finish(process, balanced=False)
    done = command("report", "page.html")
    assert (done.returncode, done.stdout) == (0, "page.html\n"), done.stderr
    page = (crawl.folder / "page.html").read_text()
    assert titles(page) == ["This run did not end."]
    assert "Rows that the server had not confirmed are in the spool" in page
    assert f"<dd>{last(crawl).total.uploaded:,}</dd>" in page
    assert command("replay").returncode == 0


def test_a_report_that_cannot_be_written_is_a_warning(crawl: Crawler, table: Sql, tmp_path: Path) -> None:
    """The warning has the file and the reason; the crawl ends as usual."""
    (tmp_path / "file").write_text("")
    done = crawl({"items": items(3)}, SUPABASE_REPORT=str(tmp_path / "file" / "report.html"))
    assert done.stats["finish_reason"] == "finished"
    assert done.log.count(f"Cannot write the record of this run to {tmp_path}/file/report.html: Not a directory") == 1
    assert done.log.count("WARNING") == 1


def test_a_report_into_a_pipe_does_not_block_the_crawl(crawl: Crawler, sql: Sql, table: Sql, tmp_path: Path) -> None:
    """A pipe without a reader or a loop of links causes a warning; the ledger's row is completed."""
    ledger = ledger_sql("t_runs")
    sql(f"{ledger}; notify pgrst, 'reload schema'")
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "last-run.json").symlink_to("last-run.json")
    os.mkfifo(tmp_path / "pipe.html")
    done = crawl({"items": items(3)}, SUPABASE_REPORT=str(tmp_path / "pipe.html"), SUPABASE_RUNS_TABLE="t_runs")
    assert done.counts("uploaded") == (3,)
    assert done.log.count("Cannot write the record of this run to ") == 2
    assert sql("select finish_reason, uploaded_count from t_runs") == [("finished", 3)]


def test_without_a_spool_there_is_only_the_page(crawl: Crawler, table: Sql, report: Path) -> None:
    """`SUPABASE_SPOOL_DIR = None`."""
    crawl({"items": [*items(3), {"id": "x"}]}, SUPABASE_SPOOL_DIR="@none", SUPABASE_REPORT=str(report))
    page = report.read_text()
    assert titles(page) == ["1 row was rejected; the other 3 are in the tables."]
    assert "There is no spool: it is in the crawl&#x27;s log" in page
    assert "replay" not in page


@pytest.mark.parametrize("value", ["", 5, ["report.html"], "."])
def test_a_wrong_setting_is_an_error(crawl: Crawler, table: Sql, value: Any) -> None:
    """It is in the list of wrong settings, with the allowed values."""
    done = crawl.finish(crawl.start({"items": items(1)}, SUPABASE_REPORT=value), balanced=False)
    assert "SUPABASE_REPORT is " in done.log
    assert 'it must be the path of a file, such as "report.html", or None.' in done.log


# The command


def test_the_command_writes_to_standard_output(
    crawl: Crawler,
    table: Sql,
    command: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    """`-` prints the page; `--spool` overrides the settings."""
    crawl({"items": items(3)})
    done = command("report", "-", "--spool", str(tmp_path / "spool"), SUPABASE_SPOOL_DIR="nowhere")
    assert titles(done.stdout) == ["All 3 rows are in the table."]
    assert done.stderr == ""
    assert not (tmp_path / "report.html").exists()


def test_the_command_without_a_run_is_an_error(command: Callable[..., Any], tmp_path: Path) -> None:  # noqa: F811
    """Each error has its remedy: no run yet, no folder, no spool, another version, a file that is not writable."""
    folder = tmp_path / "spool"
    folder.mkdir()
    for said, arguments in {
        f"There is no run record in {folder} yet. Crawl first": [],
        "nowhere is not a folder. Name a spool with --spool": ["--spool", "nowhere"],
    }.items():
        done = command("report", *arguments)
        assert done.returncode == 1
        assert f"scrapy supabase report: {said}" in done.stderr
    (folder / FILE).write_bytes(msgspec.json.encode(RUNS["good"]).replace(b'"format":1', b'"format":7'))
    assert f"{folder / FILE} has format 7" in command("report").stderr
    (folder / FILE).write_bytes(msgspec.json.encode(RUNS["good"]))
    assert "cannot be written: Is a directory. Name another file." in command("report", str(tmp_path)).stderr
    assert command("report").stdout == "report.html\n"


# What it says


def made(**more: Any) -> LastRun:
    """Return the record of a run that ended."""
    given: dict[str, Any] = {
        "run": "1a2b3c4d-0000-4000-8000-000000000000",
        "spider": "books",
        "project": "abc.supabase.co",
        "spool": ".scrapy/supabase",
        "started": "2026-11-24T21:56:03+00:00",
        "written": "2026-11-24T22:56:03+00:00",
        "ended": "2026-11-24T22:56:03+00:00",
        "reason": "finished",
        "seconds": 3600.0,
        "versions": {"scrapy-supabase": "0.1.0"},
        "settings": {"SUPABASE_SCHEMA": "public"},
    }
    return LastRun(**{**given, **more})


def lived(seconds: int, each: int = 100, *, rejected: int = 0, every: int = 1) -> dict[str, Any]:
    """Return the record of a run with a time line and latencies."""
    line, latency = Timeline(), Histogram()
    for second in range(0, seconds, every):
        line.add(second, uploaded=each, rejected=rejected, requests=2, retries=second % 7 == 0, errors=second % 5 == 0)
        latency.add(0.01 * (1 + second * 37 % 101))
    return {"timeline": line, "latency": latency, "seconds": float(seconds)}


HOSTILE = "</script></style><img src=x onerror=alert(1)>\"'&\x00\ud800"
RIGHT_TO_LEFT = "جدول الكتب \u202e(x)"
LONG = "a_very_long_name_" * 12


def crowded() -> LastRun:
    """Return the record of a long run with many tables and rejects, and hostile, long and right-to-left text."""
    names = [HOSTILE, RIGHT_TO_LEFT, LONG, *(f"table_{n}" for n in range(27))]
    tables = {name: Rows(100 * n + 10, 100 * n, 3, 5, 2, n, 1, 1) for n, name in enumerate(names)}
    words = [HOSTILE, RIGHT_TO_LEFT, LONG * 5]
    rejects = [
        Rejects(
            names[n % 30],
            f"2351{n}" if n else HOSTILE,
            60 - n,
            [
                Sample(
                    words[n % 3],
                    words[(n + 1) % 3],
                    HOSTILE,
                    {HOSTILE: HOSTILE, LONG: '"' + LONG * 2, "名前": RIGHT_TO_LEFT},
                )
            ],
        )
        for n in range(50)
    ]
    return made(
        spider=HOSTILE,
        project=LONG,
        reason=HOSTILE,
        spool=f"/{LONG}/{HOSTILE}",
        fatal=Fatal(HOSTILE, HOSTILE, f"Run: GRANT select ON {LONG} TO x; {HOSTILE}"),
        tables=tables,
        rejects=rejects,
        other_rejects=7,
        errors={HOSTILE: 5, LONG: 1},
        settings={HOSTILE: HOSTILE, "Table " + LONG: LONG},
        versions={HOSTILE: HOSTILE},
        crawl={"pages fetched": 9, "exceptions in the spider": 2},
        figures={"chunks": 10, "requests": 12, "bytes": 1e7, "waited": 3.0, "slowdowns": 2},
        outages=[Outage(60.0 * n, 20.0) for n in range(100)],
        outage_count=130,
        outage_seconds=2600.0,
        **lived(20_000, rejected=3),
    )


RUNS: dict[str, LastRun] = {
    "good": made(tables={"t": Rows(360_000, 360_000)}, figures={"chunks": 3600.0}, **lived(3600)),
    "empty": made(seconds=0.2),
    "one chunk": made(tables={"t": Rows(1, 1)}, **lived(1, 1)),
    "crowded": crowded(),
}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ["No rows were scraped."]),
        ({"tables": {"t": Rows(1, 1)}}, ["The only row is in its table."]),
        ({"tables": {"t": Rows(5, 5), "u": Rows(1, 1)}}, ["All 6 rows are in the tables."]),
        ({"tables": {"t": Rows(5, 3, 2)}}, ["All 5 rows are in the table."]),
        ({"tables": {"t": Rows(2000, 1999, rejected=1)}}, ["1 row was rejected; the other 1,999 are in the tables."]),
        ({"tables": {"t": Rows(1, rejected=1)}}, ["1 row was rejected."]),
        ({"tables": {"t": Rows(2, 1, left=1)}}, ["1 row is not uploaded."]),
        ({"tables": {"t": Rows(recovered=3)}}, ["No rows were scraped."]),
        ({"ended": None, "reason": None}, ["This run did not end."]),
        (
            {"reason": "closespider_timeout"},
            ["No rows were scraped.", "The crawl was ended early (closespider_timeout)."],
        ),
        (
            {"fatal": Fatal("supabase_paused", "http_540: x.", "y"), "reason": "supabase_paused"},
            ["The crawl was closed: supabase_paused."],
        ),
    ],
)
def test_the_verdict(more: dict[str, Any], said: list[str]) -> None:
    """The findings of a run, the worst first."""
    assert [finding.title for finding in findings(made(**more))] == said


def test_the_sql_of_a_remedy_can_be_copied() -> None:
    """SQL is a part of its own, between the text around it."""
    remedy = "Create it; if it is new: NOTIFY pgrst, 'reload schema'; Then run again."
    (finding,) = findings(made(fatal=Fatal("r", "w", remedy), reason="r"))
    assert finding.parts == ("w", "Create it; if it is new:", "NOTIFY pgrst, 'reload schema';", "Then run again.")
    assert [isinstance(part, Command) for part in finding.parts] == [False, False, True, False]


def test_numbers_are_human_readable() -> None:
    """Times, rates and sizes are human-readable."""
    times = [0.0004, 0.004, 0.25, 0.9999, 1.5, 59.97, 61, 3600, 5000, 100_000]
    said = ["0.4 ms", "4 ms", "250 ms", "1 s", "1.5 s", "1 min", "1 min 1 s", "1 h", "1 h 23 min", "1 d 3 h"]
    assert [duration(seconds).replace("\u00a0", " ") for seconds in times] == said
    assert [rate(*each) for each in ((0, 0), (12345, 1), (5, 2), (1, 40))] == ["0", "12,345", "2.5", "0.025"]
    assert [size(n).replace("\u00a0", " ") for n in (5, 2048, 5e7)] == ["5 B", "2.0 KiB", "48 MiB"]


def texts(chart: str, pattern: str) -> list[tuple[float, float, str]]:
    """Return (x, y, text) of the labels of the wide chart that match."""
    found = re.findall(
        r'<text x="([\d.-]+)" y="([\d.-]+)"[^>]*class="label[^>]*>([^<]*)</text>', chart.partition("</svg>")[0]
    )
    return [(float(x), float(y), text) for x, y, text in found if re.fullmatch(pattern, text)]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 9, 12, 25, 30, 55, 70, 99, 100, 450, 2_950, 31_000])
@pytest.mark.parametrize("every", [1, 10])
def test_the_levels_of_a_chart_are_where_they_belong(rows: int, every: int) -> None:
    """Each label is a value, and its height is in proportion to it: 0, 2 and 3 were equally far apart once."""
    line = Timeline(every)
    line.add(0, uploaded=rows)
    chart = charts.over_time(made(timeline=line, seconds=60.0))
    levels = [(y - 4, float(text.replace(",", ""))) for _, y, text in texts(chart, r"[\d,.e-]+")]
    (zero, none), *others = levels
    assert none == 0
    assert 2 <= len(others) <= 4
    each = {round((zero - y) / value * others[-1][1], 1) for y, value in others}
    assert len(each) == 1, levels  # pixels of the highest level
    assert others[-1][1] >= rows / every * 0.999


@pytest.mark.parametrize("number", [1, 2, 3, 5, 40])
def test_chunks_are_counted_in_whole_numbers(number: int) -> None:
    """There is no half chunk."""
    latency = Histogram()
    for _ in range(number):
        latency.add(0.3)
    levels = [text for *_, text in texts(charts.latency(latency), r"[\d,.e-]+")]
    assert len(levels) >= 2
    assert all(text.replace(",", "").isdigit() for text in levels), levels


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [(5, "s"), (90, "s"), (121, "min"), (400, "min"), (7_000, "min"), (7_300, "h"), (90_000, "h"), (400_000, "d")],
)
def test_an_axis_has_one_unit(seconds: float, unit: str) -> None:
    """Times are in the unit that suits the length of the run, and in their place."""
    line = Timeline(max(1.0, seconds / 500))
    line.add(0, uploaded=5)
    chart = charts.over_time(made(timeline=line, seconds=float(seconds)))
    labels = texts(chart, r".*\u00a0.*")
    assert len(labels) >= 2
    assert {text.partition("\u00a0")[2] for *_, text in labels} == {unit}
    values = [(x - 52, float(text.partition("\u00a0")[0])) for x, _, text in labels]
    assert len({round(x / value, 0) for x, value in values}) == 1, values


@pytest.mark.parametrize(("seconds", "unit"), [((0.002, 0.03, 0.9), "ms"), ((0.002, 0.5, 40.0), "s"), ((200.0,), "s")])
def test_the_latency_axis_has_one_unit(seconds: tuple[float, ...], unit: str) -> None:
    """The quantiles are in the same one."""
    latency = Histogram()
    for one in seconds:
        latency.add(one)
    labels = texts(charts.latency(latency), r".*\u00a0.*")
    assert {text.rpartition("\u00a0")[2] for *_, text in labels} == {unit}
    assert len([text for *_, text in labels if text.startswith("p")]) == 3


def test_every_text_is_escaped() -> None:
    """Text is escaped in elements and attributes; characters that HTML forbids are replaced."""
    assert tag("p", HOSTILE, title=HOSTILE, class_=None) == (
        '<p title="&lt;/script&gt;&lt;/style&gt;&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;\ufffd\ufffd">'
        "&lt;/script&gt;&lt;/style&gt;&lt;img src=x onerror=alert(1)&gt;&quot;&#x27;&amp;\ufffd\ufffd</p>"
    )
    page = page_of(crowded())
    assert "<img" not in page
    assert "<script" not in page
    assert page.count("</style>") == 1


# Looked at

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"width": 1024},
    "dark": {"width": 1024, "dark": True},
    "phone": {"width": 360},
    "dark phone": {"width": 360, "dark": True},
}

# Of every element that shows text of its own: the contrast of its colour on what is behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """() => {
  const parsed = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parsed(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  for (const element of document.querySelectorAll("body, body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility({checkOpacity: true, checkVisibilityCSS: true})) continue;
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height || element.closest("title")) continue;
    const style = getComputedStyle(element), below = behind(element);
    const inSvg = element.namespaceURI.endsWith("svg");
    const colour = over(parsed(inSvg ? style.fill : style.color), below);
    const [a, b] = [luminance(colour), luminance(below)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.tagName, element.textContent.slice(0, 40)]);
  }
  return found;
}"""


@pytest.fixture
def looked_at(browser: Browser, tmp_path: Path) -> Any:
    """Open the report of a run in a browser with one of `LOOKS`."""

    def look(run: LastRun, look: str) -> Any:
        file = tmp_path / "report.html"
        file.write_bytes(page_of(run).encode("utf-8", "replace"))
        return browser.look_at(file, **LOOKS[look])

    return look


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", RUNS)
def test_a_page_in_a_browser(looked_at: Any, name: str, look: str) -> None:
    """The page has no console messages, no requests, no overflow, readable text, and is not blank."""
    with looked_at(RUNS[name], look) as seen:
        opened = seen.page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert opened is None
        assert seen.said == []
        assert seen.asked_for == [seen.page.url]
        wide = seen.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert wide[0] <= wide[1] == LOOKS[look]["width"]
        contrasts = seen.page.evaluate(CONTRASTS)
        assert len(contrasts) > 15
        assert min(contrasts)[0] >= 4.5, min(contrasts)
        check_charts(seen, 0 if name == "empty" else 2)
        background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(14, 17, 22)") is ("dark" in look)
        assert colours(seen.page.screenshot()) > 20


def check_charts(seen: Seen, number: int) -> None:
    """Check that visible charts have a size, an alternative text, and no text outside of the picture."""
    pictures = seen.page.locator("svg[role=img]:visible")
    in_charts = seen.page.locator(".chart svg:visible")
    assert in_charts.count() == number
    for chart in pictures.all():
        assert chart.get_attribute("aria-label")
    for chart in in_charts.all():
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] > 250
        assert box["height"] > 120
        sizes = chart.evaluate("c => [...c.querySelectorAll('text')].map(t => t.getBoundingClientRect().height)")
        assert min(sizes) > 11
        outside = chart.evaluate(
            "c => { const b = c.getBoundingClientRect(); return [...c.querySelectorAll('text')].filter(t => {"
            " const r = t.getBoundingClientRect(); return r.left < b.left - 1 || r.right > b.right + 1; })"
            ".map(t => t.textContent) }"
        )
        assert outside == []


def colours(png: bytes) -> int:
    """Return the number of different bytes in a picture; a blank one has few."""
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        at += length + 12
    return len(set(zlib.decompress(data)))


def test_the_page_is_accessible_to_screen_readers(looked_at: Any) -> None:
    """The page has a language, a title, one main heading, no skipped heading level, and headers with a scope."""
    with looked_at(RUNS["crowded"], "light") as seen:
        page = seen.page
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.title()
        levels = page.locator("h1, h2, h3").evaluate_all("all => all.map(h => Number(h.tagName[1]))")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))
        assert page.locator("th:not([scope])").count() == 0
        assert page.locator("main").count() == 1


def test_hostile_text_is_text(looked_at: Any) -> None:
    """The security policy is in force, and hostile text causes no violation."""
    with looked_at(RUNS["crowded"], "light") as seen:
        assert seen.page.locator("img, script, iframe, object, link").count() == 0
        policy = seen.page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
        assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
        assert seen.page.locator("h1").inner_text().startswith("</script></style><img src=x")


def test_the_rejects_are_unfolded_on_paper(looked_at: Any) -> None:
    """Sections that are collapsed on screen are printed."""
    with looked_at(RUNS["crowded"], "light") as seen:
        sample = seen.page.locator(".sample").nth(5)
        assert not sample.is_visible()
        seen.page.emulate_media(media="print")
        assert sample.evaluate("s => s.getBoundingClientRect().height") > 20


def test_the_report_of_a_real_crawl_in_a_browser(crawl: Crawler, table: Sql, report: Path, browser: Browser) -> None:
    """The report of a crawl opens in a browser."""
    crawl({"items": [*items(300), {"id": "x"}]}, SUPABASE_REPORT=str(report))
    with browser.look_at(report) as seen:
        assert seen.said == []
        assert seen.page.get_by_role("heading", level=1).inner_text().startswith("test0")
        assert seen.page.get_by_role("heading", name="1 row was rejected").is_visible()
        assert seen.page.get_by_role("img", name="How long 4 chunks took").count() == 1


def test_the_series_can_be_seen_on_either_surface() -> None:
    """The contrast is at least 3:1 (WCAG 2.2, 1.4.11)."""
    style = (Path(page_of.__code__.co_filename).parent / "style.css").read_text()

    def luminance(name: str, which: int) -> float:
        found = re.findall(rf"--{name}: #([0-9a-f]{{6}})", style)[which]
        channels = [int(found[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for series in ("uploaded", "rejected", "retries", "good"):
        for which in (0, 1):
            light, dark = sorted((luminance(series, 0), luminance("surface", which)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 3, (series, which)
