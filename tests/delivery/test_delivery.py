"""The engine without a crawl: order per key, back-pressure, deferred rows, and counts that always add up."""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrapy_supabase.delivery.backlog import Backlog
from scrapy_supabase.delivery.engine import Delivery
from scrapy_supabase.delivery.executor import Executor, PendingUpload, Progress
from scrapy_supabase.delivery.limits import Limits
from scrapy_supabase.delivery.outage import Outage
from scrapy_supabase.delivery.schedule import Schedule
from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Chunk, Mode, Outcome, Rejection, Row
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.rows.chunks import Chunker
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool.base import Loaded, Spool, Stored
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.no_spool import NoSpool
from tests.polling import eventually


class Watcher(Counters):
    """Counts, and remembers what the delivery failed of."""

    def __init__(self) -> None:
        super().__init__()
        self.error: FatalError | None = None

    def on_fatal(self, error: FatalError) -> None:
        """Nothing is uploaded any more."""
        self.error = error


@dataclass
class Decided:
    """The uploads of a delivery, as the test decides them."""

    upload: Callable[[Chunk], Outcome]
    send: Callable[[Chunk], PendingUpload | None]
    probe: Callable[[str], None]


class Engine:
    """A delivery whose uploads are decided by the test, and its owner's side of it."""

    def __init__(
        self,
        upload: Callable[[Chunk], Outcome],
        spool: Spool | None = None,
        *,
        send: Callable[[Chunk], PendingUpload | None] = lambda _: None,
        probe: Callable[[str], None] = lambda _: None,
        rows: int = 3,
        workers: int = 3,
        tables: tuple[str, ...] = ("t",),
        recovered: Sequence[Stored] = (),
        most_bytes: float = float("inf"),
        longest_outage: float | None = None,
        blocks: bool = False,
        **more: Any,
    ) -> None:
        self.schema = Schema({name: TableSpec(name) for name in tables})
        self.spool = spool or NoSpool()
        self.stats = Watcher()
        self.woken = threading.Event()
        chunker = Chunker(
            max_rows=rows,
            max_bytes=10**6,
            max_age=0,
            mode=self.schema.mode,
            references=self.schema.references,
            open_file=self.spool.open,
            last=len(recovered),
        )
        limits = Limits(concurrency=workers, chunk_size=rows, max_rows=rows)
        self.executor = Executor(
            Decided(upload, send, probe), limits, settle=self.spool.settle, wake=self.woken.set, blocks=blocks
        )
        self.backlog = Backlog(self.spool, recovered, most_bytes)
        self.outage = Outage(longest_outage)
        self.schedule = Schedule(self.schema.references)
        self.delivery = Delivery(
            self.executor, self.schedule, self.backlog, self.outage, chunker=chunker, observer=self.stats, **more
        )

    def wait(self, future: Future[None], seconds: float = 10.0) -> bool:
        """Be the owner's thread until `future` is done."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.delivery.collect()
            if future.done():
                return True
            self.woken.wait(0.02)
            self.woken.clear()
        return False

    def finish(self) -> None:
        """Close as the pipeline does."""
        assert self.wait(self.delivery.finish())
        self.delivery.abandon()
        self.delivery.close()

    def balance(self) -> None:
        """Received is the sum of where rows are."""
        totals = self.stats.totals
        assert totals["received"] == sum(totals[n] for n in ("uploaded", "superseded", "failed", "spooled")), totals


READABLE = os.open(os.devnull, os.O_RDONLY)


class Pending:
    """An upload that the owner began: no answer yet, a plain yes, or one that needs a thread, as `random` has it."""

    def __init__(self, chunk: Chunk, upload: Callable[[Chunk], Outcome], random: Random) -> None:
        self.chunk = chunk
        self.upload = upload
        self.random = random

    def poll(self) -> Outcome | Progress:
        """Decide."""
        answers: list[Outcome | Progress] = [*Progress, stored(self.chunk)]
        return self.random.choice(answers)

    def finish(self) -> Outcome:
        """Ask the test."""
        return self.upload(self.chunk)

    def fileno(self) -> int:
        return READABLE

    def abandon(self) -> None:
        """Nothing to hang up."""


def row(key: str | None, columns: tuple[str, ...] = ("id",), text: str = "") -> Row:
    """A row of the table `t`."""
    return Row("t", columns, key, f'{{"id":"{key}","v":"{text}"}}'.encode())


def stored(chunk: Chunk) -> Outcome:
    """An upload that works."""
    return Outcome(chunk, len(chunk.rows))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([("id",), ("id", "v")])), max_size=60),
    st.integers(0, 99),
)
def test_versions_of_a_key_are_uploaded_in_order_and_one_at_a_time(arrivals: list[Any], seed: int) -> None:
    """Rule 6, for any order of arrivals and any speed of the threads."""
    random = Random(seed)
    lock, flying, seen, faults = threading.Lock(), set[str](), defaultdict[str, list[int]](list), []

    def upload(chunk: Chunk) -> Outcome:
        with lock:
            if chunk.keys & flying:
                faults.append(f"{chunk.keys & flying} is in two uploads at once")
            flying.update(chunk.keys)
            pause = random.random() / 1000
        threading.Event().wait(pause)
        with lock:
            for each in chunk.rows:
                seen[str(each.key)].append(int(each.data.split(b'"v":"')[1].split(b'"')[0]))
            flying.difference_update(chunk.keys)
        return stored(chunk)

    engine = Engine(upload)
    for number, (key, columns) in enumerate(arrivals):
        engine.delivery.add(row(key, columns, str(number)))
    engine.finish()
    engine.balance()
    assert faults == []
    newest = {key: number for number, (key, _) in enumerate(arrivals)}
    assert all(versions == sorted(versions) and versions[-1] == newest[key] for key, versions in seen.items())
    assert set(seen) == set(newest)


ANSWERS = st.lists(st.sampled_from(["yes", "reject one", "leave", "defer", "fault", "fatal"]), max_size=30)


@settings(deadline=None, max_examples=100)
@given(
    keys=st.lists(st.sampled_from([*"abcdefgh", None]), max_size=50),
    answers=ANSWERS,
    spooled=st.booleans(),
    seed=st.none() | st.integers(0, 99),
)
def test_counts_add_up_whatever_the_answers(
    tmp_path_factory: Any, keys: list[Any], answers: list[str], spooled: bool, seed: int | None
) -> None:
    """Stored, refused, transient, a bug, fatal: every row is counted once, and is where the counts place it."""
    left = iter(answers)
    lock = threading.Lock()

    def upload(chunk: Chunk) -> Outcome:
        with lock:
            answer = next(left, "yes")
        first, rest = chunk.rows[:1], chunk.rows[1:]
        if answer == "reject one":
            return Outcome(chunk, len(rest), (Rejection("t", first[0].data, "23514", "no"),))
        if answer == "leave":
            return Outcome(chunk, len(rest), left=first)
        if answer == "defer" and not chunk.last_try:
            return Outcome(chunk, len(rest), deferred=first)
        if answer == "fault":
            raise RuntimeError("a fault of our own")
        if answer == "fatal":
            return Outcome(chunk, 0, left=chunk.rows, fatal=FatalError("stop", code="http_540"))
        return stored(chunk)

    folder: Path = tmp_path_factory.mktemp("spool")
    spool = DiskSpool(folder, "run", Schema({"t": TableSpec("t")}), {}) if spooled else NoSpool()
    random = Random(seed)

    def send(chunk: Chunk) -> PendingUpload | None:
        return None if seed is None else Pending(chunk, upload, random)

    engine = Engine(upload, spool, send=send)
    for number, key in enumerate(keys):
        engine.delivery.add(row(key, text=str(number)))
        if number % 7 == 0:
            engine.delivery.tick()
    engine.finish()
    engine.balance()
    assert engine.stats.totals["received"] == len(keys)
    spool.close()
    kept = [line for path in folder.glob("run/*.jsonl") for line in path.read_bytes().splitlines()[1:]]
    assert len(set(kept)) >= engine.stats.totals["spooled"]
    if not spooled:
        assert engine.stats.totals["spooled"] == 0


class Faulty(Pending):
    """An upload in which our own code fails when the owner looks at it."""

    def poll(self) -> Outcome | Progress:
        """Fail."""
        raise ZeroDivisionError


def test_a_bug_in_the_owners_thread_concerns_only_that_upload(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The current item goes on; the rows are kept and counted; a later row is uploaded."""
    spool = DiskSpool(tmp_path, "run", Schema({"t": TableSpec("t")}), {})
    first = [True]

    def send(chunk: Chunk) -> PendingUpload | None:
        return Faulty(chunk, stored, Random(0)) if first and first.pop() else None

    engine = Engine(stored, spool, send=send, rows=1)
    for number in range(3):
        engine.delivery.add(row(str(number)))
        engine.delivery.collect()
    engine.finish()
    engine.balance()
    assert engine.stats.totals["uploaded"] == 2
    assert engine.stats.totals["spooled"] == 1
    assert caplog.text.count("not uploaded because of a bug in scrapy-supabase") == 1
    spool.close()


def test_back_pressure() -> None:
    """As many chunks wait as are uploaded at once; further items wait until there is room again."""
    release = threading.Event()

    def upload(chunk: Chunk) -> Outcome:
        release.wait(10)
        return stored(chunk)

    engine = Engine(upload, rows=1, workers=2)
    waits = [engine.delivery.add(row(str(number))) for number in range(5)]
    assert waits[:4] == [None] * 4
    assert waits[4] is not None
    assert engine.delivery.in_flight == 2
    release.set()
    assert engine.wait(waits[4])
    engine.finish()
    engine.balance()


def test_a_full_chunk_is_left_when_nothing_more_is_uploaded(tmp_path: Path) -> None:
    """It stays in the spool, as those before it."""
    spool = DiskSpool(tmp_path, "run", Schema({"t": TableSpec("t")}), {})
    engine = Engine(stored, spool, rows=1)
    engine.delivery._flow._fail(FatalError("stop", code="http_540"))
    for number in (1, 2):
        engine.delivery.add(row(str(number)))
        assert engine.stats.totals["spooled"] == number
    engine.finish()
    engine.balance()
    spool.close()
    assert len(list(tmp_path.glob("run/*.jsonl"))) == 2


def parents_first(order: list[str]) -> Callable[[Chunk], Outcome]:
    """An upload that knows a foreign key: rows of `child` need a row of `parent` to be there."""

    def upload(chunk: Chunk) -> Outcome:
        if chunk.table == "child" and "parent" not in order:
            if chunk.last_try:
                no = Rejection("child", chunk.rows[0].data, "23503", "no parent")
                return Outcome(chunk, 0, (no,) * len(chunk.rows))
            return Outcome(chunk, 0, deferred=chunk.rows)
        order.append(chunk.table)
        return stored(chunk)

    return upload


def settle(engine: Engine) -> None:
    """Wait until nothing is in flight."""

    def idle() -> bool:
        engine.delivery.collect()
        return not engine.delivery.in_flight

    assert eventually(idle)


def test_deferred_rows_wait_for_those_they_refer_to() -> None:
    """However late these come: a crawl often finds the child first."""
    order: list[str] = []
    engine = Engine(parents_first(order), rows=1, tables=("parent", "child"))
    engine.delivery.add(Row("child", ("id",), "c", b"{}"))
    settle(engine)
    engine.delivery.tick()
    settle(engine)
    assert order == []
    engine.delivery.add(Row("parent", ("id",), "p", b"{}"))
    engine.finish()
    assert order == ["parent", "child"]
    assert engine.stats.totals["uploaded"] == 2
    engine.balance()


def test_deferred_rows_do_not_hold_up_a_newer_version() -> None:
    """They are tried one last time then: order per key is more important than the wait, and the crawl never stalls."""
    engine = Engine(parents_first([]), rows=1, tables=("parent", "child"))
    engine.delivery.add(Row("child", ("id",), "other", b"{}"))
    engine.delivery.add(Row("child", ("id",), "same", b"{}"))
    settle(engine)
    waiting = engine.delivery.add(Row("child", ("id",), "same", b"{}"))
    assert waiting is None or engine.wait(waiting)
    settle(engine)
    assert engine.stats.totals["failed"] == 1  # the older version alone
    engine.finish()
    assert engine.stats.totals["failed"] == 3
    engine.balance()


def test_deferred_rows_do_not_fill_the_memory() -> None:
    """Beyond 32 chunks, the oldest are tried one last time."""
    engine = Engine(parents_first([]), rows=1, tables=("parent", "child"))
    for number in range(100):
        waiting = engine.delivery.add(Row("child", ("id",), str(number), b"{}"))
        assert waiting is None or engine.wait(waiting)
    settle(engine)
    assert engine.stats.totals["failed"] == 100 - 32
    engine.finish()
    assert engine.stats.totals["failed"] == 100
    engine.balance()


def test_referenced_rows_go_first() -> None:
    """Once a foreign key is known, a chunk waits for chunks of the referenced table, sealed or still open."""
    order: list[str] = []
    release = threading.Event()

    def upload(chunk: Chunk) -> Outcome:
        if chunk.table == "parent":
            release.wait(10)
        order.append(chunk.table)
        return stored(chunk)

    engine = Engine(upload, rows=2, workers=2, tables=("parent", "child"))
    engine.schema.learn_reference("child", "parent")
    for table in ("parent", "child", "child"):
        engine.delivery.add(Row(table, ("id",), None, b"{}"))
    assert engine.delivery.in_flight == 1
    release.set()
    engine.finish()
    assert order == ["parent", "child"]
    engine.balance()


def test_an_abandoned_upload_is_counted_as_left_and_not_settled_later(tmp_path: Path) -> None:
    """After the close gave up waiting, the thread's result changes neither counts nor files."""
    release, done = threading.Event(), threading.Event()

    def upload(chunk: Chunk) -> Outcome:
        release.wait(10)
        done.set()
        return stored(chunk)

    spool = DiskSpool(tmp_path, "run", Schema({"t": TableSpec("t")}), {})
    engine = Engine(upload, spool, rows=1)
    engine.delivery.add(row("a"))
    assert not engine.wait(engine.delivery.finish(), 0.1)
    engine.delivery.abandon()
    assert engine.stats.totals["spooled"] == 1
    release.set()
    done.wait(10)
    engine.delivery.close()
    engine.delivery.collect()
    engine.balance()
    assert len(list(tmp_path.glob("run/*.jsonl"))) == 1
    spool.close()


def test_a_chunk_read_back_after_the_end_is_counted_once() -> None:
    """The close gave up waiting while a thread read a file of an earlier run."""
    release = threading.Event()

    class Slow(NoSpool):
        def load(self, stored: Stored) -> Loaded:  # noqa: ARG002
            release.wait(10)
            return Loaded(None)

    engine = Engine(stored, Slow(), recovered=[Stored(1, "1.jsonl", 10, "t", rows=3, recovered=True)])
    assert not engine.wait(engine.delivery.finish(), 0.1)
    engine.woken.clear()
    engine.delivery.abandon()
    release.set()
    assert engine.woken.wait(10)
    engine.delivery.collect()
    assert engine.stats.totals["recovered_spooled"] == 3
    engine.delivery.close()


def test_a_full_disk_is_logged_once_and_uploads_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files cannot grow any more: one ERROR, all rows are uploaded from memory, none is lost."""
    spool = DiskSpool(tmp_path, "run", Schema({"t": TableSpec("t")}), {})
    engine = Engine(stored, spool, rows=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        for number in range(100):
            engine.delivery.add(row(str(number), text="x" * 100))
        engine.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert engine.stats.totals["uploaded"] == 100
    engine.balance()
    assert len([r for r in caplog.records if "cannot be written" in r.getMessage()]) == 1


def test_a_full_disk_in_an_outage_loses_no_row_silently(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each row is either in the spool or in the log, as the counts have it."""
    schema = Schema({"t": TableSpec("t", on_conflict=("id",))})
    spool = DiskSpool(tmp_path, "run", schema, {})
    engine = Engine(lambda chunk: Outcome(chunk, 0, left=chunk.rows), spool, rows=10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        for number in range(10):
            engine.delivery.add(row(str(number), text="x" * 100))
        engine.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (engine.stats.totals["failed"], engine.stats.totals["spooled"]) == (9, 1)
    assert [f'"id":"{number}"' in caplog.text for number in range(10)] == [False] + 9 * [True]
    assert f"stay in {tmp_path} for the next run, except the 9 in the log above." in caplog.text
    engine.balance()
    spool.close()
    again = DiskSpool(tmp_path, "later", schema, {})
    loaded = again.load(again.recover()[0])
    assert loaded.chunk is not None
    assert [json.loads(each.data)["id"] for each in loaded.chunk.rows] == ["0"]
    again.close()


def test_a_file_that_could_not_be_created_is_written_when_there_is_room(tmp_path: Path) -> None:
    """With its header. The same for the file of a chunk that somebody deleted."""
    schema = Schema({"t": TableSpec("t", on_conflict=("id",))})
    spool = DiskSpool(tmp_path, "run", schema, {})
    engine = Engine(lambda chunk: Outcome(chunk, 0, left=chunk.rows), spool, rows=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 20):  # not a byte of the header; a part of it
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            engine.delivery.add(row(f"a{limit}"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        engine.delivery.add(row(f"b{limit}"))
    engine.delivery.add(row("c"))
    for path in tmp_path.glob("run/00000003.jsonl"):
        path.unlink()
    engine.finish()
    assert (engine.stats.totals["failed"], engine.stats.totals["spooled"]) == (0, 5)
    spool.close()
    again = DiskSpool(tmp_path, "later", schema, {})
    loaded = [again.load(stored).chunk for stored in again.recover()]
    found = [[json.loads(each.data)["id"] for each in chunk.rows] for chunk in loaded if chunk]
    assert found == [["a0", "b0"], ["a20", "b20"], ["c"]]
    again.close()


def test_a_full_disk_leaves_no_partial_line_of_a_reject(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It would corrupt the next rejected row."""
    spool = DiskSpool(tmp_path, "run", Schema({"t": TableSpec("t")}), {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    rejection = Rejection("t", b'{"id":1}', "23514", "no")
    spool.reject((rejection,))
    size = (tmp_path / "rejected.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
    try:
        spool.reject((rejection,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 'Not stored in table t (23514): no. The row: {"id":1}' in caplog.text
    spool.reject((rejection,))
    assert (tmp_path / "rejected.jsonl").stat().st_size == 2 * size
    spool.close()


def test_a_spool_that_cannot_be_written_is_an_error_at_open(tmp_path: Path) -> None:
    """And not at the first row."""
    from scrapy_supabase.errors import ConfigurationError

    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="Set SUPABASE_SPOOL_DIR to a writable folder"):
        DiskSpool(tmp_path / "file", "run", Schema({}), {})


def test_items_of_many_shapes_open_a_limited_number_of_files() -> None:
    """At most 64 column sets at once."""
    engine = Engine(stored, rows=100)
    for number in range(200):
        engine.delivery.add(Row("t", ("id", f"c{number}"), str(number), b"{}"))
    engine.finish()
    assert engine.stats.totals["uploaded"] == 200


def test_a_chunk_is_sealed_before_it_has_too_many_bytes() -> None:
    """A larger row is sent alone."""
    sizes: list[int] = []
    chunker = Chunker(
        max_rows=100,
        max_bytes=1000,
        max_age=0,
        mode=lambda _: Mode.UPSERT,
        references=lambda _: frozenset(),
        open_file=NoSpool().open,
    )
    for number in range(20):
        sealed = chunker.add(row(str(number), text="x" * (3000 if number == 10 else 100)))
        sizes.extend(sum(len(r.data) + 1 for r in chunk.rows) + 1 for chunk in sealed)
    assert max(sizes) > 3000
    assert all(size <= 1000 for size in sizes if size < 3000)
