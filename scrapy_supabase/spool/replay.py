"""What `replay` does with a spool before it is uploaded: list it, judge it, take rejects back into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from scrapy_supabase.models import Mode, Stored
from scrapy_supabase.rows.chunks import ChunkFile
from scrapy_supabase.spool.chunk_file import FORMAT, Header, UnreadableError, count_rows, read_header
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.file_io import append_shared, take
from scrapy_supabase.spool.later_runs import LaterRuns
from scrapy_supabase.spool.recovery import RunFolder, RunNote, chunk_files
from scrapy_supabase.spool.reject_file import NO_ROW, REJECTED, RejectedLine, reject_lines

_MOST_OPEN = 64  # files at once


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk's file in the spool, or rejects of one kind: `code` is set, and `problem` where they cannot be sent."""

    path: Path
    header: Header
    rows: int
    alive: bool = False
    code: str = ""
    problem: str = ""


def chunks_in(folder: Path) -> Iterator[Found]:
    """Every chunk's file in a spool, oldest first, without owning it; what cannot be read is left out."""
    for run in sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else ():
        owned = RunFolder.adopt(run)
        if owned is not None:
            owned.release()  # at once: a crawl that starts now must find it free
        for path in chunk_files(run):
            with suppress(UnreadableError, FileNotFoundError):
                header = read_header(path)
                if header is not None:
                    yield Found(path, header, count_rows(path), alive=owned is None)


def rejects_in(folder: Path) -> list[Found]:
    """The reject file, one entry per kind: table, code, mode, run, problem."""
    path = folder / REJECTED
    if not path.exists():
        return []
    counts: Counter[tuple[str, str, Header]] = Counter()
    with reject_lines(path) as lines:
        for _, line in lines:
            if line is not None:
                kind = line.code, line.problem(), msgspec.structs.replace(_header_of(line), columns=())
                counts[kind] += 1
    return [
        Found(path, header, number, code=code, problem=problem) for (code, problem, header), number in counts.items()
    ]


def outdated(found: Iterable[Found], runs: list[RunNote]) -> Counter[str]:
    """Table → rows that may be older than what is stored (`later_runs.LaterRuns`)."""
    later = LaterRuns(runs)
    rows: Counter[str] = Counter()
    for one in found:
        if not one.problem and later.may_be_newer(one.header):
            rows[one.header.table] += one.rows
    return rows


@dataclass(slots=True)
class TakenBack:
    """What became of the reject file: chunks to be uploaded, and lines that stay in it."""

    chunks: list[Stored] = field(default_factory=list)
    rows: int = 0
    kept: Counter[str] = field(default_factory=Counter)  # what keeps lines that are wanted in the file


def take_back_rejects(spool: DiskSpool, wanted: Callable[[Header], bool], chunk_rows: int) -> TakenBack:
    """Turn the rejects that are `wanted` into chunks of at most `chunk_rows` rows in the spool's own folder.

    The others go back to the reject file, and so do those that have a problem: a row that is not what was scraped is
    never sent. Where the process dies in the middle, no line is lost.
    """
    result = TakenBack()
    taken = spool.own_folder / REJECTED
    if not take(spool.folder / REJECTED, taken):
        return result
    writing: dict[Header, _Writing] = {}
    back: list[bytes] = []
    with reject_lines(taken) as lines:
        for text, line in lines:
            header = _header_of(line) if line is not None else None
            is_wanted = header is None or wanted(header)
            problem = NO_ROW if line is None else line.problem()
            if line is None or header is None or not is_wanted or problem:
                result.kept[problem] += is_wanted
                back.append(text if text.endswith(b"\n") else text + b"\n")
                continue
            kind = msgspec.structs.replace(header, opened="")
            file = writing.get(kind)
            if file is None:
                if len(writing) == _MOST_OPEN:
                    result.chunks.append(writing.pop(next(iter(writing))).close())
                file = writing[kind] = _Writing(spool.open_file(header))
            file.add(bytes(line.row))
            result.rows += 1
            if file.rows >= chunk_rows:
                result.chunks.append(writing.pop(kind).close())
    result.chunks.extend(file.close() for file in writing.values())
    if back:
        append_shared(spool.folder / REJECTED, b"".join(back), fsync=True)
    taken.unlink()
    return result


class _Writing:
    """A chunk's file while rejects are written to it."""

    def __init__(self, file: ChunkFile) -> None:
        self._file = file
        self.rows = 0
        self._size = 0

    def add(self, row: bytes) -> None:
        self._file.append(row)
        self.rows += 1
        self._size += len(row) + 1

    def close(self) -> Stored:
        self._file.close()
        return Stored(0, self._file.name, self._size, rows=self.rows, recovered=True)


def _header_of(line: RejectedLine) -> Header:
    """What a reject's chunk would have said of it. An item that never was a row has its fields for columns."""
    columns = line.columns
    if columns is None:
        try:
            columns = tuple(sorted(msgspec.json.decode(line.row, type=dict[str, msgspec.Raw])))
        except msgspec.MsgspecError:
            columns = ()
    return Header(
        format=FORMAT,
        table=line.table,
        columns=columns,
        mode=line.mode or Mode.UPSERT,
        on_conflict=line.on_conflict,
        key=line.key,
        opened=line.time,
        spider=line.spider,
        project=line.project,
        run=line.run,
    )
