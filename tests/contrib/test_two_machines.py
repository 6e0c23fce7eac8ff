"""Two machines: a project folder, a home and a spool each, one database, one Redis.

What happens to rows of one machine in its own spool is tested in tests/schema/test_newest.py, too.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.schema.ddl import newest_sql
from scrapy_supabase.spool.later_runs import notes_for_replay
from scrapy_supabase.spool.run_folders import RunNote, note_run
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawl, Crawler
from tests.fix_project import Project
from tests.fix_redis import Fleet, Site, Worker
from tests.polling import eventually
from tests.test_messages_commands import Command, host, leave

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = "create table t (id bigint primary key, title text, seen timestamptz); grant all on t to service_role"


@dataclass(frozen=True)
class Machine:
    """A folder with a project of its own, which is the home of its user."""

    folder: Path
    crawler: Crawler
    command: Command
    chdir: Callable[[Path], None]

    @property
    def spool(self) -> Path:
        """Where a project without `SUPABASE_SPOOL_DIR` has its spool."""
        return self.folder / ".scrapy" / "supabase"

    @property
    def kept(self) -> set[int]:
        """The ids of the rows in the spool."""
        lines = [line for path in self.spool.glob("*/*.jsonl") for line in path.read_bytes().split(b"\n")]
        rows = [json.loads(text) for line in lines if (text := line.strip(b"\0"))]
        return {row["id"] for row in rows if "format" not in row}

    def start(self, *items: dict[str, Any], **settings: Any) -> Any:
        """Start a crawl."""
        return self.crawler.start(
            {"items": list(items)}, **{"SUPABASE_SPOOL_DIR": None, "cwd": self.folder, **settings}
        )

    def crawl(self, *items: dict[str, Any], **settings: Any) -> Crawl:
        """Crawl."""
        return self.crawler.finish(self.start(*items, **settings), balanced=False)

    def run(self, *arguments: str, text: bytes = b"", **settings: Any) -> str:
        """Run `scrapy supabase …`."""
        self.chdir(self.folder)
        said = self.command(*arguments, text=text, SUPABASE_SPOOL_DIR=str(self.spool), **settings)
        return "\n".join(said)


@pytest.fixture
def machines(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[Machine, Machine]:
    """Machines `a` and `b`."""
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_DB_URL"):
        monkeypatch.delenv(name, raising=False)

    def made(name: str) -> Machine:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "scrapy.cfg").write_text("[settings]\ndefault = shop.settings\n")
        return Machine(folder, Crawler(folder, project), Command(project, folder, capsys), monkeypatch.chdir)

    return made("a"), made("b")


def item(number: int, title: str) -> dict[str, Any]:
    """An item without its time, which is a stamp."""
    return {"id": number, "title": title}


def test_both_start_at_once_and_get_versions_of_their_own(machines: tuple[Machine, Machine], snapshots: Sql) -> None:
    """The database gives out the versions."""
    columns = "snapshot_date date, snapshot_version int, id int, title text"
    snapshots(f"create table t ({columns}, primary key (snapshot_date, snapshot_version, id))")
    snapshots("grant all on t to service_role")
    running = [machine.start(item(1, machine.folder.name), SUPABASE_DAILY_SNAPSHOTS=True) for machine in machines]
    for machine, process in zip(machines, running, strict=True):
        assert machine.crawler.finish(process).counts("uploaded") == (1,)
    assert snapshots("select snapshot_version from t order by 1") == [(1,), (2,)]
    assert snapshots("select title from t order by 1") == [("a",), ("b",)]


STAMPED = {"SUPABASE_STAMPS": {"seen": "now"}}


def test_rows_of_a_dead_machine_are_replayed_on_another(
    machines: tuple[Machine, Machine], sql: Sql, proxy: FaultProxy
) -> None:
    """As they were scraped, whatever the settings there; and when its disk comes back, the newest rows stay."""
    a, b = machines
    sql(f"{TABLE}; create table t_b (id bigint); {newest_sql('t', 'seen')}; notify pgrst, 'reload schema'")
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.hangs
    process = a.start(*(item(n, "old") for n in (1, 2, 3)), SUPABASE_URL=proxy.url, **STAMPED)
    assert eventually(lambda: len(proxy.seen) > 2, 60), a.crawler.log_of(process)
    process.send_signal(signal.SIGKILL)
    with suppress(AssertionError):
        a.crawler.finish(process, balanced=False)
    assert a.kept == {1, 2, 3}
    proxy.always = faults.passes
    shutil.copytree(a.spool, b.folder / "of-a")

    others: dict[str, Any] = {"SUPABASE_TABLE": "t_b", "SUPABASE_MODE": "insert", "SUPABASE_ON_CONFLICT": "title"}
    listed = b.run("replay", "--dry-run", "of-a", SUPABASE_URL=proxy.url)
    (run,) = [path.name for path in (b.folder / "of-a").iterdir() if path.is_dir()]
    assert f"| {run[-8:]} | test0  | t     | upsert | id  | left  |      | 3" in listed
    # The host of the same project has another name here.
    said = b.run("replay", "of-a", **others)
    assert f"Skipped: 3 rows of another project, {host(proxy.url)}" in said
    said = b.run("replay", "--project", host(proxy.url), "of-a", **others)
    assert "3 rows uploaded, 0 rejected, 0 left" in said
    assert sql("select id, title from t order by id") == [(1, "old"), (2, "old"), (3, "old")]
    assert "Nothing to upload" in b.run("replay", "of-a", SUPABASE_URL=proxy.url)
    b.run("load", "-", "--table", "t", text=b'{"id": 1, "title": "new", "seen": "2200-01-01T00:00:00Z"}')

    done = a.crawl(SUPABASE_URL=proxy.url, **STAMPED)
    assert done.counts("recovered", "recovered_failed", "recovered_outdated") == (3, 0, 0), done.log
    assert sql("select id, title from t order by id") == [(1, "new"), (2, "old"), (3, "old")]
    assert a.kept == set()


def test_replay_asks_if_this_machine_has_stored_newer_rows(
    machines: tuple[Machine, Machine], sql: Sql, project: Project
) -> None:
    """The copy does not know of the runs of this machine; the machine's own spool does."""
    _, b = machines
    sql(TABLE)
    b.run("load", "-", "--table", "t", text=b'{"id": 1, "title": "new"}')
    # Scraped a moment later, by the clock of another machine.
    leave(b.folder / "of-a", host(project.url), item(1, "old"), item(2, "old"))
    said = b.run("replay", "of-a")
    assert b.command.code == 1
    assert "Nothing was uploaded: 2 rows for table t may be older than the stored rows" in said
    assert "2 rows uploaded" in b.run("replay", "--mode", "ignore", "of-a")
    assert sql("select id, title from t order by id") == [(1, "new"), (2, "old")]


def test_notes_of_two_spools(tmp_path: Path) -> None:
    """Those of this machine count for ten minutes more, unless the copy is its own."""
    copy, own = tmp_path / "copy", tmp_path / "own"
    copy.mkdir()
    own.mkdir()
    time_of = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
    for folder, run in ((copy, "a"), (own, "a"), (own, "b")):
        note_run(folder, run, "p", ("t",), time_of.isoformat())
    note_run(own, "c", "p", ("t",), "in the morning")
    later = (time_of + timedelta(minutes=10)).isoformat(timespec="microseconds")
    mine = RunNote("a", time_of.isoformat(), "p", ("t",))
    assert notes_for_replay(copy, None) == notes_for_replay(copy, copy) == [mine]
    found = notes_for_replay(copy, own)
    assert found == [mine, RunNote("b", later, "p", ("t",)), RunNote("c", "in the morning", "p", ("t",))]


def test_a_machine_dies_with_leased_requests(
    machines: tuple[Machine, Machine], fleet: Fleet, pages: Site, project: Project, sql: Sql
) -> None:
    """The other one takes its requests; its rows wait in its spool until it is back. Together they are all."""
    a, b = machines
    sql("create table t (id int primary key, title text, url text, run_id text); grant all on t to service_role")
    # Without a guard, the worker that ends last would delete the rows of the others.
    unseen = {"stamps": {"run_id": "run_id"}, "unseen": {"delete": True, "at_most": 1.0}}
    first = pages.tree(20, items=2, quick=True)
    everything = {(n, f"t{n // 2}") for n in range(40)}

    def start(machine: Machine, **settings: Any) -> Worker:
        return fleet.start(
            plan={"start": [first]},
            SCHEDULER_PERSIST=True,
            ITEM_PIPELINES={"tests.redis_crawl.Witness": 100, "scrapy_supabase.SupabasePipeline": 300},
            SUPABASE_URL=project.url,
            SUPABASE_KEY=project.key,
            SUPABASE_TABLES={"*": {"table": "t", **unseen}},
            home=machine.folder,
            **settings,
        )

    killed = start(a, DOWNLOAD_DELAY=0.1, CONCURRENT_REQUESTS=4, BATCH_FLUSH_INTERVAL=600, BATCH_CHUNK_SIZE=1000)
    assert eventually(lambda: len(fleet.witnessed) > 8 and sum(fleet.server.leases().values()) > 1, 30), killed.log
    killed.kill()
    leased = sum(fleet.server.leases().values())
    kept = a.kept
    assert kept
    other = start(b)
    log = other.end()
    assert other.counts("given_back") == (leased,), log
    stored = set(sql("select id, title from t"))
    assert stored < everything
    assert stored | {(n, f"t{n // 2}") for n in kept} == everything
    back = start(a)
    log = back.end()
    assert back.stats["supabase/recovered_count"] == len(kept), log
    assert "it shared its requests with other workers (Redis)" in other.log
    assert set(sql("select id, title from t")) == everything
    assert a.kept == b.kept == set()
