"""Lines that are sent as they are become the same rows as lines that are decoded and encoded again."""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrapy_supabase.backends.base import TableInfo
from scrapy_supabase.errors import ItemError
from scrapy_supabase.models import Chunk, Mode
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.rows.chunks import Chunker
from scrapy_supabase.rows.file_parts import BadLine, Lines
from scrapy_supabase.rows.files import RowFile
from scrapy_supabase.rows.json_lines import LinesPath, lines_path
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import EmptyText, TableSpec
from scrapy_supabase.spool.disk import DiskSpool

KEYS = [b"0", b"1", b"2", b'"1"', b'"a"', b"null", b"1.5", b"true", b"-0", b"1180591620717411303424", b'"\\u0031"']
VALUES = [
    *[
        b"null",
        b"1",
        b"-1.50",
        b"1e5",
        b"true",
        b'"text"',
        b'"\\u00e9"',
        '"é"'.encode(),
        b"[1, {}]",
        b'{"a": {"a": 1}}',
    ],
    *[
        b'"\\u0000"',
        b'"\\\\u0000"',
        b'"a\\ud800"',
        b'"\\ud83d\\ude00"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\t"',
        b'"\x00"',
    ],
    *[b"NaN", b"[NaN]", b"Infinity", b"01", b"1.", b'"', b"", b"tru", b'{"a": 1, "a": 2}', b"1, 2", b"[" * 2000],
    *[b'"' + b"x" * 300 + b'"'],
]
LINES = st.one_of(
    st.builds(b'{"id": %b, "a": %b, "b": %b}'.__mod__, st.tuples(*map(st.sampled_from, (KEYS, VALUES, VALUES)))),
    st.builds(b'{"id":%b,"a":%b,"b":1}'.__mod__, st.tuples(*map(st.sampled_from, (KEYS, VALUES)))),
    st.builds(b'{"a": %b, "b": 2, "id": %b} \r'.__mod__, st.tuples(*map(st.sampled_from, (VALUES, KEYS)))),
    st.builds(b'{"id": %b, "a": 1, "b": 2, "a": %b}'.__mod__, st.tuples(*map(st.sampled_from, (KEYS, VALUES)))),
    st.builds(b'{"id": %b, "a": %b, "unknown": 1}'.__mod__, st.tuples(*map(st.sampled_from, (KEYS, VALUES)))),
    st.builds(b'{"id": %b, "a": %b}'.__mod__, st.tuples(*map(st.sampled_from, (KEYS, VALUES)))),
    st.sampled_from(
        [b"", b"  ", b"[]", b'{"id": 1, "a": 1, "b": 2}{"id": 2, "a": 1, "b": 2}', b'{"id": 1, "a": 1,', b"{}"]
    ),
)
UPSERT = TableSpec("t", Mode.UPSERT, ("id",))


class Loading:
    """What `load` does with a file, without a server."""

    def __init__(
        self, folder: Path, spec: TableSpec, types: dict[str, str], *, is_fast: bool, rows: int = 4, size: int = 700
    ) -> None:
        self.schema = Schema({"t": spec})
        self.schema.learn("t", TableInfo(types, spec.on_conflict, frozenset()))
        self.spool = DiskSpool(folder, "run", self.schema, {}, appends=is_fast)
        self.messages: list[str] = []  # in order
        self.builder = RowBuilder({None: spec}, self.schema, {}, self.messages.append)
        self.chunker = Chunker(
            max_rows=rows,
            max_bytes=size,
            max_age=0,
            mode=self.schema.mode,
            references=self.schema.references,
            open_file=self.spool.open,
        )
        self.is_fast = is_fast
        self.taken = 0
        self.chunks: list[Chunk] = []
        self.take: LinesPath | None = None

    def load(self, path: Path, learns: int = -1) -> None:
        """Add the lines of a file. At line `learns`, a column is dropped."""
        with closing(RowFile(str(path))) as file:
            for part in file.parts():
                assert isinstance(part, Lines)
                at = 0
                while at < len(part.lines):
                    if part.number + at > learns >= 0:
                        self.schema.drop("t", "b")
                        learns = -1
                    lines = part.lines if learns < 0 else part.lines[: learns + 1 - part.number]
                    taken = self.take(lines, at, part.source, part.number + at) if self.take else 0
                    if not taken:
                        self.decode(part.row(at))
                    self.taken += taken
                    at += taken or 1
        self.chunks += self.chunker.seal_all()

    def decode(self, row: dict[str, Any] | BadLine | None) -> None:
        """Add a line that is not sent as it is."""
        self.take = None
        if isinstance(row, BadLine):
            self.messages.append(f"{row.location.rpartition('/')[2]}: {row.problem}")
        elif row is not None:
            try:
                self.chunks += self.chunker.add(self.builder.build(row))
            except ItemError as error:
                self.messages.append(f"{error.code}: {error}")
                return
            chunk = self.chunker.only_chunk()
            self.take = lines_path(self.builder, self.schema, row, chunk) if chunk and self.is_fast else None

    def result(self) -> list[Any]:
        """Return the messages and the chunks, with values as JSON has them, and compare each chunk with its file."""
        found: list[Any] = list(self.messages)
        for chunk in self.chunks:
            lines = (self.spool.folder / chunk.file).read_bytes().strip(b"\0\n").split(b"\n")[1:]
            assert {row.data for row in chunk.rows} <= set(lines)
            assert len(lines) == len(chunk.rows) + chunk.superseded
            rows = [(row.table, row.columns, row.key, msgspec.json.decode(row.data)) for row in chunk.rows]
            found.append((chunk.number, rows, chunk.file, chunk.superseded, chunk.keys))
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The spool's folder."""
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@given(
    lines=st.lists(LINES, max_size=30),
    mode=st.sampled_from(Mode),
    key=st.sampled_from([(), ("id",), ("id", "a")]),
    kind=st.sampled_from(["text", "bigint", "uuid", "double precision"]),
    learns=st.integers(0, 60),
)
@settings(deadline=None, max_examples=400)
def test_both_ways_have_the_same_result(
    lines: list[bytes], mode: Mode, key: tuple[str, ...], kind: str, learns: int
) -> None:
    """For any lines in any order, also if a column is dropped in between."""
    results = []
    for is_fast in (False, True):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name, "rows.jsonl")
            path.write_bytes(b"\n".join(lines))
            spec = TableSpec("t", mode, key)
            types = {"id": kind, "a": "text", "b": "text"}
            # Bytes differ, because spaces are kept: with a limit, the chunks would differ, too.
            loading = Loading(Path(name), spec, types, is_fast=is_fast, size=10**6)
            loading.load(path, learns)
            results.append(loading.result())
            loading.spool.close()
    assert results[0] == results[1]


def rows_file(folder: Path, number: int, **more: Any) -> Path:
    """Write a file of similar rows."""
    path = folder.parent / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": at, "a": "é" * at, **more}) + "\n" for at in range(number)))
    return path


def test_lines_are_sent_as_they_are(folder: Path) -> None:
    """All but the first of each chunk, and each row knows its line."""
    loading = Loading(folder, UPSERT, {"id": "bigint", "a": "text", "b": "jsonb"}, is_fast=True, rows=10, size=10**6)
    path = rows_file(folder, 100, b={"x": [1.50, None]})
    loading.load(path)
    assert (len(loading.chunks), loading.taken) == (10, 90)
    lines = path.read_bytes().splitlines()
    rows = sorted((row for chunk in loading.chunks for row in chunk.rows), key=lambda row: int(str(row.key)))
    assert sum(row.data == line for row, line in zip(rows, lines, strict=True)) == 90
    assert [row.location for row in rows if row.location][:2] == [f"{path}, line 2", f"{path}, line 3"]


def test_chunks_keep_their_size_in_bytes(folder: Path) -> None:
    """A line that does not fit begins the next chunk."""
    loading = Loading(folder, UPSERT, {"id": "bigint", "a": "text"}, is_fast=True, rows=1000, size=2000)
    loading.load(rows_file(folder, 100))
    assert loading.taken > 50
    assert max(sum(len(row.data) + 1 for row in chunk.rows) + 1 for chunk in loading.chunks) <= 2000
    assert sum(len(chunk.rows) for chunk in loading.chunks) == 100


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (TableSpec("t", on_conflict=("id",), columns={"a": "b"}), "text"),
        (TableSpec("t", on_conflict=("id",), stamps={"b": "scraped_at"}), "text"),
        (TableSpec("t", on_conflict=("id",), empty_text=EmptyText.NULL), "text"),
        (UPSERT, "json"),
    ],
    ids=["columns", "stamps", "empty_text", "json"],
)
def test_rows_that_need_a_change_are_encoded(folder: Path, spec: TableSpec, kind: str) -> None:
    """By the settings of the table, or because the column keeps the text as it is sent."""
    loading = Loading(folder, spec, {"id": "bigint", "a": kind, "b": "text"}, is_fast=True, rows=10)
    loading.builder._stamps = {"scraped_at": lambda *_: "now"}
    loading.load(rows_file(folder, 5))
    assert loading.taken == 0
    assert sum(len(chunk.rows) for chunk in loading.chunks) == 5
