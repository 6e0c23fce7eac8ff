"""Reader of row files: JSON Lines, a JSON array of objects or CSV, plain or gzip, from a file or standard input."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from scrapy_supabase.messages import reason, sentence
from scrapy_supabase.rows.csv_files import read_csv, sniff_delimiter
from scrapy_supabase.rows.file_parts import BadLine, Cells, FileError, Lines

FORMATS = ("jsonl", "json", "csv", "tsv")
_BY_NAME = {".jsonl": "jsonl", ".jl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv"}
_WORDS = {"tab": "\t", "\\t": "\t"}
_GZIP = b"\x1f\x8b"
_BLOCK = 64 * 1024
# The start of a file → its encoding. Without a byte order mark, every second byte of an ASCII text is 0.
_WIDE = (
    (re.compile(b"\xff\xfe\0\0|\0\0\xfe\xff", re.DOTALL), "utf-32"),
    (re.compile(b"\xff\xfe|\xfe\xff", re.DOTALL), "utf-16"),
    (re.compile(b"[^\0]\0[^\0]\0", re.DOTALL), "utf-16-le"),
    (re.compile(b"\0[^\0]\0[^\0]", re.DOTALL), "utf-16-be"),
)


class RowFile:
    """The rows of one file, in order. Can be iterated once: a dict or a `BadLine` each.

    Memory use is constant, except for a JSON array. Numbers are kept as written. `form` is one of `FORMATS`; None: by
    the file's name. For CSV: `keep_empty`: keep empty cells as empty texts, not NULL; `delimiter`: one character or
    "tab", None to recognise it. `encoding`: None for UTF-8, or UTF-16 if the file starts like that. Raises `FileError`
    if the file cannot be read or its format is unknown.
    """

    def __init__(
        self,
        name: str,
        form: str | None = None,
        *,
        keep_empty: bool = False,
        encoding: str | None = None,
        delimiter: str | None = None,
    ) -> None:
        self._name = "standard input" if name == "-" else name
        self._encoding = encoding
        self._keep_empty = keep_empty
        path = Path(name)
        suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
        file_format = form or ("jsonl" if name == "-" else _BY_NAME.get(suffix.lower()))
        if file_format is None:
            remedy = "Add --format jsonl, json, csv or tsv, if it is one of these; save other formats as CSV."
            raise FileError(f"{name}: unknown file format.", remedy)
        self.format = "csv" if file_format == "tsv" else file_format
        delimiter = _WORDS.get(delimiter or "", delimiter)
        if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise FileError(f"--delimiter is {delimiter!r}.", 'Use one character, such as ";", or tab.')
        self._delimiter = "\t" if file_format == "tsv" and delimiter is None else delimiter
        try:
            self._raw: IO[bytes] = sys.stdin.buffer if name == "-" else path.open("rb")
            self.size = None if name == "-" else path.stat().st_size
        except OSError as error:
            raise FileError(f"{name} cannot be read: {reason(error)}.") from error
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
        try:
            yield from self._parts(self._unpacked())
        except (OSError, EOFError, zlib.error) as error:
            raise FileError(f"{self._name} cannot be read completely: {sentence(error)}") from error
        except UnicodeDecodeError as error:
            raise FileError(f"{self._name}: the text is not {error.encoding} ({error.reason}).") from error

    def close(self) -> None:
        """Close the file, but not standard input."""
        if self._raw is not sys.stdin.buffer:
            self._raw.close()

    def _unpacked(self) -> io.BufferedReader:
        stream: Any = io.BufferedReader(self._raw) if isinstance(self._raw, io.RawIOBase) else self._raw
        return gzip.GzipFile(fileobj=stream) if stream.peek(2)[:2] == _GZIP else stream  # type: ignore[return-value]

    def _parts(self, stream: io.BufferedReader) -> Iterator[Lines | Cells | BadLine]:
        start = stream.peek(4)[:4]
        wide = next((encoding for pattern, encoding in _WIDE if pattern.match(start)), None)
        if self.format == "csv":
            yield from self._csv(stream, self._encoding or wide or "utf-8-sig")
            return
        if start.startswith(codecs.BOM_UTF8):
            stream.read(len(codecs.BOM_UTF8))
        yield from self._json(stream, wide) if self.format == "json" else self._json_lines(stream, wide)

    def _json_lines(self, stream: io.BufferedReader, wide: str | None) -> Iterator[Lines]:
        number, rest = 1, [b""]
        decoder = codecs.getincrementaldecoder(wide)() if wide else None
        while block := stream.read1(_BLOCK):
            if decoder is not None:
                block = decoder.decode(block).encode()
            first, newline, more = block.partition(b"\n")
            rest.append(first)
            if not newline:
                continue
            lines = [b"".join(rest), *more.split(b"\n")]
            rest = [lines.pop()]
            yield Lines(lines, f"{self._name}, line", number)
            number += len(lines)
        if decoder is not None:
            decoder.decode(b"", final=True)  # raises for half a character
        yield Lines([b"".join(rest)], f"{self._name}, line", number)

    def _json(self, stream: io.BufferedReader, wide: str | None) -> Iterator[Lines]:
        data = stream.read()
        try:
            if wide:
                data = data.decode(wide).encode()
            rows = msgspec.json.decode(data, type=list[msgspec.Raw])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            problem = "it is nested too deeply." if isinstance(error, RecursionError) else sentence(error)
            raise FileError(
                f"{self._name} is not a JSON array of objects: {problem}",
                "If each line is an object, add --format jsonl.",
            ) from error
        lines = [msgspec.json.format(row, indent=-1) if b"\n" in row else row for row in map(bytes, rows)]
        yield Lines(lines, f"{self._name}, element", 1)

    def _csv(self, stream: io.BufferedReader, encoding: str) -> Iterator[Cells | BadLine]:
        try:
            sample = stream.peek(1).decode(encoding, "replace")
            text = io.TextIOWrapper(stream, encoding, newline="")
        except LookupError as error:
            raise FileError(
                f"--encoding: {sentence(error)}", "Use an encoding that Python knows, such as latin-1."
            ) from error
        try:
            delimiter = self._delimiter or sniff_delimiter(sample)
            yield from read_csv(text, self._name, delimiter, keep_empty=self._keep_empty)
        finally:
            text.detach()
