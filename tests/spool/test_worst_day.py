"""Everything fails at once: the disk is full, the server is away, and somebody stops the crawl. No row is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST, Crawl, Crawler
from tests.monitoring.test_snapshots import LEDGER
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]
TABLE = "create table t (id bigint primary key, title text, n int); grant all on t to service_role"
DOWN = faults.answers(503, "<h1>down</h1>")
LOGGED = re.compile(r'Not stored in table t \(not_kept\): .* The row: {"id":(\d+),"title":"(x+)"}')


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql(TABLE)
    return sql


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of the given number of bytes."""
    mount = shutil.which("mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    command = [mount, "-t", "tmpfs", "-o", f"size={request.param}", "none", str(folder)]
    tried = subprocess.run(command, check=False, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no disk can be mounted here: {tried.stderr}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def pages(number: int, size: int) -> list[list[dict[str, Any]]]:
    """Pages of ten items each, with `size` characters."""
    return [[{"id": page * 10 + n, "title": "x" * size} for n in range(10)] for page in range(number)]


def witnessed(path: Path) -> set[int]:
    """Return the ids of the items that reached the pipelines."""
    return {int(line.split()[0]) for line in path.read_text().splitlines()}


def in_files(folder: Path) -> set[int]:
    """Return the ids of the rows in the spool."""
    found = set()
    for path in folder.glob("*/*.jsonl"):
        for line in path.read_bytes().replace(b"\0", b"").split(b"\n")[1:-1]:
            found.add(json.loads(line)["id"])
    return found


def logged(log: str, size: int) -> list[int]:
    """Return the ids of the rows that are complete in the log."""
    return [int(number) for number, title in LOGGED.findall(log) if len(title) == size]


def stop(crawl: Crawler, process: Any, how: str) -> Crawl:
    """Stop a crawl."""
    first = signal.SIGTERM if how == "SIGTERM" else signal.SIGINT
    process.send_signal(first)
    if how == "two Ctrl-C":
        assert eventually(lambda: "shutting down gracefully" in crawl.log_of(process))
        process.send_signal(signal.SIGINT)
    done = crawl.finish(process, balanced=how != "two Ctrl-C")
    assert "Traceback" not in done.log, done.log
    return done


def check_that_no_row_is_lost(
    crawl: Crawler, table: Sql, proxy: FaultProxy, done: Crawl, spool: Path, seen: set[int], size: int
) -> None:
    """Check that each scraped row is in the table, a file or the log, and that rows in files are stored later."""
    kept, lost = in_files(spool), logged(done.log, size)
    stored = {row[0] for row in table("select id from t")}
    assert len(lost) == len(set(lost))
    assert seen == stored | kept | set(lost), (sorted(seen - stored - kept - set(lost)), done.log)
    assert not stored & set(lost)
    assert not kept & set(lost)
    assert kept
    assert ("The log above has each of them." in done.log) == bool(lost)
    proxy.always = faults.passes
    again = crawl({"items": []}, SUPABASE_URL=proxy.url, SUPABASE_SPOOL_DIR=str(spool))
    assert {row[0] for row in table("select id from t")} == seen - set(lost), again.log
    assert not in_files(spool)


STOPS = ["one Ctrl-C", "two Ctrl-C", "SIGTERM"]


@pytest.mark.parametrize("small_disk", ["200k", "1500k"], indirect=True)
@pytest.mark.parametrize("how", STOPS)
def test_the_disk_is_full_the_server_is_away_and_the_crawl_is_stopped(
    crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site, tmp_path: Path, small_disk: Path, how: str
) -> None:
    """Items wait because the spool is full. No scraped row is lost, and the process ends in time."""
    size = 2000
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = DOWN
    process = crawl.start(
        {"pages": 300, "site": site(pages(300, size))},
        CONCURRENT_REQUESTS=4,
        WITNESS=str(tmp_path / "witness"),
        ITEM_PIPELINES={"tests.crawl.Witness": 250, "scrapy_supabase.SupabasePipeline": 300},
        LOG_LEVEL="INFO",
        SUPABASE_URL=proxy.url,
        SUPABASE_SPOOL_DIR=str(small_disk / "spool"),
        SUPABASE_CLOSE_TIMEOUT=1,
        BATCH_CHUNK_SIZE=30,
    )
    assert eventually(lambda: "cannot be written: No space left" in crawl.log_of(process), 30)
    done = stop(crawl, process, how)
    seen = witnessed(tmp_path / "witness")
    check_that_no_row_is_lost(crawl, table, proxy, done, small_disk / "spool", seen, size)


@pytest.mark.parametrize("how", STOPS)
@pytest.mark.parametrize("file_size", [5_000, 40_000])
def test_files_cannot_grow_the_server_is_away_and_the_crawl_is_stopped(
    crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site, tmp_path: Path, how: str, file_size: int
) -> None:
    """The same with a limit on file size: only the first rows of each chunk are in its file."""
    size = 2000
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = DOWN
    process = crawl.start(
        {"pages": 300, "site": site(pages(300, size))},
        file_size=file_size,
        CONCURRENT_REQUESTS=4,
        WITNESS=str(tmp_path / "witness"),
        ITEM_PIPELINES={"tests.crawl.Witness": 250, "scrapy_supabase.SupabasePipeline": 300},
        LOG_LEVEL="INFO",
        SUPABASE_URL=proxy.url,
        SUPABASE_CLOSE_TIMEOUT=1,
        BATCH_CHUNK_SIZE=30,
    )
    assert eventually(lambda: "cannot be written" in crawl.log_of(process), 30)
    # The first chunk is uploaded. Of the next one, the rows that do not fit into a file are in memory only.
    assert eventually(lambda: len(witnessed(tmp_path / "witness")) >= 60, 30)
    done = stop(crawl, process, how)
    assert "(not_kept)" in done.log
    check_that_no_row_is_lost(crawl, table, proxy, done, crawl.folder / "spool", witnessed(tmp_path / "witness"), size)


WAITS: dict[str, dict[str, Any]] = {
    "no spool": {"SUPABASE_SPOOL_DIR": "@none"},
    "SUPABASE_SPOOL_MAX_BYTES": {"SUPABASE_SPOOL_MAX_BYTES": 20_000},
    "full disk": {"file_size": 15_000},
}


@pytest.mark.parametrize(
    ("why", "away", "mode", "version"),
    [
        ("no spool", "down", "asyncio", "newest"),
        ("no spool", "silent", "none", "newest"),
        ("SUPABASE_SPOOL_MAX_BYTES", "down", "select", "newest"),
        ("SUPABASE_SPOOL_MAX_BYTES", "silent", "asyncio", "oldest"),
        ("full disk", "down", "none", "newest"),
        ("full disk", "silent", "select", "newest"),
    ],
)
def test_one_control_c_is_enough_while_items_wait(
    crawl: Crawler, table: Sql, proxy: FaultProxy, site: Site, why: str, away: str, mode: str, version: str
) -> None:
    """The crawl ends `SUPABASE_CLOSE_TIMEOUT` later; the log names the wait and the place of each row."""
    size, count, timeout = 2000, 100, 2.0
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = DOWN if away == "down" else faults.hangs
    witness = crawl.folder / "witness"
    process = crawl.start(
        {"pages": count, "site": site(pages(count, size))},
        mode=mode,
        python=str(OLDEST) if version == "oldest" else sys.executable,
        **WAITS[why],
        WITNESS=str(witness),
        ITEM_PIPELINES={"tests.crawl.Witness": 250, "scrapy_supabase.SupabasePipeline": 300},
        LOG_LEVEL="INFO",
        SUPABASE_URL=proxy.url,
        SUPABASE_CLOSE_TIMEOUT=timeout,
        BATCH_CHUNK_SIZE=10,
    )

    # Scrapy has room for all of the pages, so all of their items come, and wait.
    assert eventually(lambda: witness.exists() and len(witnessed(witness)) == 10 * count, 30), crawl.log_of(process)
    stopped = time.monotonic()
    process.send_signal(signal.SIGINT)
    done = crawl.finish(process)
    took = time.monotonic() - stopped
    assert done.log.count("The crawl is closing, so items no longer wait for uploads.") == 1, done.log
    assert took < timeout + 6, done.log  # the pipeline looks once a second; and a process on a busy machine has to end
    assert "Traceback" not in done.log, done.log
    lost = set(logged(done.log, size))
    kept = set() if why == "no spool" else in_files(crawl.folder / "spool")
    stored = {row[0] for row in table("select id from t")}
    assert stored | kept | lost == set(range(10 * count))
    assert len(stored) + len(kept) + len(lost) == 10 * count
    assert bool(lost) == (why != "SUPABASE_SPOOL_MAX_BYTES")


def test_a_ledger_that_does_not_answer_does_not_hold_the_close_up(
    crawl: Crawler, table: Sql, proxy: FaultProxy
) -> None:
    """The row of the run has the rest of `SUPABASE_CLOSE_TIMEOUT`, at least two seconds."""
    table(LEDGER)

    def silent_at_the_end(exchange: faults.Exchange) -> None:
        is_last = b"finished_at" in exchange.body or exchange.body.startswith(b'[{"id"')
        (faults.hangs if is_last else faults.passes)(exchange)

    proxy.always = silent_at_the_end
    done = crawl(
        {"items": [{"id": 1}]}, SUPABASE_URL=proxy.url, SUPABASE_RUNS_TABLE="t_runs", SUPABASE_CLOSE_TIMEOUT=0.5
    )
    assert done.counts("spooled") == (1,)
    assert "The end of the run was not written to table t_runs (SUPABASE_RUNS_TABLE)" in done.log
    assert ": no answer for 2 s. The items' rows are not affected." in done.log
    assert done.stats["elapsed_time_seconds"] < 10
    assert "Traceback" not in done.log
    assert table("select count(*), count(finished_at) from t_runs") == [(1, 0)]


@pytest.mark.parametrize("spool", ["spool", None])
def test_a_crawl_that_changes_its_folder_keeps_its_rows(
    crawl: Crawler, table: Sql, proxy: FaultProxy, tmp_path: Path, spool: str | None
) -> None:
    """Paths are those of the start: Scrapyd runs crawls where there is no project, spiders may change folder."""
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = DOWN
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    done = crawl(
        {"items": [{"id": number} for number in range(30)], "to": str(after)},
        cwd=before,
        BATCH_CHUNK_SIZE=10,
        SUPABASE_SPOOL_DIR=spool,
        SUPABASE_REPORT="reports/report.html",
        SUPABASE_URL=proxy.url,
        SUPABASE_CLOSE_TIMEOUT=0.5,
    )
    folder = before / (spool or ".scrapy/supabase")
    assert in_files(folder) == set(range(30))
    assert f"Not uploaded: 30 rows, kept in {folder} for the next crawl." in done.log
    assert (before / "reports" / "report.html").exists()
    assert json.loads((folder / "last-run.json").read_bytes())["spool"] == str(folder)
    assert not list(after.iterdir())
    assert "cannot be" not in done.log
    proxy.always = faults.passes
    crawl({"items": []}, SUPABASE_URL=proxy.url, SUPABASE_SPOOL_DIR=str(folder))
    assert table("select count(*) from t") == [(30,)]
