"""The format of a chunk's file, and its reader (docs/reference/spool.md).

A file is JSON Lines: a header, then one row per line, in the bytes that will be sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from scrapy_supabase.errors import SupabaseError
from scrapy_supabase.messages import reason, sentence
from scrapy_supabase.models import Key, Mode, Row, WriteOptions
from scrapy_supabase.rows.keys import KeyForm
from scrapy_supabase.rows.values import text_of_json
from scrapy_supabase.spool.access import owner_remedy

FORMAT = 1
FORMAT_MIXED = 2  # rows differ in their columns: each row's keys are its columns
FORMAT_OPTIONS = 3  # the header has `writing`, or the mode `update`; without columns, the rows differ in theirs
FORMAT_RELATED = 4  # `writing` names another table


class UnreadableError(SupabaseError):
    """A spool file that this version cannot read, and leaves unchanged."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a chunk's file. `opened` is the UTC time at which its first row came."""

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
    writing: WriteOptions | msgspec.UnsetType = msgspec.UNSET

    @property
    def options(self) -> WriteOptions:
        """The options of the table for the write of its rows."""
        return self.writing or WriteOptions()

    @property
    def mixed(self) -> bool:
        """Whether the rows differ in their columns."""
        return not self.columns


def new_header(table: str, columns: tuple[str, ...], mode: Mode, writing: WriteOptions, **facts: Any) -> Header:
    """Return a header in the oldest format that says all about the rows. `facts` are its other fields."""
    if mode is Mode.UPDATE or writing != WriteOptions():
        form = FORMAT_RELATED if writing.parent or writing.references else FORMAT_OPTIONS
        return Header(format=form, table=table, columns=columns, mode=mode, writing=writing, **facts)
    return Header(format=FORMAT if columns else FORMAT_MIXED, table=table, columns=columns, mode=mode, **facts)


def read_header(path: Path) -> Header | None:
    """Return the header, or None if the file ends within it. Raises `UnreadableError` and `OSError`."""
    return _header(path, first_line(path))


def first_line(path: Path) -> bytes:
    """Return the header's line. Raises `OSError`."""
    with path.open("rb") as file:
        line = file.readline()
        return b"" if _BEING_EMPTIED.match(line) else line.lstrip(b"\0")


def read_chunk(path: Path) -> tuple[Header | None, list[bytes], bool]:
    """Return the header (None if the file ends within it), the rows' lines, and whether a torn last line was skipped.

    Raises `UnreadableError` and `OSError`.
    """
    *lines, unfinished = path.read_bytes().split(b"\n")
    if lines and b"\0" in lines[-1].lstrip(b"\0"):  # its end reached the disk, and its middle did not
        unfinished = lines.pop()
    torn = bool(unfinished.strip(b"\0"))
    # See mapped.py: after a power cut, an earlier chunk may precede the last one, whose header follows NUL bytes.
    begins = [at for at, line in enumerate(lines) if _LATER_HEADER.match(line)]
    if lines and not begins and _BEING_EMPTIED.match(lines[0]):
        return None, [], False
    lines = [line.lstrip(b"\0") for line in lines[begins[-1] if begins else 0 :]]
    return (_header(path, lines[0] + b"\n"), lines[1:], torn) if lines else (None, [], torn)


def lines_in(path: Path) -> frozenset[bytes]:
    """Return the rows that a later run can read from a chunk's file: none if it cannot read the file."""
    with suppress(UnreadableError, OSError):
        header, lines, _ = read_chunk(path)
        return frozenset(lines) if header else frozenset()
    return frozenset()


def cannot_read(path: Path, error: UnreadableError | OSError) -> str:
    """Return the message about a file or folder that cannot be read."""
    if not isinstance(error, OSError):
        return f"{error} It is left unchanged."
    why = f"{path} cannot be read: {sentence(reason(error))}"
    if isinstance(error, FileNotFoundError):
        return why
    owner = owner_remedy(path, error)
    return f"{why} It is left unchanged. {owner}".rstrip()


def cut(path: Path) -> None:
    """Truncate a chunk's file after its last line. Raises `OSError`."""
    with path.open("r+b") as file:
        if not file.seek(0, os.SEEK_END):
            return
        file.seek(-1, os.SEEK_END)
        if file.read() == b"\0":
            file.seek(0)
            file.truncate(len(file.read().rstrip(b"\0")))


def count_rows(path: Path) -> int:
    """Return the number of rows in a chunk's file. Raises `OSError`."""
    with path.open("rb") as file:
        lines = sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))
    return max(lines - 1, 0)


def row_of(header: Header, data: bytes, form: KeyForm) -> Row:
    """Return the row of a line. Raises `ValueError` if the line is not a JSON object."""
    try:
        values = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        key = key_of_json(values, form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
    columns = tuple(sorted(values)) if header.mixed else header.columns
    return Row(header.table, columns, key, data)


def key_of_json(values: Mapping[str, msgspec.Raw], form: KeyForm) -> Key | None:
    """Return the key of a row with these values, equal to the one that `rows/builder.py` makes from the item."""
    return form.of_texts([text_of_json(values.get(column, _NULL)) for column in form.columns])


def now() -> str:
    """Return the current time in UTC, in a form that sorts by age."""
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
        raise UnreadableError(f"{path} is not a spool file, or is damaged: {sentence(error)}") from error
    if header.format not in (FORMAT, FORMAT_MIXED, FORMAT_OPTIONS, FORMAT_RELATED):
        raise UnreadableError(
            f"{path} has format {header.format}, which another version of scrapy-supabase wrote; this version reads "
            f"formats {FORMAT} to {FORMAT_RELATED}."
        )
    return header
