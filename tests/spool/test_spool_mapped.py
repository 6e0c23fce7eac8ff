"""Chunks' files in mapped memory: what is on disk at any moment, also when the process or the machine ends there."""

from __future__ import annotations

import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scrapy_supabase.models import Chunk, Outcome, Row
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool import mapped
from scrapy_supabase.spool.base import Loaded, Stored
from scrapy_supabase.spool.chunk_file import read_chunk
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.mapped import can_map


def spool(folder: Path, run: str = "run", *, fsync: bool = False) -> DiskSpool:
    """Return a run's spool with mapped files on any file system, unless `fsync` is set."""
    schema = Schema({"t": TableSpec("t", on_conflict=("id",))})
    schema.learn_key_types("t", {"id": "text"})
    made = DiskSpool(folder, run, schema, {"run": run}, fsync=fsync)
    assert not fsync or made._files.mapped is None
    made._files.mapped = None if fsync else made._files.map_files()
    return made


def rows(*numbers: int, text: str = "") -> tuple[Row, ...]:
    """Rows with these ids."""
    return tuple(Row("t", ("id", "v"), str(n), json.dumps({"id": n, "v": text}).encode()) for n in numbers)


def chunk_of(disk: DiskSpool, number: int, its_rows: tuple[Row, ...]) -> Chunk:
    """A sealed chunk, its file written."""
    file = disk.open(its_rows[0])
    for row in its_rows:
        file.append(row.data)
    file.close()
    return Chunk(number, its_rows, file.name)


def ids(path: Path) -> list[int]:
    """Return the ids of the rows read back from a file."""
    return [json.loads(line)["id"] for line in read_chunk(path)[1]]


def test_a_row_is_in_the_file_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    """Another reader of the file sees the row, without a write."""
    disk = spool(tmp_path)
    file = disk.open(rows(1)[0])
    for number in (1, 2, 3):
        file.append(rows(number)[0].data)
        assert ids(tmp_path / file.name) == list(range(1, number + 1))
    write, room = file.direct
    write(rows(4)[0].data + b"\n")
    assert room > 900_000
    assert ids(tmp_path / file.name) == [1, 2, 3, 4]
    disk.close()


def test_a_file_is_used_again_behind_what_it_held(tmp_path: Path) -> None:
    """No page is written twice, the first chunk's rows are overwritten, and the file has the new chunk's name."""
    disk = spool(tmp_path)
    first = chunk_of(disk, 1, rows(1, 2))
    disk.settle(Outcome(first, 2))
    before = (tmp_path / first.file).stat().st_ino
    assert read_chunk(tmp_path / first.file) == (None, [], False)
    second = chunk_of(disk, 2, rows(3))
    path = tmp_path / second.file
    assert (path.stat().st_ino, second.file, ids(path)) == (before, "run/00000002.jsonl", [3])
    assert path.read_bytes()[: mmap.PAGESIZE].strip(b"\0") == b""
    assert [path.name for path in sorted((tmp_path / "run").iterdir())] == ["00000002.jsonl", "lock"]
    disk.settle(Outcome(second, 1))
    disk.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "runs.jsonl"]


def test_files_do_not_grow_in_number(tmp_path: Path) -> None:
    """Two hundred chunks, two at a time: there are never more than three files, of a megabyte."""
    disk = spool(tmp_path)
    before: Chunk | None = None
    for number in range(1, 201):
        chunk = chunk_of(disk, number, rows(*range(50), text="x" * 300))
        assert len(ids(tmp_path / chunk.file)) == 50
        if before:
            disk.settle(Outcome(before, 50))
        before = chunk
        files = list((tmp_path / "run").glob("*.jsonl"))
        assert len(files) <= 3
        assert max(path.stat().st_size for path in files) == 1024 * 1024
    disk.close()


@pytest.mark.parametrize("first", [1, 300])
def test_what_does_not_fit_is_appended(tmp_path: Path, first: int) -> None:
    """A chunk or a row larger than the file is stored completely, in order."""
    disk = spool(tmp_path)
    sizes = [first * 1000, 700_000, 10, 600_000, 5_000_000, 10]
    wanted = tuple(rows(number, text="x" * size)[0] for number, size in enumerate(sizes))
    chunk = chunk_of(disk, 1, wanted)
    assert ids(tmp_path / chunk.file) == list(range(len(sizes)))
    assert disk.load(Stored(1, chunk.file, 0)).chunk.rows == wanted  # type: ignore[union-attr]
    disk.settle(Outcome(chunk, len(sizes)))
    assert not (tmp_path / chunk.file).exists()
    disk.close()


def test_what_stays_ends_where_its_lines_do(tmp_path: Path) -> None:
    """Files of left, stored, partly uploaded and unsettled chunks have no NUL bytes at their end."""
    disk = spool(tmp_path)
    for number in (1, 2, 3, 4):
        chunk = chunk_of(disk, number, rows(number, 10 + number))
        if number == 1:
            assert disk.leave(chunk) == ()
        elif number == 2:
            assert disk.store(chunk)
        elif number == 3:
            disk.settle(Outcome(chunk, 1, left=chunk.rows[1:]))
    disk.close()
    found = [path.read_bytes() for path in sorted((tmp_path / "run").glob("*.jsonl"))]
    assert [(data.count(b"\n"), data[-1:], b"\0" in data) for data in found] == [
        (3, b"\n", False),
        (3, b"\n", False),
        (2, b"\n", False),
        (3, b"\n", False),
    ]


def test_a_chunk_settled_after_it_waited_on_disk_is_removed(tmp_path: Path) -> None:
    """Its file is not mapped any more."""
    disk = spool(tmp_path)
    chunk = chunk_of(disk, 1, rows(1))
    stored = disk.store(chunk)
    assert stored
    loaded = disk.load(stored).chunk
    assert loaded
    assert loaded.rows == chunk.rows
    disk.settle(Outcome(loaded, 1))
    assert not (tmp_path / chunk.file).exists()
    disk.close()


def test_with_fsync_nothing_is_mapped(tmp_path: Path) -> None:
    """A copied row would not be on the disk itself."""
    disk = spool(tmp_path, fsync=True)
    chunk = chunk_of(disk, 1, rows(1))
    assert b"\0" not in (tmp_path / chunk.file).read_bytes()
    disk.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.spool.test_spool_mapped import chunk_of, rows, spool
from scrapy_supabase.models import Outcome
disk = spool(Path(sys.argv[1]))
disk.settle(Outcome(chunk_of(disk, 1, rows(1, 2)), 2))
chunk_of(disk, 2, rows(3, 4))
file = disk.open(rows(5)[0])
file.append(rows(5)[0].data)
file.direct[0](rows(6)[0].data[:9])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    """Appended rows are recovered, a row in progress is counted as torn, settled rows are not recovered."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    disk = spool(tmp_path, "later")
    found = disk.recover()
    assert max(stored.size for stored in found) < 3 * mmap.PAGESIZE
    loaded = [disk.load(stored) for stored in found]
    assert [[row.key for row in one.chunk.rows] for one in loaded if one.chunk] == [["3", "4"], ["5"]]
    assert [one.torn for one in loaded] == [0, 1]
    for one in loaded:
        assert one.chunk
        disk.settle(Outcome(one.chunk, len(one.chunk.rows)))
    disk.close()
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("uses", [1, 2])
@pytest.mark.parametrize("overwritten", [(0, 1), (0, 30), (0, 250), (0, 1000), (30, 1000)])
def test_a_file_that_was_being_emptied(tmp_path: Path, uses: int, overwritten: tuple[int, int]) -> None:
    """A partly overwritten file counts as empty, in whatever order its bytes were overwritten."""
    disk = spool(tmp_path, "20260101T000000.000Z-0123abcd")
    for number in range(1, uses):
        disk.settle(Outcome(chunk_of(disk, number, rows(1)), 1))
    chunk = chunk_of(disk, uses, rows(*range(20), text="x" * 100))
    disk.close()
    path = tmp_path / chunk.file
    path.parent.mkdir(exist_ok=True)
    data = bytearray(path.read_bytes())
    start, (first, last) = mmap.PAGESIZE * (uses - 1), overwritten
    data[start] = 0
    data[start + first : start + last] = bytes(last - first)
    path.write_bytes(data)
    later = spool(tmp_path, "later")
    found = later.recover()
    assert [later.load(stored) for stored in found] == [Loaded(None)]
    later.close()
    assert not list(tmp_path.glob("*/*"))


def test_a_copy_that_was_cut_off_in_its_middle(tmp_path: Path) -> None:
    """The end of a line may be copied before its middle."""
    disk = spool(tmp_path)
    chunk = chunk_of(disk, 1, rows(1, 2))
    disk.close()
    path = tmp_path / chunk.file
    whole = path.read_bytes()
    path.write_bytes(whole[:-15] + b"\0" * 8 + whole[-7:] + b"\0" * 100)
    assert (ids(path), read_chunk(path)[2]) == ([1], True)


def test_a_power_cut_may_bring_an_earlier_chunk_back(tmp_path: Path) -> None:
    """The overwriting had not reached the disk: the earlier chunk counts only without a later one in the file."""
    disk = spool(tmp_path)
    first = chunk_of(disk, 1, rows(1, 2))
    earlier = (tmp_path / first.file).read_bytes()[: mmap.PAGESIZE]
    disk.settle(Outcome(first, 2))
    second = chunk_of(disk, 2, rows(3, 4))
    disk.close()
    path = tmp_path / second.file
    later = path.read_bytes()[mmap.PAGESIZE :]
    path.write_bytes(earlier + later)
    assert ids(path) == [3, 4]
    path.write_bytes(earlier + b"\0" * 100)
    assert ids(path) == [1, 2]
    path.write_bytes(earlier + later[:-7])
    assert (ids(path), read_chunk(path)[2]) == ([3], True)


def test_which_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only file systems that reserve space are used for mapped files."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    assert can_map(tmp_path) == (kind.strip() in ("ext2/ext3", "xfs", "tmpfs"))
    assert can_map(Path("/dev/shm"))
    assert not can_map(Path("/proc/self"))
    monkeypatch.setattr(mapped, "_SAFE", frozenset())
    assert not can_map(tmp_path)
    plain = DiskSpool(tmp_path, "run", Schema({"t": TableSpec("t")}), {})
    chunk = chunk_of(plain, 1, rows(1))
    assert b"\0" not in (tmp_path / chunk.file).read_bytes()
    plain.close()


FULL = """
import sys
from pathlib import Path
from scrapy_supabase.models import Outcome
from tests.spool.test_spool_mapped import chunk_of, rows, spool
disk = spool(Path(sys.argv[1]) / "spool")
chunks = [chunk_of(disk, number, rows(*range(100), text="x" * 5000)) for number in range(1, 11)]
whole = sum(disk._files.is_complete(chunk.file) for chunk in chunks)
for chunk in chunks:
    disk.settle(Outcome(chunk, 100))
after = chunk_of(disk, 11, rows(1))
print(whole, disk._files.is_complete(after.file))
"""


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """No SIGBUS kills the process; missing rows are known, and free space is used again."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("no unshare")
    alone = [unshare, *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    script = f'mount -t tmpfs -o size=2500k none "{tmp_path}" && exec "{sys.executable}" -c "$0" "{tmp_path}"'
    done = subprocess.run([*alone, "sh", "-c", script, FULL], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "2 True\n"), done.stderr
    assert "cannot be written: No space left on device" in done.stderr
