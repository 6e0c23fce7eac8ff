"""What the engine and its spool say: of a disk that takes no rows, of files that cannot be read, of an outage."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from scrapy_supabase.delivery.executor import Executor
from scrapy_supabase.delivery.limits import Limits
from scrapy_supabase.delivery.observer import RunObserver
from scrapy_supabase.delivery.takeover import Takeover
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import rejected_rows
from scrapy_supabase.models import Chunk, Effort, Outcome, Rejection
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.reject_file import REJECTED
from scrapy_supabase.spool.replay import chunks_in
from tests.delivery.test_delivery import Engine, row, stored
from tests.delivery.test_outage import Server, is_offline, tick
from tests.messages import Said, of_log, of_records
from tests.polling import eventually
from tests.spool.test_other_users import Run, Sql, close, run
from tests.test_messages_commands import leave

__all__ = ["run"]  # a fixture

FACTS = {"run": "run", "spider": "books", "project": "p"}


def spool(folder: Path, run: str = "run") -> DiskSpool:
    """A run's spool."""
    return DiskSpool(folder, run, Schema({"t": TableSpec("t", on_conflict=("id",))}), FACTS)


@contextmanager
def a_small_disk() -> Iterator[None]:
    """No file may have more than 300 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def file_of(disk: DiskSpool, *numbers: int) -> Path:
    """A chunk's file with rows of these numbers."""
    file = disk.open(row("1"))
    for number in numbers:
        file.append(row(str(number)).data)
    file.close()
    return disk.folder / file.name


def test_a_full_disk(said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Said once; rows that neither server nor disk take are in the log, each with its reason; so are rejects."""
    disk = spool(tmp_path)
    engine = Engine(lambda chunk: Outcome(chunk, 0, left=chunk.rows), disk, rows=3)
    with a_small_disk():
        for number in range(3):
            engine.delivery.add(row(str(number), text="x" * 200))
        engine.finish()
        disk.reject((Rejection("t", b'{"id":9}', "23502", "null value in column", columns=("id",)),) * 1)
        disk.reject((Rejection("t", b'{"id":9,"v":"%b"}' % (b"x" * 300), "23502", "null value", columns=("id",)),))
    said("A full disk, and a server that takes nothing", [m.replace("x" * 100, "") for m in of_records(caplog)])
    caplog.clear()
    engine = Engine(lambda chunk: Outcome(chunk, 0, left=chunk.rows), disk, rows=3)
    with a_small_disk():
        for number in range(3):
            engine.delivery.add(row(str(number), text="x" * 200 * number))
        engine.finish()
    said(
        "A disk that was full after the first row, and a server that takes nothing",
        [m.replace("x" * 100, "") for m in of_records(caplog)],
    )
    disk.close()


def test_rows_in_two_places(said: Said, tmp_path: Path) -> None:
    """Of rejected rows, some had no room on the disk: the last line of a crawl says where which are."""
    codes = Counter({("t", "not_kept"): 2, ("t", "23514"): 1})
    said("Rejected rows, some of them only in the log", f"ERROR: {rejected_rows(3, codes, tmp_path / REJECTED)}")


def test_files_in_the_way(said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """A file that cannot be removed or renamed: what happens with its rows."""
    disk = spool(tmp_path)
    disk._files.mapped = None  # as where files cannot be mapped: one that is mapped is used again, and not removed
    path = file_of(disk, 1)
    path.unlink()
    path.mkdir()
    disk.settle(stored(Chunk(1, (row("1"),), f"run/{path.name}")))
    said("The file of an uploaded chunk cannot be removed", of_records(caplog))
    caplog.clear()
    path.rmdir()
    older, newer = disk.open(row("1")), disk.open(row("2"))
    (tmp_path / newer.name).unlink()
    newer.close()
    older.close()
    said("The file of a chunk cannot be renamed", of_records(caplog))
    disk.close()


def test_files_that_cannot_be_read(said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Which file, why, and that it is left; a damaged line is rejected alone."""
    old = spool(tmp_path, "20260101T000000.000Z-0123abcd")
    paths = [file_of(old, number) for number in range(1, 4)]
    old.close()
    text = paths[0].read_text()
    paths[0].write_text(text.replace('"format":1', '"format":7'))
    paths[1].write_text("what is this\n")
    header, line = paths[2].read_text().splitlines()
    paths[2].write_text(f"{header}\n{line}\nnot json\n")
    (tmp_path / "odd" / "lock").mkdir(parents=True)
    disk = spool(tmp_path)
    found = disk.recover()
    said("Spool folders and files that cannot be read", of_records(caplog))
    caplog.clear()
    for one in found:
        disk.load(one)
    said("The same, when their rows are to be uploaded", of_records(caplog))
    disk.close()
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    said("A damaged line of the spool", [f"rejected {one['code']}: {one['message']}" for one in lines])


def test_a_file_system_without_locks(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can be written, and is not locked: what to set instead."""
    spool(tmp_path, "20260101T000000.000Z-0123abcd").close()
    (tmp_path / "20260101T000000.000Z-0123abcd").mkdir()

    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    for use in (spool, lambda folder: list(chunks_in(folder))):
        with pytest.raises(ConfigurationError) as raised:
            use(tmp_path)
        said("A file system without locks", f"ConfigurationError: {raised.value}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a folder of another user")
def test_a_spool_of_another_user(said: Said, run: Run, sql: Sql, tmp_path: Path) -> None:
    """Owner, path and remedy."""
    sql("create table t (id bigint primary key); grant all on t to service_role")
    folder = tmp_path / "spool"
    close(next(path for path in folder.iterdir() if path.is_dir()))
    said("A run of another user", of_log(run("runspider", "spider.py").stderr)[:1])
    said("A run of another user, and replay", said_by(run("supabase", "replay")))
    said("A run of another user, and check", said_by(run("supabase", "check"), "cannot be read"))
    close(folder)
    said("The spool of another user", said_by(run("runspider", "spider.py"), "ConfigurationError:")[-1:])
    said("The spool of another user, and replay", said_by(run("supabase", "replay")))
    said("The spool of another user, and report", said_by(run("supabase", "report")))
    said("The spool of another user, and check", said_by(run("supabase", "check"), "spool"))
    os.chown(folder, 0, 0)
    folder.chmod(0)
    said("A spool that is closed to its owner", said_by(run("supabase", "replay")))
    shutil.rmtree(folder)
    os.chown(tmp_path, 65534, 65534)
    tmp_path.chmod(0o755)
    said("A new spool in a folder of another user", said_by(run("runspider", "spider.py"), "ConfigurationError:")[-1:])
    said("A new spool in a folder of another user, and check", said_by(run("supabase", "check"), "spool"))


def said_by(done: subprocess.CompletedProcess[str], part: str = "") -> list[str]:
    """The messages of a command that have this part."""
    found: list[str] = []
    for line in (done.stdout + done.stderr).replace("✗ ", "error: ").replace("! ", "warning: ").splitlines():
        if line.startswith("    ") and found:
            found[-1] += f"\n{line}"
        else:
            found.append(line.removeprefix("scrapy_supabase.errors."))
    kinds = ("error: ", "warning: ", "ConfigurationError: ")
    return [one if one.startswith(kinds) else f"stderr: {one}" for one in found if part in one]


def test_a_file_that_is_gone(said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Somebody removed it while the crawl ran."""
    disk = spool(tmp_path)
    path = file_of(disk, 1)
    one = disk.store(Chunk(1, (row("1"),), f"run/{path.name}"))
    assert one
    path.unlink()
    disk.load(one)
    said("A spool file that somebody removed", of_records(caplog))
    disk.close()


def test_an_outage(said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """When it begins, while it lasts, when it ends; the spool is full meanwhile; what is not tried again."""
    caplog.set_level("DEBUG", "scrapy_supabase.delivery")
    server = Server()
    disk = spool(tmp_path)
    engine = Engine(server.upload, disk, rows=1, workers=1, most_bytes=150, **server.options)
    server.is_gone = True
    engine.delivery.add(row("0"))
    assert eventually(lambda: is_offline(engine))
    tick(engine, server, 5)
    for number in range(1, 10):
        engine.delivery.add(row(str(number)))
    server.is_gone = False
    tick(engine, server, 60)
    engine.finish()
    disk.close()
    said("An outage, and a small limit of the spool", [f"{r.levelname}: {r.getMessage()}" for r in caplog.records])


def test_an_outage_that_is_too_long(said: Said, tmp_path: Path) -> None:
    """The setting that says how long is named."""
    server = Server()
    disk = spool(tmp_path)
    engine = Engine(server.upload, disk, rows=1, longest_outage=30, **server.options)
    server.is_gone = True
    engine.delivery.add(row("0"))
    assert eventually(lambda: is_offline(engine))
    tick(engine, server, 40)
    engine.finish()
    disk.close()
    assert engine.stats.error
    said("An outage longer than SUPABASE_MAX_OUTAGE", f"{engine.stats.error.reason}: {engine.stats.error}")


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_not_tried_again(said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path, kept: bool) -> None:
    """Where its rows are."""
    disk = spool(tmp_path) if kept else None
    engine = Engine(lambda chunk: Outcome(chunk, 0, left=chunk.rows), disk, rows=1)
    engine.delivery.add(row("1"))
    engine.finish()
    if disk:
        disk.close()
    said("A chunk that is not tried again" if kept else "A chunk that is not tried again, without a spool",
         of_records(caplog))  # fmt: skip


class FaultError(Exception):
    """A fault of ours."""


def fails(*_: Any) -> Any:
    """Fail."""
    raise FaultError


def test_our_own_faults(
    said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose fault it is, where the rows are, and what to do with the traceback."""
    disk = spool(tmp_path)
    engine = Engine(fails, disk, rows=1)
    engine.delivery.add(row("1"))
    engine.finish()
    said("A fault of ours in an upload", of_records(caplog))
    caplog.clear()
    monkeypatch.setattr(disk, "settle", fails)
    engine = Engine(stored, disk, rows=1)
    engine.delivery.add(row("2"))
    engine.finish()
    said("A fault of ours after an upload", of_records(caplog))
    caplog.clear()
    monkeypatch.undo()
    path = file_of(disk, 3)
    one = disk.store(Chunk(1, (row("3"),), f"run/{path.name}"))
    assert one
    monkeypatch.setattr(disk, "load", fails)
    Engine(stored, disk, recovered=[one]).finish()
    said("A fault of ours when a chunk is read back", of_records(caplog))
    caplog.clear()
    monkeypatch.undo()
    server = Server()
    engine = Engine(server.upload, disk, rows=1, clock=server.clock, probe=fails)
    server.is_gone = True
    engine.delivery.add(row("4"))
    assert eventually(lambda: is_offline(engine))
    server.is_gone = False
    server.now += 3
    caplog.clear()
    engine.delivery.tick()
    assert eventually(lambda: bool(engine.executor._done))
    engine.finish()
    said("A fault of ours when the server is looked for", of_records(caplog))
    disk.close()


def test_a_takeover(
    said: Said, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is alive finds the rows of one that died; rows that may be older, and a spool it cannot read."""
    mine = spool(tmp_path / "my spool", "20260102T000000.000Z-0123abcd")
    now = 0.0
    executor = Executor(None, None, settle=mine.settle, wake=lambda: None)  # type: ignore[arg-type]
    monkeypatch.setattr(executor, "run", lambda job, then: then(job()))
    takeover = Takeover(mine, executor, cast(RunObserver, Counters()), lambda: now)
    leave(mine.folder, "p", {"id": 1})
    caplog.set_level("INFO", "scrapy_supabase.delivery.takeover")
    assert takeover.tick() == ()
    now = 60.0
    assert [one.only_new for one in takeover.tick()] == [False]
    said("A run that died meanwhile", of_records(caplog, least=logging.INFO))
    caplog.clear()
    monkeypatch.setattr(mine, "recover", lambda **_: (mine.folder / "gone").read_text())
    now = 120.0
    assert takeover.tick() == ()
    said("A spool that cannot be searched", of_records(caplog, least=logging.INFO))
    mine.close()


def test_a_busy_server(said: Said, caplog: pytest.LogCaptureFixture) -> None:
    """How many uploads and rows at once from now on."""
    caplog.set_level("INFO", "scrapy_supabase.delivery.limits")
    now = iter(range(100, 200))
    limits = Limits(concurrency=4, chunk_size=100, max_rows=1000, clock=lambda: next(now))
    chunk = Chunk(1, tuple(row(str(n)) for n in range(3)), "1.jsonl")
    busy, large = Effort(requests=1, overloads=1, seconds=0.5), Effort(requests=1, too_large=1, seconds=0.5)
    limits.update(Outcome(chunk, 0, left=chunk.rows, effort=busy))
    limits.update(Outcome(chunk, 0, left=chunk.rows, effort=busy))
    limits.update(Outcome(chunk, 0, left=chunk.rows, effort=large))
    said("An overloaded server", [f"{r.levelname}: {r.getMessage()}" for r in caplog.records])
