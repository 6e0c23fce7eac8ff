"""The spool's side of `replay`: list chunks and rejected rows, and turn rejected rows into chunks again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from scrapy_supabase.models import Mode
from scrapy_supabase.rows.chunks import ChunkFile
from scrapy_supabase.spool.access import exists, readable
from scrapy_supabase.spool.base import Stored
from scrapy_supabase.spool.chunk_file import Header, UnreadableError, count_rows, new_header, read_header
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.file_io import append_shared, take
from scrapy_supabase.spool.later_runs import LaterRuns
from scrapy_supabase.spool.reject_file import NO_ROW, REJECTED, RejectedLine, reject_lines
from scrapy_supabase.spool.run_folders import RunNote, chunk_files, is_alive

_MOST_OPEN = 64  # files at once


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk's file in the spool, or the rejected rows of one kind.

    `alive`: the chunk's run is still running. `code`: why the rows were rejected. `problem`: why they cannot be sent.
    """

    path: Path
    header: Header
    rows: int
    alive: bool = False
    code: str = ""
    problem: str = ""


def chunks_in(folder: Path, on_closed: Callable[[Path, PermissionError], object] | None = None) -> Iterator[Found]:
    """Yield every readable chunk file in a spool, oldest first, without locking its folder for long.

    `on_closed` is called with the folder of a run that this user may not read. Without it, and if another user owns
    the spool, raises `ConfigurationError`.
    """
    with readable(folder):
        for run in sorted(path for path in folder.iterdir() if path.is_dir()) if exists(folder) else ():
            try:
                found = list(_chunks_of(run))
            except PermissionError as error:
                if on_closed is None:
                    raise
                on_closed(run, error)
            else:
                yield from found


def _chunks_of(run: Path) -> Iterator[Found]:
    alive = is_alive(run)
    for path in chunk_files(run):
        with suppress(UnreadableError, FileNotFoundError):
            header = read_header(path)
            if header is not None:
                yield Found(path, header, count_rows(path), alive=alive)


def rejects_in(folder: Path) -> list[Found]:
    """Return the content of the reject file, one entry per combination of code, problem and header.

    Raises `ConfigurationError` if another user owns the spool.
    """
    path = folder / REJECTED
    counts: Counter[tuple[str, str, Header]] = Counter()
    with readable(folder):
        if not exists(path):
            return []
    with readable(folder), reject_lines(path) as lines:
        for _, line in lines:
            if line is not None:
                kind = line.code, line.problem(), msgspec.structs.replace(_header_of(line), columns=())
                counts[kind] += 1
    return [
        Found(path, header, number, code=code, problem=problem) for (code, problem, header), number in counts.items()
    ]


def outdated(found: Iterable[Found], runs: list[RunNote], project: str) -> Counter[str]:
    """Count, per table, the rows that may be older than those stored in `project` (`later_runs.LaterRuns`)."""
    later = LaterRuns(runs, project)
    rows: Counter[str] = Counter()
    for one in found:
        if not one.problem and later.may_replace_newer(one.header):
            rows[one.header.table] += one.rows
    return rows


@dataclass(slots=True)
class RequeuedRejects:
    """Rejected rows that are in chunks again, and the number of wanted lines that stay in the file, per problem."""

    chunks: list[Stored] = field(default_factory=list)
    rows: int = 0
    kept: Counter[str] = field(default_factory=Counter)


def requeue_rejects(spool: DiskSpool, wanted: Callable[[Header], bool], chunk_rows: int) -> RequeuedRejects:
    """Turn rejected rows whose header is `wanted` into chunks of at most `chunk_rows` rows in the spool's own folder.

    Other lines return to the reject file, and so do lines with a problem: a row is sent only with the values that were
    scraped. If the process is killed meanwhile, no line is lost.
    """
    result = RequeuedRejects()
    taken = spool.own_folder / REJECTED
    if not take(spool.folder / REJECTED, taken):
        return result
    writing: dict[Header, _ChunkWriter] = {}
    returned: list[bytes] = []
    with reject_lines(taken) as lines:
        for text, line in lines:
            header = _header_of(line) if line is not None else None
            is_wanted = header is None or wanted(header)
            problem = NO_ROW if line is None else line.problem()
            if line is None or header is None or not is_wanted or problem:
                result.kept[problem] += is_wanted
                returned.append(text if text.endswith(b"\n") else text + b"\n")
                continue
            kind = msgspec.structs.replace(header, opened="")
            file = writing.get(kind)
            if file is None:
                spool.learn(header)
                if len(writing) == _MOST_OPEN:
                    result.chunks.append(writing.pop(next(iter(writing))).close())
                file = writing[kind] = _ChunkWriter(spool.open_file(header), header.table)
            file.add(bytes(line.row))
            result.rows += 1
            if file.rows >= chunk_rows:
                result.chunks.append(writing.pop(kind).close())
    result.chunks.extend(file.close() for file in writing.values())
    if returned:
        append_shared(spool.folder / REJECTED, b"".join(returned), fsync=True)
    taken.unlink()
    return result


class _ChunkWriter:
    """A chunk's file to which rejected rows are written."""

    def __init__(self, file: ChunkFile, table: str) -> None:
        self._file = file
        self._table = table
        self.rows = 0
        self._size = 0

    def add(self, row: bytes) -> None:
        self._file.append(row)
        self.rows += 1
        self._size += len(row) + 1

    def close(self) -> Stored:
        self._file.close()
        return Stored(0, self._file.name, self._size, self._table, self.rows, recovered=True)


def _header_of(line: RejectedLine) -> Header:
    """Return the header of the chunk for a rejected row. The columns of an item that was no row are its fields."""
    columns = line.columns
    if columns is None:
        try:
            columns = tuple(sorted(msgspec.json.decode(line.row, type=dict[str, msgspec.Raw])))
        except msgspec.MsgspecError:
            columns = ()
    return new_header(
        line.table,
        columns,
        line.mode or Mode.UPSERT,
        line.writing,
        on_conflict=line.on_conflict,
        key=line.key,
        opened=line.time,
        spider=line.spider,
        project=line.project,
        run=line.run,
    )
