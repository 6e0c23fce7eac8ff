"""The fast path and the full path produce the same rows, chunks, rejections and files."""

from __future__ import annotations

import datetime as dt
import decimal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from scrapy_supabase.backends.base import TableInfo
from scrapy_supabase.errors import ItemError
from scrapy_supabase.models import Chunk, Mode
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.rows.chunks import Chunker
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.spool.base import Stored
from scrapy_supabase.spool.disk import DiskSpool

KEYS = st.one_of(st.integers(0, 5), st.integers(0, 5).map(str), st.none(), st.sampled_from([1.5, True, 2**70]))
VALUES = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["null", "\\u0000", "a\x00b", "\ud800", '"\n', "x" * 200]),
    st.sampled_from([b"\x01", [1, 2], {"a": float("nan")}, decimal.Decimal("1.10"), dt.date(2026, 1, 1), object()]),
)
ITEMS = st.one_of(
    st.builds(lambda key, a, b: {"id": key, "a": a, "b": b}, KEYS, VALUES, VALUES),
    st.builds(lambda key, a: {"id": key, "a": a}, KEYS, VALUES),
    st.builds(lambda key, a: {"a": a, "id": key}, KEYS, VALUES),
    st.builds(lambda key, a: {"id": key, "unknown": a}, KEYS, VALUES),
    st.builds(lambda a: {"a": a}, VALUES),
    st.just({"unknown": 1}),
)

NANS = [{"id": at, "a": number} for at, number in enumerate((1.0, float("nan"), 2.0))]


class Line:
    """The pipeline's processing of items, without a server."""

    def __init__(self, folder: Path, mode: Mode, key: tuple[str, ...], *, is_fast: bool, is_mapped: bool) -> None:
        self.schema = Schema({"t": TableSpec("t", mode, key)})
        self.schema.learn("t", TableInfo(dict.fromkeys(("id", "a", "b"), "text"), key, frozenset()))
        self.spool = DiskSpool(folder, "run", self.schema, {})
        self.spool._files.mapped = self.spool._files.map_files() if is_mapped else None
        self.messages: list[str] = []  # what happened, in order
        self.builder = RowBuilder({None: self.schema.specs["t"]}, self.schema, {}, self.messages.append)
        self.chunker = Chunker(
            max_rows=4,
            max_bytes=100,
            max_age=0,
            mode=self.schema.mode,
            references=self.schema.references,
            open_file=self.spool.open,
        )
        self.is_fast = is_fast
        self.take: Callable[[Any], bool] | None = None
        self.fast_count = 0
        self.chunks: list[Chunk] = []

    def process(self, item: Any) -> None:
        """Process an item as `SupabasePipeline.process_item` does."""
        try:
            if self.take is not None and self.take(item):
                self.fast_count += 1
                return
            self.chunks += self.chunker.add(self.builder.build(item))
            found = self.chunker.only_chunk()
            self.take = self.builder.fast_path(item, found) if found and self.is_fast else None
        except ItemError as error:
            self.messages.append(f"{error.code}: {error}")

    def result(self) -> list[Any]:
        """Return the messages, and each chunk after comparing it with its file."""
        self.chunks += self.chunker.seal_all()
        described: list[Any] = list(self.messages)
        for chunk in self.chunks:
            loaded = self.spool.load(Stored(chunk.number, chunk.file, 0, rows=1)).chunk
            assert loaded
            assert (loaded.rows, loaded.keys) == (chunk.rows, chunk.keys)
            described.append((chunk.number, chunk.rows, chunk.file, chunk.superseded, chunk.keys))
        return described


@given(
    items=st.lists(ITEMS, max_size=30),
    mode=st.sampled_from(Mode),
    key=st.sampled_from([(), ("id",), ("id", "a")]),
    learns=st.integers(0, 40),
    shrinks=st.integers(0, 40),
    ticks=st.sets(st.integers(0, 30)),
    is_mapped=st.booleans(),
)
@example(items=NANS, mode=Mode.UPSERT, key=("id",), learns=40, shrinks=40, ticks={1}, is_mapped=True)
@settings(deadline=None, max_examples=300)
def test_both_paths_have_the_same_result(
    items: list[Any],
    mode: Mode,
    key: tuple[str, ...],
    learns: int,
    shrinks: int,
    ticks: set[int],
    *,
    is_mapped: bool,
) -> None:
    """For any items in any order, also if a column is dropped or the chunk size shrinks in between."""
    results = []
    for is_fast in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            line = Line(Path(folder), mode, key, is_fast=is_fast, is_mapped=is_mapped)
            for at, item in enumerate(items):
                if at == learns:
                    line.schema.drop("t", "b")
                if at == shrinks:
                    line.chunker.max_rows = 2
                if at in ticks:
                    line.chunks += line.chunker.due()
                line.process(item)
            results.append(line.result())
            line.spool.close()
    assert results[0] == results[1]


def test_most_items_take_the_fast_path(tmp_path: Path) -> None:
    """All rows of a chunk except the first, whatever their values."""
    line = Line(tmp_path, Mode.UPSERT, ("id",), is_fast=True, is_mapped=True)
    line.chunker.max_rows = 10
    line.chunker._max_bytes = 10**6
    for number in range(100):
        line.process({"id": number, "a": [None, 1, "text", 1.5, decimal.Decimal(1)][number % 5], "b": "a\nb"})
    assert (len(line.chunks), line.fast_count) == (9, 90)
    assert [len(chunk.rows) for chunk in line.chunker.due()] == [10]


def test_a_chunk_that_outgrows_its_mapped_file(tmp_path: Path) -> None:
    """Its later rows take the full path, and none is missing."""
    line = Line(tmp_path, Mode.UPSERT, ("id",), is_fast=True, is_mapped=True)
    line.chunker.max_rows = 1000
    line.chunker._max_bytes = 10**7
    for number in range(3000):
        line.process({"id": number, "a": "x" * 2000})
    line.result()
    assert line.fast_count > 1000
    assert sum(len(chunk.rows) for chunk in line.chunks) == 3000


def test_the_chunk_size_shrinks_while_a_chunk_is_open(tmp_path: Path) -> None:
    """The open chunk is sealed at the new size."""
    line = Line(tmp_path, Mode.UPSERT, ("id",), is_fast=True, is_mapped=True)
    for number in range(2):
        line.process({"id": number, "a": ""})
    line.chunker.max_rows = 2
    line.process({"id": 2, "a": ""})
    assert [len(chunk.rows) for chunk in line.chunks] == [2]
