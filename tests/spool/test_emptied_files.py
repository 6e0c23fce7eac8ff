"""Files of stored chunks take further chunks, if rows are appended many at once (`DiskSpool(appends=True)`)."""

from __future__ import annotations

from pathlib import Path

from scrapy_supabase.models import Chunk, Mode, Outcome, Row
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool.base import Stored
from scrapy_supabase.spool.disk import DiskSpool

SCHEMA = Schema({"t": TableSpec("t", Mode.UPSERT, ("id",))})


def stored_chunk(spool: DiskSpool, number: int) -> Chunk:
    """Write a chunk of one row."""
    row = Row("t", ("id",), str(number), b'{"id":%d}' % number)
    file = spool.open(row)
    file.append(row.data)
    file.close()
    return Chunk(number, (row,), file.name)


def loaded(spool: DiskSpool, file: str) -> tuple[bytes, ...]:
    """Read a chunk back."""
    chunk = spool.load(Stored(1, file, 0)).chunk
    return tuple(row.data for row in chunk.rows) if chunk else ()


def test_a_file_takes_a_further_chunk(tmp_path: Path) -> None:
    """It has only the rows of the later one, and no file is left at the end."""
    spool = DiskSpool(tmp_path, "run", SCHEMA, {"run": "run"}, appends=True)
    first = stored_chunk(spool, 1)
    inode = (tmp_path / first.file).stat().st_ino
    spool.settle(Outcome(first, 1))
    second = stored_chunk(spool, 2)
    assert (tmp_path / second.file).stat().st_ino == inode
    assert not (tmp_path / first.file).exists()
    assert loaded(spool, second.file) == (b'{"id":2}',)
    third = stored_chunk(spool, 3)
    assert loaded(spool, third.file) == (b'{"id":3}',)
    for chunk in (second, third):
        spool.settle(Outcome(chunk, 1))
    spool.close()
    assert list(tmp_path.glob("run/*")) == []


def test_an_emptied_file_has_no_rows_for_the_next_run(tmp_path: Path) -> None:
    """The process may be killed at any time."""
    spool = DiskSpool(tmp_path, "run", SCHEMA, {"run": "run"}, appends=True)
    first, second = stored_chunk(spool, 1), stored_chunk(spool, 2)
    spool.settle(Outcome(first, 1))
    assert (tmp_path / first.file).read_bytes() == b"\0"
    spool._own.leave()  # as the end of the process does
    later = DiskSpool(tmp_path, "later", SCHEMA, {"run": "later"})
    rows = [loaded(later, stored.file) for stored in later.recover()]
    assert rows == [(), (b'{"id":2}',)]
    later.close()
    assert (tmp_path / second.file).exists()
