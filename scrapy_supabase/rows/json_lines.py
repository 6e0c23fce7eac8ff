"""Lines of JSON Lines → rows: many at once, each line sent as it is.

A line is JSON already. To be sent as it is, it must be valid, have exactly the fields of the row before it, and hold
nothing that `values.py` would change. msgspec checks that and decodes the key, which takes 0.5 µs for a line with six
fields; decoding the line, encoding the row and adding it to its chunk takes 5 µs (docs/benchmarks/load.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec

from scrapy_supabase.models import Key
from scrapy_supabase.rows.chunks import OpenChunk
from scrapy_supabase.rows.file_parts import FileRow
from scrapy_supabase.rows.keys import KeyForm
from scrapy_supabase.rows.values import BACKSLASH, CANNOT_ENCODE

if TYPE_CHECKING:
    from scrapy_supabase.rows.builder import RowBuilder
    from scrapy_supabase.schema.schema import Schema

# Escapes of characters that cannot be stored, or may not be: NUL and surrogates.
_MAYBE_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")

Lines = Sequence[bytes]
LinesPath = Callable[[Lines, int, str, int], int]


def lines_path(builder: RowBuilder, schema: Schema, row: dict[str, Any], chunk: OpenChunk) -> LinesPath | None:
    """Return a function that adds lines with the fields of `row` to `chunk`, or None if such lines need a change.

    `builder` must have built `row` just before, and it must have been added. The function takes lines without their
    ends, the position of the first one to add, and its location (see `FileRow`). It returns how many it added: it stops
    at a line that differs, which `builder` must build, and at the chunk's limits.
    """
    shape = builder.shape_for(row, chunk)
    if shape is None:
        return None
    info, version, key = schema.info(chunk.table), schema.version, shape.key
    if info is not None and any(info.columns[column] == "json" for column in shape.json):
        return None  # unlike jsonb, json keeps the text that is sent: spaces, repeated names
    types = key.line_types(row)
    if types is None:
        return None
    names = tuple(row)
    decode = _decoder(names, key.columns, types)
    if decode is None:
        return None
    keys_of = _keys_of(names, key, types)
    table, columns = chunk.table, chunk.columns
    write, most_written = chunk.file.direct
    most_bytes = min(chunk.most_bytes, chunk.size + most_written)
    waiting = chunk.waiting

    def take(lines: Lines, start: int, source: str, number: int) -> int:
        room = chunk.room - len(waiting)
        if room <= 0 or schema.version != version:
            return 0
        part = lines[start : start + room]
        text = _text_of(part)
        while part and chunk.size + len(text) > most_bytes:
            part = part[: len(part) // 2]
            text = _text_of(part)
        checked = part if _is_plain(text) else _plain_start(part)
        keys: list[Key | None] = []
        with suppress(*CANNOT_ENCODE):  # the keys of the lines before the one that raises stay in the list
            keys.extend(keys_of(map(decode, checked)))
        if not keys:
            return 0
        if len(keys) < len(part):
            part = part[: len(keys)]
            text = _text_of(part)
        write(text)
        waiting.extend(map(FileRow, repeat(table), repeat(columns), keys, part, repeat(source), count(number)))
        chunk.size += len(text)
        return len(part)

    return take


def _text_of(lines: Lines) -> bytes:
    return b"\n".join([*lines, b""])


def _is_plain(text: bytes) -> bool:
    """Return whether `text` is UTF-8 that can be stored."""
    if BACKSLASH in text and _MAYBE_UNSTORABLE.search(text):
        return False
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain_start(lines: Lines) -> Lines:
    """Return the lines before the first one that is not plain."""
    for at, line in enumerate(lines):
        if not _is_plain(line):
            return lines[:at]
    return lines


# One for each set of fields; to create one takes 100 µs.
@lru_cache(maxsize=256)
def _decoder(names: tuple[str, ...], key: tuple[str, ...], types: tuple[type, ...]) -> Callable[[bytes], object] | None:
    """Return a function that decodes the key of a line with exactly the fields `names`; it raises for other lines.

    All fields are required and no other is allowed. Values outside the key are checked but not decoded. It does not
    see a field that is there twice: like Python, PostgreSQL takes the last.
    """
    of_key = dict(zip(key, types, strict=True))
    fields = [(f"f{at}", of_key.get(name, msgspec.Raw)) for at, name in enumerate(names)]
    renamed = {f"f{at}": name for at, name in enumerate(names)}
    try:
        kind = msgspec.defstruct("Line", fields, rename=renamed, forbid_unknown_fields=True, gc=False)
    except ValueError:  # a name with quotes or backslashes
        return None
    return msgspec.json.Decoder(kind).decode


def _keys_of(
    names: tuple[str, ...], key: KeyForm, types: tuple[type, ...]
) -> Callable[[Iterable[Any]], Iterable[Key | None]]:
    """Return a function from decoded lines to their keys, as `KeyForm.of` makes them from values."""
    if not types:
        return lambda rows: (None for _ in rows)
    values: Callable[[Any], Any] = attrgetter(*(f"f{names.index(column)}" for column in key.columns))
    if types == (int,):
        return lambda rows: map(str, map(values, rows))
    if types == (str,) and key.is_text:
        return lambda rows: map(values, rows)
    if len(types) == 1:
        (column,) = key.columns
        return lambda rows: (key.of({column: value}) for value in map(values, rows))
    return lambda rows: (key.of(dict(zip(key.columns, several, strict=True))) for several in map(values, rows))
