"""The files of the spool: their format, written and read in one place (docs/reference/spool.md).

A chunk's file is JSON Lines: a header, then one row a line, as it will be sent. The reject file has one refused row a
line, with the reason.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from scrapy_supabase.errors import SupabaseError
from scrapy_supabase.messages import reason, sentence
from scrapy_supabase.models import NO_TABLE, Key, Mode, Rejection, Row
from scrapy_supabase.rows.keys import KeyForm
from scrapy_supabase.rows.values import text_of_json

FORMAT = 1
FORMAT_MIXED = 2  # rows differ in their columns: those of a row are its keys
REJECTED = "rejected.jsonl"
NO_ROW = "without a row. Correct or delete"


class UnreadableError(SupabaseError):
    """A file of the spool that this version cannot read. It is left as it is."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a chunk's file. `opened` is when its first row came, in UTC."""

    format: int
    table: str
    columns: tuple[str, ...]
    mode: Mode
    on_conflict: tuple[str, ...]
    key: tuple[str, ...]
    opened: str
    spider: str = ""
    project: str = ""
    run: str = ""


class RejectedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the reject file.

    Items that never became a row have no `columns`, and in `printed` the fields of `row` whose values are only printed,
    each with that value. Where their table is not known, what follows is missing.
    """

    time: str
    table: str
    code: str
    message: str
    details: str | None = None
    hint: str | None = None
    spider: str = ""
    project: str = ""
    run: str = ""
    columns: tuple[str, ...] | None = None
    mode: Mode | None = None
    on_conflict: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    printed: dict[str, Any] | None = None
    row: msgspec.Raw = msgspec.Raw(b"null")

    def problem(self) -> str:
        """What keeps the line from being uploaded, and what to do; empty where nothing does."""
        row: dict[str, Any] = {}
        with suppress(msgspec.MsgspecError):
            row = msgspec.json.decode(self.row, type=dict[str, Any])
        if not row or self.columns == ():
            return NO_ROW
        if not self.table or self.table == NO_TABLE:
            return 'without a table. Put its name in "table"'
        if self.columns is None and self.printed is None:
            return 'of an older version, whose values may be only printed. Correct "row", and add "printed": {}'
        if any(name in row and row[name] == value for name, value in (self.printed or {}).items()):
            return 'with printed values, which cannot be stored. Replace those that "printed" lists'
        return ""


class AppendFile:
    """A chunk's file while rows are written to it, one unbuffered write each (1.5 µs).

    What cannot be written is told to `on_error` (once, with the file's name) and never raised. `seal` is given the name
    when no row follows, and returns the one that the file has from then on.
    """

    __slots__ = ("_fd", "_on_error", "_seal", "name")

    def __init__(
        self,
        folder: str,
        name: str,
        *,
        seal: Callable[[str], str],
        on_error: Callable[[str, OSError], None],
        fsync: bool,
        is_new: bool = True,
    ) -> None:
        self.name = name
        self._seal = seal
        self._on_error = on_error
        self._fd = -1
        path = f"{folder}/{name}"
        try:
            self._fd = os.open(path, _flags(fsync=fsync) | (os.O_EXCL if is_new else 0), 0o600)
            if fsync:
                sync_folder(Path(path).parent)
        except OSError as error:
            self._end()
            on_error(self.name, error)

    @property
    def direct(self) -> tuple[Callable[[bytes], object], int]:
        """See `chunks.ChunkFile`."""
        return self._write, sys.maxsize

    def append(self, data: bytes) -> None:
        """Write one line."""
        self._write(data + b"\n")

    def _write(self, line: bytes) -> None:
        if self._fd < 0:
            return
        try:
            if os.write(self._fd, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._end()  # what follows a torn line could not be read back
            self._on_error(self.name, error)

    def close(self) -> None:
        """No line follows."""
        self._end()
        self.name = self._seal(self.name)

    def _end(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def append(path: Path, data: bytes, *, fsync: bool) -> None:
    """Add `data` to a file, which is made if need be. Raises `OSError`."""
    fd = os.open(path, _flags(fsync=fsync), 0o600)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)


def append_shared(path: Path, data: bytes, *, fsync: bool) -> None:
    """Add `data` to a file that another process may be about to take away (`take`): all of it, or nothing.

    Raises `OSError`.
    """
    while True:
        fd = os.open(path, _flags(fsync=fsync), 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if same_file(fd, path):
                size = os.fstat(fd).st_size
                try:
                    _write_all(fd, data)
                except OSError:  # a torn line would spoil the next one as well
                    os.ftruncate(fd, size)
                    raise
                return
        finally:
            os.close(fd)


def take(path: Path, to: Path) -> bool:
    """Move a file that others append to. False where there is none."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            path.replace(to)
            return True
        return False
    finally:
        os.close(fd)


def same_file(fd: int, path: Path) -> bool:
    """Whether `path` still is the file that is open as `fd`."""
    try:
        there, opened = path.stat(), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (opened.st_dev, opened.st_ino)


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive the machine."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_header(path: Path) -> Header | None:
    """The header; None where the file ends before it does. Raises `UnreadableError` and `OSError`."""
    return _header(path, first_line(path))


def first_line(path: Path) -> bytes:
    """The header as it is written. Raises `OSError`."""
    with path.open("rb") as file:
        line = file.readline()
        return b"" if _BEING_EMPTIED.match(line) else line.lstrip(b"\0")


def read_chunk(path: Path) -> tuple[Header | None, list[bytes], bool]:
    """Header (None where the file ends before it does), lines, and whether a torn last line was skipped.

    Raises `UnreadableError` and `OSError`.
    """
    *lines, unfinished = path.read_bytes().split(b"\n")
    if lines and b"\0" in lines[-1].lstrip(b"\0"):  # its end was copied, and what comes before that was not
        unfinished = lines.pop()
    torn = bool(unfinished.strip(b"\0"))
    # See spool_mapped.py: a header after NUL bytes is that of a later chunk, if after a power cut an earlier is there.
    begins = [at for at, line in enumerate(lines) if _LATER_HEADER.match(line)]
    if lines and not begins and _BEING_EMPTIED.match(lines[0]):
        return None, [], False
    lines = [line.lstrip(b"\0") for line in lines[begins[-1] if begins else 0 :]]
    return (_header(path, lines[0] + b"\n"), lines[1:], torn) if lines else (None, [], torn)


def lines_in(path: Path) -> frozenset[bytes]:
    """The rows of a chunk's file that a later run will read: none where it cannot read the file."""
    with suppress(UnreadableError, OSError):
        header, lines, _ = read_chunk(path)
        return frozenset(lines) if header else frozenset()
    return frozenset()


@contextmanager
def reject_lines(path: Path) -> Iterator[Iterator[tuple[bytes, RejectedLine | None]]]:
    """Each line of a reject file, as it is and as what it says; None where it says nothing of the kind."""
    with path.open("rb") as file:

        def lines() -> Iterator[tuple[bytes, RejectedLine | None]]:
            for line in file:
                found: RejectedLine | None = None
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    found = msgspec.json.decode(line, type=RejectedLine)
                yield line, found

        yield lines()


def cannot_read(path: Path, error: UnreadableError | OSError) -> str:
    """What is said of a file or folder that cannot be read."""
    why = f"{path} cannot be read: {sentence(reason(error))}" if isinstance(error, OSError) else str(error)
    return why if isinstance(error, FileNotFoundError) else f"{why} It is left as it is."


def cut(path: Path) -> None:
    """Have a chunk's file end where its lines do. Raises `OSError`."""
    with path.open("r+b") as file:
        if not file.seek(0, os.SEEK_END):
            return
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\0":
            file.seek(0)
            file.truncate(len(file.read().rstrip(b"\0")))


def count_rows(path: Path) -> int:
    """How many rows a chunk's file has."""
    with path.open("rb") as file:
        lines = sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
    return max(lines - 1, 0)


def row_of(header: Header, data: bytes, form: KeyForm) -> Row:
    """The row of a line. Raises `ValueError` where it is no JSON object."""
    try:
        values = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        key = key_of_json(values, form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    columns = header.columns if header.format == FORMAT else tuple(sorted(values))
    return Row(header.table, columns, key, data)


def key_of_json(values: Mapping[str, msgspec.Raw], form: KeyForm) -> Key | None:
    """The key of a row of these values, the same that `rows.py` makes of the item."""
    return form.of_texts([text_of_json(values.get(column, _NULL)) for column in form.columns])


def reject_line(rejection: Rejection, facts: Mapping[str, str], header: Mapping[str, Any]) -> bytes:
    """A line of the reject file. `header` holds columns, mode and key of a row, nothing of an item that is none."""
    line: dict[str, Any] = {
        "time": now(),
        "table": rejection.table,
        "code": rejection.code,
        "message": rejection.message,
        "details": rejection.details,
        "hint": rejection.hint,
        **facts,
        **header,
        "row": msgspec.Raw(rejection.data),
    }
    return msgspec.json.encode(line) + b"\n"


def printed_in(rejection: Rejection) -> dict[str, msgspec.Raw]:
    """The fields of a rejected item that are only printed, each with what is printed."""
    with suppress(msgspec.MsgspecError):
        row = msgspec.json.decode(rejection.data, type=dict[str, msgspec.Raw])
        return {name: row[name] for name in rejection.printed}
    return {}


def now() -> str:
    """The time of writing, in UTC; as text it sorts by age."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


_NULL = msgspec.Raw(b"null")
_BEING_EMPTIED = re.compile(b'\0+(?!\0|{"format":|$)')
_LATER_HEADER = re.compile(b'\0+{"format":')


def _header(path: Path, line: bytes) -> Header | None:
    if not line.endswith(b"\n") or line == b"\n":
        return None
    try:
        header = msgspec.json.decode(line, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path} is no file of a spool, or is damaged: {sentence(error)}") from error
    if header.format not in (FORMAT, FORMAT_MIXED):
        raise UnreadableError(
            f"{path} has format {header.format}, and this version of scrapy-supabase reads {FORMAT} and "
            f"{FORMAT_MIXED}: it is another's."
        )
    return header


def _flags(*, fsync: bool) -> int:
    return os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (os.O_DSYNC if fsync else 0)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
