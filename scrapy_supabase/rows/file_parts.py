"""What `RowFile` reads: lines, rows, bad lines; and the error of a file that cannot be read."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Row

_JSON_NAMES = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}


class FileError(ConfigurationError):
    """A file cannot be read, or not beyond this place. `problem` is a sentence; `remedy` may be empty."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem} {remedy}".rstrip())
        self.problem = problem
        self.remedy = remedy


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
