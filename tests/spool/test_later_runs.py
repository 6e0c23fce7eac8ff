"""Rows that a dead run left never replace what a later run stored: crawl, `check` and `replay` apply one rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.models import Chunk, Mode, Outcome, Row
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool.chunk_file import Header
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.later_runs import LaterRuns
from scrapy_supabase.spool.run_folders import RunFolder, RunNote, runs_noted
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawl, Crawler
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = "create table t (id bigint primary key, n int); grant all on t to service_role"
WARNING = "5 rows for table t in {spool} may be older than the stored rows: a later run stored rows in the same table"


def items(*numbers: int, n: int) -> list[dict[str, Any]]:
    """Items of these ids, of version `n`."""
    return [{"id": number, "n": n} for number in numbers]


def killed_while_it_uploads(crawl: Crawler, proxy: FaultProxy, while_alive: Callable[[], object] = int) -> None:
    """Start a crawl of ids 0 to 4 whose server hangs, call `while_alive`, then kill the crawl."""
    before = len(proxy.seen)
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.hangs
    process = crawl.start({"items": items(*range(5), n=1)}, SUPABASE_URL=proxy.url)
    assert eventually(lambda: len(proxy.seen) > before + 2), crawl.log_of(process)
    proxy.always = faults.passes
    while_alive()
    process.kill()
    with suppress(AssertionError):
        crawl.finish(process, balanced=False)


@contextmanager
def locked(spool: Path) -> Iterator[None]:
    """Hold the folder of the only run in a spool, as a run that is alive does."""
    (path,) = [path for path in spool.iterdir() if path.is_dir()]
    folder = RunFolder.adopt(path)
    assert folder is not None
    yield
    folder.release()


@pytest.mark.parametrize("meanwhile", ["its folder was locked", "it was alive"])
def test_a_crawl_leaves_rows_that_may_be_older(
    crawl: Crawler, sql: Sql, proxy: FaultProxy, tmp_path: Path, meanwhile: str
) -> None:
    """The second of three runs could not adopt the first one's rows; the third leaves them and logs a warning."""
    sql(TABLE)

    def later() -> None:
        done = crawl({"items": items(0, 1, n=2)}, SUPABASE_URL=proxy.url)
        assert done.counts("uploaded", "recovered") == (2, 0), done.log

    if meanwhile == "it was alive":
        killed_while_it_uploads(crawl, proxy, while_alive=later)
    else:
        killed_while_it_uploads(crawl, proxy)
        with locked(tmp_path / "spool"):
            later()
    before = [path.read_bytes() for path in (tmp_path / "spool").glob("*/*.jsonl")]
    done = crawl({"items": items(7, n=3)}, SUPABASE_URL=proxy.url)
    assert sql("select id, n from t order by id") == [(0, 2), (1, 2), (7, 3)]
    check_left(done, tmp_path / "spool")
    assert [path.read_bytes().rstrip(b"\0") for path in done.spooled] == [data.rstrip(b"\0") for data in before]
    assert crawl({"items": []}, SUPABASE_URL=proxy.url).counts("recovered", "recovered_outdated") == (0, 5)


def check_left(done: Crawl, spool: Path) -> None:
    """One WARNING with both commands; counted apart from what the next crawl uploads."""
    assert done.counts("recovered", "recovered_spooled", "recovered_outdated", "spooled") == (0, 0, 5, 0), done.log
    assert done.stats["supabase/recovered_outdated_count/t"] == 5
    (said,) = [line for line in done.log.splitlines() if "WARNING: Not uploaded" in line]
    assert WARNING.format(spool=spool) in said
    assert f"scrapy supabase replay --mode upsert {spool}" in said
    assert f"scrapy supabase replay --mode ignore {spool}" in said
    assert "for the next crawl" not in done.log


def test_rows_of_other_tables_are_uploaded(crawl: Crawler, sql: Sql, proxy: FaultProxy, tmp_path: Path) -> None:
    """Only chunks of a table in which a later run stored rows stay."""
    sql(TABLE + "; create table t_b (id bigint primary key, label text); grant all on t_b to service_role")
    tables: dict[str, Any] = {"*": "t", "tests.crawl.Tag": {"table": "t_b"}}
    mixed = {"SUPABASE_URL": proxy.url, "SUPABASE_TABLE": None, "SUPABASE_TABLES": tables}
    proxy.faults.extend([faults.passes] * 3)
    proxy.always = faults.answers(503, "<h1>down</h1>")
    plan = {"items": [*items(1, n=1), {"_class": "Tag", "id": 9, "label": "x"}]}
    assert crawl(plan, SUPABASE_CLOSE_TIMEOUT=0.2, **mixed).counts("spooled") == (2,)
    proxy.always = faults.passes
    with locked(tmp_path / "spool"):
        crawl({"items": items(1, n=2)}, SUPABASE_URL=proxy.url)
    done = crawl({"items": []}, **mixed)
    assert done.counts("recovered", "recovered_outdated") == (1, 1), done.log
    assert (sql("select n from t"), sql("select label from t_b")) == ([(2,)], [("x",)])


HEADER = Header(
    format=1,
    table="t",
    columns=("id",),
    mode=Mode.UPSERT,
    on_conflict=(),
    key=("id",),
    opened="5",
    project="p",
    run="a",
)


def later(note: RunNote, target: str = "p", **header: Any) -> bool:
    """Return whether a chunk may replace newer rows, given the note of a run."""
    fields = {name: getattr(HEADER, name) for name in HEADER.__struct_fields__}
    return LaterRuns([note], target).may_replace_newer(Header(**{**fields, **header}))


def test_the_rule() -> None:
    """It needs a later run, the same project and table, and an upsert by a key."""
    note = RunNote("b", "6", "p", ("t_x", "t"))
    assert later(note)
    assert later(note, opened="6")
    assert not later(note, opened="7")
    assert not later(note, run="b")
    assert not later(note, "q", project="q")
    assert later(note, "p", project="q")  # rows of q are uploaded to p
    assert not later(note, table="t_y")
    assert not later(note, key=())
    assert not later(note, mode=Mode.INSERT)
    assert not later(note, mode=Mode.IGNORE)
    assert LaterRuns([RunNote("a", "7", "p", ("t",)), note], "p").may_replace_newer(HEADER)


def spool(folder: Path, run: str) -> DiskSpool:
    """The spool of a run."""
    return DiskSpool(folder, run, Schema({"t": TableSpec("t", on_conflict=("id",))}), {"run": run, "project": "p"})


def chunk_in(disk: DiskSpool, version: int) -> Chunk:
    """A chunk of one row."""
    row = Row("t", ("id", "v"), "1", b'{"id":1,"v":%d}' % version)
    file = disk.open(row)
    file.append(row.data)
    file.close()
    return Chunk(version, (row,), file.name)


def test_runs_that_stored_nothing_hold_nothing_up(tmp_path: Path) -> None:
    """Two parallel crawls in an outage leave all their rows; the next one uploads them in order."""
    first, second = spool(tmp_path, "r1"), spool(tmp_path, "r2")
    for version, disk in enumerate((first, second), 1):
        chunk_in(disk, version)
    first.close()
    second.close()
    third = spool(tmp_path, "r3")
    assert [stored.file for stored in third.recover()] == ["r1/00000001.jsonl", "r2/00000001.jsonl"]
    assert third.outdated == {}
    third.close()


def test_what_a_run_recovered_counts_as_stored_when_it_is(tmp_path: Path) -> None:
    """Rows of the second run, stored by the third, are newer than those that the first still holds."""
    first, second = spool(tmp_path, "r1"), spool(tmp_path, "r2")
    chunk_in(first, 1)
    chunk_in(second, 2)
    second.close()
    third = spool(tmp_path, "r3")
    (stored,) = third.recover()
    assert runs_noted(tmp_path) == []
    chunk = third.load(stored).chunk
    assert chunk is not None
    third.settle(Outcome(chunk, 1))
    third.close()
    assert [note.run for note in runs_noted(tmp_path)] == ["r2"]
    first.close()
    fourth = spool(tmp_path, "r4")
    assert fourth.recover() == []
    assert fourth.outdated == Counter({"t": 1})
    fourth.close()


def test_where_stored_rows_are_kept_the_newest_go_first(tmp_path: Path) -> None:
    """Of several versions in the spool, `replay --mode ignore` adds the newest."""
    for number in (1, 2):
        disk = spool(tmp_path, f"r{number}")
        chunk_in(disk, number)
        chunk_in(disk, number)
        disk.close()
    last = spool(tmp_path, "r3")
    found = [(stored.number, stored.file[:4], stored.file[-7:-6]) for stored in last.recover(mode=Mode.IGNORE)]
    assert found == [(1, "r2/0", "2"), (2, "r2/0", "1"), (3, "r1/0", "2"), (4, "r1/0", "1")]
    last.close()


def test_a_run_that_could_not_upload_what_it_recovered(tmp_path: Path) -> None:
    """It stored newer rows of its own: the rows it left may be older from then on."""
    first = spool(tmp_path, "r1")
    chunk_in(first, 1)
    first.close()
    second = spool(tmp_path, "r2")
    assert len(second.recover()) == 1
    second.settle(Outcome(chunk_in(second, 2), 1))
    second.close()
    third = spool(tmp_path, "r3")
    assert third.recover() == []
    assert third.outdated == Counter({"t": 1})
    third.close()
    fourth = spool(tmp_path, "r4")
    assert len(fourth.recover(mode=Mode.IGNORE)) == 1
    fourth.close()
