"""Reader of row files: JSON Lines, a JSON array of objects or CSV, plain or gzip, from a file or standard input."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize, reason, sentence
from scrapy_supabase.models import Row

FORMATS = ("jsonl", "json", "csv")
_BY_NAME = {".jsonl": "jsonl", ".jl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv"}
_GZIP = b"\x1f\x8b"
_JSON_NAMES = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}
_BLOCK = 64 * 1024
_LONGEST_CELL = 2**31 - 1  # the csv module's own limit is 128 KiB


class FileRow(Row, frozen=True, gc=False):
    """A row of a file: `source` names the file and what is counted in it ("books.csv, line"), `number` counts."""

    source: str
    number: int

    @property
    def location(self) -> str:
        """Where the row is in its file."""
        return f"{self.source} {self.number}"


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is not a row: its content as JSON, its location in the file, and the problem."""

    data: bytes
    location: str
    problem: str


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that should be JSON objects, or blank, without their ends. `number` is that of the first; see `FileRow`."""

    lines: list[bytes]
    source: str
    number: int

    def row(self, at: int) -> dict[str, Any] | BadLine | None:
        """Decode the line at a position; return None if it is blank."""
        line = self.lines[at]
        return _row(line, f"{self.source} {self.number + at}") if line.strip() else None


@dataclass(frozen=True, slots=True)
class Cells:
    """The row of a CSV line."""

    values: dict[str, Any]
    source: str
    number: int


class RowFile:
    """The rows of one file, in order. Can be iterated once: a dict or a `BadLine` each.

    Memory use is constant, except for a JSON array. Numbers are kept as written. `form` is one of `FORMATS`; None: by
    the file's name. `keep_empty`: keep empty CSV cells as empty texts, not NULL. `uploads`: messages say what was
    uploaded. Raises `ConfigurationError` if the file cannot be read or its format is unknown.
    """

    def __init__(
        self,
        name: str,
        form: str | None = None,
        *,
        keep_empty: bool = False,
        encoding: str = "utf-8-sig",
        uploads: bool = True,
    ) -> None:
        self._before = " The rows before that were uploaded." if uploads else ""
        self._nothing = " No row was uploaded." if uploads else ""
        self._again = ", then load the file again" if uploads else ""
        self._name = "standard input" if name == "-" else name
        self._encoding = encoding
        self._keep_empty = keep_empty
        path = Path(name)
        suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        file_format = form or ("jsonl" if name == "-" else _BY_NAME.get(suffix.lower()))
        if file_format is None:
            raise ConfigurationError(f"{name}: unknown file format. Add --format jsonl, json or csv.")
        self.format = file_format
        try:
            self._raw: IO[bytes] = sys.stdin.buffer if name == "-" else path.open("rb")
            self.size = None if name == "-" else path.stat().st_size
        except OSError as error:
            raise ConfigurationError(f"{name} cannot be read: {reason(error)}.") from error
        self._read = 0

    @property
    def position(self) -> int:
        """The number of bytes read so far."""
        with suppress(OSError, ValueError):
            self._read = self._raw.tell()
        return self._read

    def __iter__(self) -> Iterator[dict[str, Any] | BadLine]:
        for part in self.parts():
            if isinstance(part, Lines):
                rows = map(part.row, range(len(part.lines)))
                yield from (row for row in rows if row is not None)
            else:
                yield part.values if isinstance(part, Cells) else part

    def parts(self) -> Iterator[Lines | Cells | BadLine]:
        """Yield the rows as they are in the file, instead of iterating over it."""
        stream = io.BufferedReader(self._raw) if isinstance(self._raw, io.RawIOBase) else self._raw
        try:
            start = stream.peek(2)[:2]  # type: ignore[attr-defined]
            opened = gzip.GzipFile(fileobj=stream) if start == _GZIP else stream
            rows = {"jsonl": self._json_lines, "json": self._json, "csv": self._csv}[self.format]
            yield from rows(opened)  # type: ignore[arg-type]
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigurationError(
                f"{self._name} cannot be read completely: {sentence(error)}{self._before}"
            ) from error

    def close(self) -> None:
        """Close the file, but not standard input."""
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    def _json_lines(self, stream: IO[bytes]) -> Iterator[Lines]:
        number, rest = 1, [b""]
        while block := stream.read1(_BLOCK):  # type: ignore[attr-defined]
            first, newline, more = block.partition(b"\n")
            rest.append(first)
            if not newline:
                continue
            lines = [b"".join(rest), *more.split(b"\n")]
            rest = [lines.pop()]
            yield Lines(lines, f"{self._name}, line", number)
            number += len(lines)
        yield Lines([b"".join(rest)], f"{self._name}, line", number)

    def _json(self, stream: IO[bytes]) -> Iterator[Lines]:
        try:
            rows = msgspec.json.decode(stream.read(), type=list[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{self._name} is not a JSON array of objects: {sentence(error)}{self._nothing} If each line "
                "is an object, add --format jsonl."
            ) from error
        texts = [msgspec.json.format(row, indent=-1) if b"\n" in row else row for row in map(bytes, rows)]
        yield Lines(texts, f"{self._name}, element", 1)

    def _csv(self, stream: IO[bytes]) -> Iterator[Cells | BadLine]:
        csv.field_size_limit(_LONGEST_CELL)
        try:
            text = io.TextIOWrapper(stream, self._encoding, newline="")
        except LookupError as error:
            raise ConfigurationError(
                f"--encoding: {sentence(error)} Use an encoding that Python knows, such as latin-1."
            ) from error
        reader = csv.reader(text, strict=True)
        names: list[str] | None = None
        try:
            for cells in reader:
                if names is None:
                    names = cells
                    if len(set(names)) != len(names):
                        raise ConfigurationError(
                            f"{self._name}: two columns in the header have the same name.{self._nothing} Rename one."
                        )
                elif not cells:
                    continue
                elif len(cells) != len(names):
                    problem = f"it has {pluralize(len(cells), 'cell')}, the header has {len(names)}"
                    yield BadLine(msgspec.json.encode(cells), f"{self._name}, line {reader.line_num}", problem)
                else:
                    filled = cells if self._keep_empty else [cell or None for cell in cells]
                    yield Cells(dict(zip(names, filled, strict=True)), f"{self._name}, line", reader.line_num)
        except UnicodeDecodeError as error:
            after = f", after line {reader.line_num}" if reader.line_num else ""
            raise ConfigurationError(
                f"{self._name}{after}: the text is not {error.encoding} ({error.reason}).{self._before} "
                "Name its encoding, such as --encoding latin-1."
            ) from error
        except csv.Error as error:
            raise ConfigurationError(
                f"{self._name}, line {reader.line_num}: {sentence(error)}{self._before} Fix the line{self._again}."
            ) from error
        finally:
            text.detach()


_decode = msgspec.json.Decoder(dict[str, Any], float_hook=lambda text: msgspec.Raw(text.encode())).decode


def _row(text: bytes, location: str) -> dict[str, Any] | BadLine:
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = str(error)
    except RecursionError:
        problem = "it is nested too deeply"
    with suppress(ValueError, RecursionError):  # Python's json module also writes NaN, Infinity and lone surrogates
        value = json.loads(text)
        if isinstance(value, dict):
            return value
        problem = f"it is {_JSON_NAMES.get(type(value), 'a number')}, not an object"
    return BadLine(msgspec.json.encode(text.decode("utf-8", "replace").rstrip("\n")), location, problem)
