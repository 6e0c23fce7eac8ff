"""The engine during outages, and with chunks of earlier runs: on disk, in order, without blocking the crawl."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.backends.answers import classify, classify_sql
from scrapy_supabase.errors import TransientError
from scrapy_supabase.models import Chunk, Effort, Outcome, Row
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool.base import Stored
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.run_folders import runs_noted
from tests.delivery.test_delivery import Engine, row, stored
from tests.polling import eventually

GONE = TransientError("no route to host", code="OSError")


class Server:
    """Takes chunks, or is gone; `seen` are the rows it took, in order, and `now` is the time."""

    def __init__(self) -> None:
        self.is_gone = False
        self.seen: list[bytes] = []
        self.looks = 0
        self.took = 0.0  # seconds that a vain upload takes
        self.now = 1000.0
        self.refuses: Callable[[Chunk], bool] = lambda _: False
        self.error = GONE
        self.lock = threading.Lock()

    def upload(self, chunk: Chunk) -> Outcome:
        """Store all rows or none."""
        with self.lock:
            if self.is_gone or self.refuses(chunk):
                return Outcome(chunk, 0, left=chunk.rows, transient=self.error, effort=Effort(seconds=self.took))
            self.seen.extend(row.data for row in chunk.rows)
            return stored(chunk)

    def probe(self, table: str) -> None:
        """Answer, or not."""
        assert table == "t"
        self.looks += 1
        if self.is_gone:
            raise GONE

    def clock(self) -> float:
        """The time, which the test sets."""
        return self.now

    @property
    def options(self) -> dict[str, Any]:
        """What an engine needs to know of it."""
        return {"probe": self.probe, "clock": self.clock}


def spool(folder: Path, run: str = "run") -> DiskSpool:
    """Create a run's spool."""
    schema = Schema({"t": TableSpec("t", on_conflict=("id",))})
    schema.learn_key_types("t", {"id": "text"})
    return DiskSpool(folder, run, schema, {"run": run, "project": "p"})


def tick(engine: Engine, server: Server, seconds: float) -> None:
    """Advance the time, one second per step."""
    for _ in range(int(seconds)):
        server.now += 1
        looks = server.looks
        engine.delivery.tick()
        if engine.outage._is_probing:
            assert eventually(partial(lambda before: server.looks > before, looks))
            assert eventually(lambda: bool(engine.executor._done))
        engine.delivery.collect()


def is_offline(engine: Engine) -> bool:
    """Whether the engine has seen that the server is gone."""
    engine.delivery.collect()
    return engine.delivery.is_offline


def numbers(seen: list[bytes]) -> list[int]:
    """The texts of rows, as numbers."""
    return [int(data.split(b'"v":"')[1].split(b'"')[0]) for data in seen]


def test_the_crawl_goes_on_in_constant_memory_and_the_backlog_is_uploaded_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING at the start of an outage, one at its end with the length; versions stay in order."""
    caplog.set_level("INFO", "scrapy_supabase.delivery")
    server = Server()
    disk = spool(tmp_path)
    engine = Engine(server.upload, disk, rows=1, **server.options)
    server.is_gone = True
    assert engine.delivery.add(row("a", text="0")) is None
    assert eventually(lambda: is_offline(engine))
    for number in range(1, 500):
        assert engine.delivery.add(row("abcde"[number % 5], text=str(number))) is None
    delivery = engine.delivery
    assert delivery.backlog == 500
    assert not engine.schedule.queue
    assert not engine.schedule.in_flight
    assert all(isinstance(one, Stored) for one in engine.backlog._waiting)
    tick(engine, server, 100)
    assert server.looks == 5  # after 2, 6, 14, 30 and 62 seconds
    server.is_gone = False
    tick(engine, server, 60)
    assert not delivery.is_offline
    engine.finish()
    engine.balance()
    assert engine.stats.totals["uploaded"] == 500
    versions = numbers(server.seen)
    assert all(sorted(v) == v for v in ([n for n in versions if n % 5 == key] for key in range(5)))
    disk.close()
    assert not list(tmp_path.glob("*/*"))
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]
    assert (
        f"The server is unreachable: OSError: no route to host. Rows are kept in {tmp_path} and uploaded" in caplog.text
    )
    assert "The server is reachable again after 122 s. Uploading the rows kept meanwhile: 500 chunks." in caplog.text
    assert engine.stats.outage_seconds == 122


def test_a_full_spool_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Many chunks cross the limit: one WARNING, and another only after the spool was half empty."""
    disk = spool(tmp_path)
    engine = Engine(Server().upload, disk, most_bytes=1000)
    for size in (1001, 999, 1001, 999, 1001, 499, 1001):
        engine.backlog._bytes = size
        engine.delivery.flush()
    engine.backlog._bytes = 0
    engine.finish()
    disk.close()
    assert caplog.text.count("more than SUPABASE_SPOOL_MAX_BYTES allows: items wait") == 2


def test_a_close_during_an_outage_leaves_all_rows_on_disk(tmp_path: Path) -> None:
    """They are counted, and in the files."""
    server = Server()
    server.is_gone = True
    disk = spool(tmp_path)
    engine = Engine(server.upload, disk, rows=2, **server.options)
    for number in range(101):
        engine.delivery.add(row(str(number), text=str(number)))
        engine.delivery.collect()
    assert not engine.wait(engine.delivery.finish(), 0.2)
    engine.delivery.abandon()
    engine.delivery.close()
    engine.balance()
    assert engine.stats.totals["spooled"] == 101
    disk.close()
    lines = [line for path in tmp_path.glob("run/*.jsonl") for line in path.read_bytes().splitlines()[1:]]
    assert sorted(numbers(lines)) == list(range(101))


def test_a_close_probes_at_once_and_uploads_what_it_can(tmp_path: Path) -> None:
    """The next probe may have been a minute away."""
    server = Server()
    server.is_gone = True
    disk = spool(tmp_path)
    engine = Engine(server.upload, disk, rows=2, **server.options)
    engine.delivery.add(row("1", text="1"))
    engine.delivery.add(row("2", text="2"))
    assert eventually(lambda: is_offline(engine))
    tick(engine, server, 40)
    server.is_gone = False
    engine.finish()
    assert engine.stats.totals["uploaded"] == 2
    disk.close()


def test_a_full_spool_makes_items_wait(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They go on when there is room again."""
    server = Server()
    server.is_gone = True
    disk = spool(tmp_path)
    engine = Engine(server.upload, disk, rows=1, most_bytes=2000, **server.options)
    waiting = None
    number = 0
    while waiting is None:
        waiting = engine.delivery.add(row(str(number), text="x" * 100))
        engine.delivery.collect()
        number += 1
    assert 15 < number < 25
    assert caplog.text.count("SUPABASE_SPOOL_MAX_BYTES") == 1
    assert not waiting.done()
    server.is_gone = False
    tick(engine, server, 5)
    assert engine.wait(waiting)
    engine.finish()
    engine.balance()
    assert engine.stats.totals["uploaded"] == number
    disk.close()


def test_without_a_spool_the_crawl_waits() -> None:
    """Memory stays constant, and no row is dropped."""
    server = Server()
    server.is_gone = True
    engine = Engine(server.upload, rows=1, **server.options)
    waiting, number = None, 0
    while waiting is None:
        waiting = engine.delivery.add(row(str(number), text=str(number)))
        engine.delivery.collect()
        number += 1
    server.is_gone = False
    tick(engine, server, 5)
    assert engine.wait(waiting)
    engine.finish()
    engine.balance()
    assert engine.stats.totals["uploaded"] == number


def test_a_server_that_never_answers_blocks_the_crawl_for_seconds_only(tmp_path: Path) -> None:
    """Its requests may take minutes to time out: after ten seconds, new chunks are queued on disk, in order."""
    server, disk = Server(), spool(tmp_path)
    answer = threading.Event()

    def upload(chunk: Chunk) -> Outcome:
        answer.wait(10)
        return server.upload(chunk)

    engine = Engine(upload, disk, rows=1, workers=2, **server.options)
    waits = [engine.delivery.add(row(str(number % 3), text=str(number))) for number in range(5)]
    assert waits[4] is not None
    for seconds in (9, 2):
        assert not waits[4].done()
        server.now += seconds
        engine.delivery.tick()
    assert waits[4].done()
    for number in range(5, 100):
        assert engine.delivery.add(row(str(number % 3), text=str(number))) is None
    assert len(engine.schedule.queue) <= 2
    answer.set()
    engine.finish()
    engine.balance()
    assert engine.stats.totals["uploaded"] == 100
    seen = numbers(server.seen)
    assert all(sorted(v) == v for v in ([n for n in seen if n % 3 == key] for key in range(3)))
    disk.close()


def test_an_outage_longer_than_the_limit(tmp_path: Path) -> None:
    """`SUPABASE_MAX_OUTAGE`: no further upload is tried, and every row is on disk."""
    server = Server()
    server.is_gone = True
    disk = spool(tmp_path)
    engine = Engine(server.upload, disk, rows=1, longest_outage=30.0, **server.options)
    engine.delivery.add(row("a", text="0"))
    assert eventually(lambda: is_offline(engine))
    tick(engine, server, 29)
    assert engine.stats.error is None
    tick(engine, server, 3)
    assert engine.stats.error is not None
    assert engine.stats.error.reason == "supabase_unavailable"
    assert "(SUPABASE_MAX_OUTAGE)" in str(engine.stats.error)
    engine.delivery.add(row("b", text="1"))
    engine.finish()
    engine.balance()
    assert engine.stats.totals["spooled"] == 2
    disk.close()


@pytest.mark.parametrize("spooled", [True, False])
def test_items_stop_waiting_when_an_outage_is_too_long(tmp_path: Path, spooled: bool) -> None:
    """With a full spool, or without one."""
    server = Server()
    server.is_gone = True
    disk = spool(tmp_path) if spooled else None
    engine = Engine(server.upload, disk, rows=1, longest_outage=30.0, most_bytes=1000, **server.options)
    waiting, number = None, 0
    while waiting is None:
        waiting = engine.delivery.add(row(str(number), text="x" * 100))
        engine.delivery.collect()
        number += 1
    tick(engine, server, 32)
    assert waiting.done()
    assert engine.stats.error is not None
    engine.finish()
    engine.balance()
    assert engine.stats.totals["spooled" if spooled else "failed"] == number
    if disk:
        disk.close()


def test_a_chunk_that_always_fails_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After five tries it is left, with newer versions of its keys: the next run sends them in order."""
    server = Server()
    server.refuses = lambda chunk: b'"v":"7"' in chunk.rows[0].data
    disk = spool(tmp_path)
    engine = Engine(server.upload, disk, rows=1, **server.options)
    for number in range(30):
        waiting = engine.delivery.add(row(str(number % 10), text=str(number)))
        assert waiting is None or engine.wait(waiting)
        if engine.delivery.is_offline:
            tick(engine, server, 3)
    done = engine.delivery.finish()
    while not done.done():
        tick(engine, server, 1)
    engine.finish()
    engine.balance()
    assert sorted(numbers(server.seen)) == [n for n in range(30) if n % 10 != 7]
    assert engine.stats.totals["spooled"] == 3
    assert f"Its rows stay in {tmp_path} for the next run." in caplog.text
    disk.close()
    again = spool(tmp_path, "later")
    found = again.recover()
    server.refuses = lambda _: False
    server.seen.clear()
    engine = Engine(server.upload, again, recovered=found, **server.options)
    engine.finish()
    assert numbers(server.seen) == [7, 17, 27]
    again.close()


def deliver_ten_rows(engine: Engine) -> None:
    """Add rows one by one, and close."""
    for number in range(10):
        waiting = engine.delivery.add(row(str(number), text=str(number)))
        assert waiting is None or engine.wait(waiting)
    engine.finish()
    engine.balance()


def test_chunks_that_are_given_up_together_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One ERROR with the reason, the others at DEBUG; the summary has the number of rows left."""
    caplog.set_level("DEBUG", "scrapy_supabase.delivery")
    server, disk = Server(), spool(tmp_path)
    server.took = 5.0  # others got through meanwhile: no outage
    server.refuses = lambda chunk: b'"v":"7"' in chunk.rows[0].data or b'"v":"8"' in chunk.rows[0].data
    engine = Engine(server.upload, disk, rows=1, **server.options)
    deliver_ten_rows(engine)
    disk.close()
    assert engine.stats.totals["spooled"] == 2
    said = [r for r in caplog.records if "not tried again in this run: OSError: no route to host." in r.getMessage()]
    assert [r.levelname for r in said] == ["ERROR", "DEBUG"]


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (classify(429, b"", "1"), 0),
        (classify(429, b"", "301"), 1),
        (classify_sql("53300", "no room"), 0),
        (classify(502, b""), 1),
    ],
)
def test_a_chunk_waits_for_a_server_without_room(tmp_path: Path, error: TransientError, left: int) -> None:
    """However often others are given the room; other failures of a chunk are counted."""
    server, disk = Server(), spool(tmp_path)
    server.took = 5.0  # others got through meanwhile: no outage
    server.error = error
    refused = itertools.count()
    server.refuses = lambda chunk: b'"v":"7"' in chunk.rows[0].data and next(refused) < 9
    engine = Engine(server.upload, disk, rows=1, **server.options)
    deliver_ten_rows(engine)
    disk.close()
    assert engine.stats.totals["spooled"] == left


def test_chunks_of_earlier_runs_go_first_oldest_first(tmp_path: Path) -> None:
    """An old version never replaces a newer one; the crawl does not wait for them."""
    for run in ("run1", "run2"):
        disk = spool(tmp_path, run)
        for number in range(5):
            file = disk.open(row("a"))
            file.append(row("a", text=f"{run[-1]}{number}").data)
            file.append(row("b", text=f"{run[-1]}{number}").data)
            file.close()
        disk.close()
    now = spool(tmp_path, "run3")
    recovered = now.recover()
    assert [stored.number for stored in recovered] == list(range(1, 11))
    server = Server()
    hold = threading.Event()

    def upload(chunk: Chunk) -> Outcome:
        hold.wait(10)
        return server.upload(chunk)

    engine = Engine(upload, now, rows=2, recovered=recovered, **server.options)
    for number in range(50):
        assert engine.delivery.add(row("ab"[number % 2], text=f"{300 + number // 2}")) is None
    hold.set()
    engine.finish()
    engine.balance()
    for key in (0, 1):
        seen = numbers(server.seen)[key::2]
        assert seen == [*range(10, 15), *range(20, 25), *range(300, 325)]
    assert (engine.stats.totals["recovered"], engine.stats.totals["uploaded"]) == (20, 50)
    now.close()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_two_spools_never_adopt_the_same_folder(tmp_path: Path) -> None:
    """Nor the folder of a running run. Rows that a closed run left are recovered by the next."""
    for number in range(20):
        disk = spool(tmp_path, f"dead{number:02}")
        file = disk.open(row("a"))
        file.append(row("a").data)
        file.close()
        disk.close()
    first, second = spool(tmp_path, "first"), spool(tmp_path, "second")
    found: list[list[Stored]] = [[], []]

    def recover(at: int, disk: DiskSpool) -> None:
        found[at] = disk.recover()

    threads = [threading.Thread(target=recover, args=pair) for pair in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [stored.file for each in found for stored in each]
    assert len(names) == len(set(names)) == 20
    first.close()
    second.close()
    third = spool(tmp_path, "third")
    assert len(third.recover()) == 20
    third.close()


def test_files_that_a_crash_left_half_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An incomplete last line is skipped and counted; a damaged line is rejected; an unreadable file stays in place."""
    disk = spool(tmp_path)
    names = []
    for _ in range(6):
        file = disk.open(row("a"))
        file.append(row("a", text="1").data)
        file.append(row("b", text="2").data)
        file.close()
        names.append(tmp_path / file.name)
    disk.close()
    whole = names[0].read_bytes()
    names[0].write_bytes(whole[:-7])  # the last line is torn
    names[1].write_bytes(whole[:20])  # even the header is
    names[2].write_bytes(b"")
    names[3].write_bytes(whole.replace(b'"v":"1"', b'"v":\x00\x00\x00'))
    names[4].write_bytes(whole.replace(b'"format":1', b'"format":9'))
    names[5].with_suffix(".new").write_bytes(whole[:-30])  # a rewrite that did not end
    again = spool(tmp_path, "later")
    server = Server()
    engine = Engine(server.upload, again, recovered=again.recover(), **server.options)
    engine.finish()
    assert numbers(server.seen) == [1, 2, 1, 2]
    totals = engine.stats.totals
    assert (engine.stats.torn_lines, totals["recovered"], totals["recovered_failed"]) == (2, 4, 1)
    assert "has format 9, which another version of scrapy-supabase wrote; this version reads formats 1 to 4." in (
        caplog.text
    )
    assert "It is left unchanged. Its rows are not uploaded." in caplog.text
    again.close()
    assert '"code":"damaged"' in (tmp_path / "rejected.jsonl").read_text()
    assert [path.name for path in tmp_path.glob("*/*.*")] == [names[4].name]


def test_other_projects_rows_are_left_alone(tmp_path: Path) -> None:
    """They belong to another database."""
    schema = Schema({"t": TableSpec("t")})
    disk = DiskSpool(tmp_path, "other", schema, {"project": "another.supabase.co"})
    file = disk.open(row("a"))
    file.append(row("a").data)
    file.close()
    disk.close()
    mine = spool(tmp_path)
    assert mine.recover() == []
    mine.close()
    theirs = DiskSpool(tmp_path, "later", schema, {"project": "another.supabase.co"})
    assert len(theirs.recover()) == 1
    theirs.close()


def test_when_a_run_stored_rows_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first chunk that is stored in a table, every ten minutes, and at its end; nothing for what is not."""
    now = [0.0]
    monkeypatch.setattr(
        "scrapy_supabase.spool.later_runs.time.monotonic", lambda: now[0]
    )  # since the machine was started
    schema = Schema({name: TableSpec(name, on_conflict=("id",)) for name in ("t", "t_other", "t_none")})
    disk = DiskSpool(tmp_path, "run", schema, {"run": "mine", "project": "p"})
    assert runs_noted(tmp_path) == []

    def chunk(table: str) -> Chunk:
        row = Row(table, ("id",), "1", b'{"id":1}')
        file = disk.open(row)
        file.append(row.data)
        file.close()
        return Chunk(1, (row,), file.name)

    for now[0], table in ((1.0, "t"), (2.0, "t_other"), (3.0, "t"), (602.0, "t"), (603.0, "t")):
        disk.settle(stored(chunk(table)))
    left = chunk("t_none")
    disk.settle(Outcome(left, 0, left=left.rows))
    assert [note.tables for note in runs_noted(tmp_path)] == [("t",), ("t_other",), ("t",)]
    disk.close()
    assert [note.tables for note in runs_noted(tmp_path)][3:] == [("t",), ("t_other",)]
    assert {(note.run, note.project) for note in runs_noted(tmp_path)} == {("mine", "p")}


def test_keys_read_back_equal_those_written(tmp_path: Path) -> None:
    """For every type: order per key depends on it."""
    from datetime import UTC, datetime
    from decimal import Decimal
    from uuid import UUID

    from scrapy_supabase.rows.builder import RowBuilder

    schema = Schema({"t": TableSpec("t", on_conflict=("id", "k"))})
    disk = DiskSpool(tmp_path, "run", schema, {"project": "p"})
    builder = RowBuilder({None: schema.specs["t"]}, schema, {}, lambda _: None)
    values = [
        1,
        "1",
        1.5,
        True,
        Decimal("1.50"),
        datetime(2026, 1, 1, tzinfo=UTC),
        UUID(int=7),
        'ä\n"x\\',
        [1, 2],
        10**30,
    ]
    rows: list[Row] = [builder.build({"k": value, "id": number, "z": 0}) for number, value in enumerate(values)]
    rows.append(builder.build({"k": None, "id": 99, "z": 0}))
    file = disk.open(rows[0])
    for each in rows:
        file.append(each.data)
    file.close()
    loaded = disk.load(Stored(1, file.name, 0))
    assert loaded.chunk is not None
    assert sorted(loaded.chunk.rows, key=lambda r: r.data) == sorted(rows, key=lambda r: r.data)
    disk.close()


def test_a_spool_with_fsync(tmp_path: Path) -> None:
    """`SUPABASE_SPOOL_FSYNC`: the same files, synced."""
    import fcntl
    import os

    schema = Schema({"t": TableSpec("t")})
    disk = DiskSpool(tmp_path, "run", schema, {"project": "p"}, fsync=True)
    file = disk.open(row("a"))
    file.append(row("a").data)
    assert fcntl.fcntl(file._fd, fcntl.F_GETFL) & os.O_DSYNC  # type: ignore[attr-defined]
    file.close()
    disk.close()
    again = spool(tmp_path, "later")
    assert len(again.recover()) == 1
    again.close()


def stepped(server: Server, disk: DiskSpool) -> tuple[Engine, deque[Callable[[], None]]]:
    """An engine whose threads do one job when the test says so."""
    jobs: deque[Callable[[], None]] = deque()
    engine = Engine(server.upload, disk, rows=1, workers=2, **server.options)
    engine.executor._workers.submit = lambda job, busy: jobs.append(job)  # type: ignore[method-assign,misc]  # noqa: ARG005
    return engine, jobs


def test_a_chunk_that_is_tried_again_goes_before_newer_versions(tmp_path: Path) -> None:
    """Also if other chunks succeed, so that there is no outage."""
    server, disk = Server(), spool(tmp_path)
    engine, jobs = stepped(server, disk)
    engine.delivery.add(row("a", text="1"))
    engine.delivery.add(row("a", text="2"))
    engine.delivery.add(row("b", text="3"))
    server.refuses = lambda chunk: b'"v":"1"' in chunk.rows[0].data
    jobs.rotate(1)
    jobs.popleft()()  # b gets through
    server.took = 5.0
    jobs.popleft()()
    engine.delivery.collect()
    assert not engine.delivery.is_offline
    server.refuses = lambda _: False
    while jobs:
        jobs.popleft()()
        engine.delivery.collect()
    assert numbers(server.seen) == [3, 1, 2]
    disk.close()


def test_a_chunk_being_read_does_not_overtake_an_older_one_that_failed(tmp_path: Path) -> None:
    """It was read while an outage began and ended; the older one was in flight all the time."""
    server, disk = Server(), spool(tmp_path)
    engine, jobs = stepped(server, disk)
    engine.delivery.add(row("a", text="1"))
    engine.delivery.add(row("b", text="2"))
    in_flight = [jobs.popleft(), jobs.popleft()]
    server.is_gone = True
    in_flight[1]()
    engine.delivery.collect()
    assert engine.delivery.is_offline
    engine.delivery.add(row("a", text="3"))
    server.is_gone = False
    server.now += 2
    engine.delivery.tick()
    jobs.popleft()()  # the look
    engine.delivery.collect()
    reading = jobs.popleft()
    server.is_gone = True
    in_flight[0]()
    engine.delivery.collect()
    server.is_gone = False
    server.now += 2
    engine.delivery.tick()
    jobs.popleft()()
    engine.delivery.collect()
    assert not engine.delivery.is_offline
    reading()
    engine.delivery.collect()
    while jobs:
        jobs.popleft()()
        engine.delivery.collect()
    assert [n for n in numbers(server.seen) if n != 2] == [1, 3]
    disk.close()
