"""Any sequence of arrivals, seals, answers, crashes and restarts: no row is lost, no old version replaces a newer one.

The engine and the spool are the real ones; the server is a dictionary, and its upload threads are stepped by the test,
so that a crash can come between any two steps: before the server stores, after it has, before a file is deleted.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scrapy_supabase.errors import FatalError, TransientError
from scrapy_supabase.models import Chunk, Effort, Key, Mode, Outcome, Rejection, Row
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool.disk import DiskSpool
from tests.delivery.test_delivery import Engine

ANSWERS = ["ok", "ok", "gone", "gone for one", "stored, then gone", "internal", "fatal", "crash", "stored, then crash"]
KEYS = st.sampled_from(["a", "b", "c", "d", None])
COLUMNS = st.sampled_from([("id", "v"), ("id", "v", "w")])


class CrashError(BaseException):
    """`kill -9`."""


def version_of(data: bytes) -> int:
    """The number of a row."""
    return int(json.loads(data)["v"])


class Runs(RuleBasedStateMachine):
    """Runs of a crawl, one after the other, on one spool and one table."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.number = 0
        self.version = 0
        self.now = 0.0
        self.answer = "ok"
        self.accepted: list[tuple[str | None, int]] = []
        self.stored: dict[Key, int] = {}  # key → version
        self.ever: set[int] = set()  # versions that were stored
        self.refused: set[int] = set()
        self.faults: list[str] = []
        self.ignored: set[int] = set()  # versions that `replay --mode ignore` left out
        self.start_run()

    # The world

    def start_run(self, mode: Mode | None = None) -> None:
        self.number += 1
        self.jobs: deque[Callable[[], None]] = deque()
        schema = Schema({"t": TableSpec("t", on_conflict=("id",))})
        schema.learn_key_types("t", {"id": "text"})
        self.spool = DiskSpool(self.folder, f"run{self.number:04}", schema, {"project": "p", "run": str(self.number)})
        self.spool._files.mapped = self.spool._files.map_files() if self.number % 2 else None  # whatever disk this is
        self.engine = Engine(
            self.upload,
            self.spool,
            rows=3,
            workers=2,
            recovered=self.spool.recover(mode=mode),
            probe=self.probe,
            clock=lambda: self.now,
        )
        self.engine.executor._workers.submit = lambda job, busy: self.jobs.append(job)  # type: ignore[method-assign,misc]  # noqa: ARG005
        self.engine.delivery.flush()
        self.received = 0

    def upload(self, chunk: Chunk) -> Outcome:
        answer = self.answer
        if answer == "crash":
            raise CrashError
        good = [row for row in chunk.rows if version_of(row.data) not in self.refused]
        bad = tuple(Rejection("t", r.data, "23514", "no", columns=r.columns) for r in chunk.rows if r not in good)
        if len(chunk.keys) != sum(row.key is not None for row in chunk.rows):
            self.faults.append(f"two versions of a row in one request: {chunk.rows}")
        if answer in ("ok", "stored, then gone", "stored, then crash"):
            for row in good:
                version = version_of(row.data)
                self.ever.add(version)
                is_kept = chunk.origin is not None and chunk.origin.mode is Mode.IGNORE and row.key in self.stored
                if is_kept:
                    self.ignored.add(version)
                if row.key is not None and not is_kept:
                    if self.stored.get(row.key, 0) > version:
                        self.faults.append(f"version {version} of {row.key} replaced {self.stored[row.key]}")
                    self.stored[row.key] = version
        if answer == "stored, then crash":
            raise CrashError
        if answer == "ok":
            return Outcome(chunk, len(good), bad)
        transient = TransientError("gone", code="OSError") if "gone" in answer else None
        fatal = FatalError("paused", code="http_540") if answer == "fatal" else None
        # Of one that took long, others got through meanwhile.
        effort = Effort(seconds=1e6 if answer == "gone for one" else 0.0)
        return Outcome(chunk, 0, left=chunk.rows, transient=transient, fatal=fatal, effort=effort)

    def probe(self, table: str) -> None:
        assert table == "t"
        if self.answer == "crash":
            raise CrashError
        if self.answer in ("gone", "stored, then gone"):
            raise TransientError("gone", code="OSError")

    def crash(self) -> None:
        """All is lost but the disk; the system lets go of the locks."""
        for folder in (self.spool._own, *self.spool._recovery._adopted):
            folder.release()
        self.start_run()

    def step(self) -> None:
        try:
            self.jobs.popleft()()
            self.engine.delivery.collect()
        except CrashError:
            self.crash()

    # What may happen

    @rule(key=KEYS, columns=COLUMNS, bad=st.integers(0, 9))
    def arrive(self, key: str | None, columns: tuple[str, ...], bad: int) -> None:
        self.version += 1
        if bad == 0:
            self.refused.add(self.version)
        data = json.dumps({"id": key, **dict.fromkeys(columns[1:], self.version)}).encode()
        self.engine.delivery.add(Row("t", columns, key, data))
        self.accepted.append((key, self.version))
        self.received += 1

    @rule(answer=st.sampled_from(ANSWERS))
    def answers_from_now_on(self, answer: str) -> None:
        self.answer = answer

    @precondition(lambda self: self.jobs)
    @rule(steps=st.integers(1, 5))
    def work(self, steps: int) -> None:
        for _ in range(steps):
            if self.jobs:
                self.step()

    @rule(seconds=st.integers(1, 70))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.engine.delivery.tick()

    @rule()
    def spider_is_idle(self) -> None:
        self.engine.delivery.flush()

    @rule()
    def kill_9(self) -> None:
        self.crash()

    @rule(torn=st.integers(1, 20))
    def power_cut(self, torn: int) -> None:
        """The last line that was being written is torn; its item had not been handed on."""
        if not self.accepted:
            return
        version = self.accepted[-1][1]
        files = sorted(self.spool.own_folder.glob("*.jsonl"))
        last = [path for path in files if f'"v": {version}'.encode() in path.read_bytes().split(b"\n")[-2:][0]]
        if last and version not in self.ever:
            content = last[0].read_bytes().rstrip(b"\0")
            line = content.splitlines()[-1]
            last[0].write_bytes(content[: -min(torn, len(line))])
            self.accepted.pop()
        self.crash()

    @rule()
    def close(self) -> None:
        """The crawl ends; what cannot be uploaded within the time stays. The counts of the run add up."""
        self.end_run()

    def end_run(self, next_mode: Mode | None = None) -> None:
        number = self.number
        self.engine.delivery.finish()
        for _ in range(200):
            if not self.jobs:
                break
            self.step()
            if self.number != number:
                return  # it crashed
        self.engine.delivery.abandon()
        totals = self.engine.stats.totals
        assert totals["received"] == self.received
        self.engine.balance()
        self.spool.close()
        self.start_run(next_mode)

    # What must hold

    @invariant()
    def nothing_went_wrong(self) -> None:
        assert self.faults == []

    @invariant()
    def no_row_is_lost(self) -> None:
        places = self.ever | self.on_disk()
        newest: dict[str, int] = {}
        for key, version in self.accepted:
            if key is None:
                assert version in places, f"version {version} is nowhere"
        for key, version in reversed(self.accepted):
            if key is not None:
                if version in places:
                    newest[key] = max(newest.get(key, 0), version)
                else:
                    assert newest.get(key, 0) > version, f"version {version} of {key} is nowhere"

    def on_disk(self) -> set[int]:
        """Versions in chunk files and in the reject file."""
        found: set[int] = set()
        for path in self.folder.glob("*/*.jsonl"):
            lines = path.read_bytes().split(b"\n")[1:-1]
            found.update(map(version_of, lines))
        rejected = self.folder / "rejected.jsonl"
        if rejected.exists():
            found.update(int(json.loads(line)["row"]["v"]) for line in rejected.read_bytes().splitlines())
        return found

    def teardown(self) -> None:
        """With the server back, the next runs bring everything home: the newest version that was not refused.

        Chunks that may be older than what is stored wait for `replay --mode ignore`.
        """
        self.answer = "ok"
        for next_mode in (None, None, Mode.IGNORE, None):
            self.end_run(next_mode)
        assert not list(self.folder.glob("*/*.jsonl"))
        self.nothing_went_wrong()
        self.no_row_is_lost()
        wanted = {key: version for key, version in self.accepted if key is not None and version not in self.refused}
        for key, version in wanted.items():
            # In one chunk a newer version that is refused takes the place of an older one.
            newer = any(k == key and v > version for k, v in self.accepted)
            # What a later run may have overtaken is inserted only where its key is not there.
            assert self.stored.get(key) == version or newer or version in self.ignored
        self.spool.close()
        shutil.rmtree(self.folder)


Runs.TestCase.settings = settings(
    deadline=None, max_examples=150, stateful_step_count=40, suppress_health_check=list(HealthCheck)
)
TestRuns = Runs.TestCase
