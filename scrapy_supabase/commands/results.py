"""The rows of a query as text: an aligned table, JSON Lines or CSV."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import IO, Any

import msgspec

from scrapy_supabase.errors import ConfigurationError

WIDEST = 60  # characters of a cell on a terminal
_encoder = msgspec.json.Encoder(enc_hook=str, decimal_format="number")


class Json(str):
    """The text of a `json` or `jsonb` value, as the database has it."""

    __slots__ = ()


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text as an aligned table; wide characters count twice."""
    lines = [list(names), *map(list, rows)]
    widths = [max((_width(line[at]) for line in lines), default=0) for at in range(len(names))]
    drawn = [
        " | ".join(text + " " * (w - _width(text)) for text, w in zip(line, widths, strict=True)) for line in lines
    ]
    rule = "-+-".join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in [drawn[0], rule, *drawn[1:]])


def cell(value: object, widest: int | None) -> str:
    """Return a value as a cell of a table, in one line, cut to `widest` characters."""
    if value is None:
        return "NULL"
    text = "".join(c if c.isprintable() else " " for c in _text(value))
    return text if widest is None or len(text) <= widest else f"{text[: widest - 1]}…"


def write_json(names: Sequence[str], rows: Iterable[Sequence[object]], out: IO[str]) -> None:
    """Write an object per row and line. Raises `ConfigurationError` if two columns have the same name."""
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise ConfigurationError(f"Two columns of the result are named {twice!r}: rename one with AS.")
    for row in rows:
        line = {name: _json_value(value) for name, value in zip(names, row, strict=True)}
        out.write(_encoder.encode(line).decode() + "\n")


def write_csv(names: Sequence[str], rows: Iterable[Sequence[object]], out: IO[str]) -> None:
    """Write a header and the rows. As in PostgreSQL's COPY, NULL is an empty cell and an empty text is `""`."""
    for line in chain([names], rows):
        out.write(",".join("" if value is None else _csv_cell(_text(value)) for value in line) + "\n")


def _csv_cell(text: str) -> str:
    plain = text and not set(text) & set(',"\r\n')
    return text if plain else '"' + text.replace('"', '""') + '"'


def _text(value: object) -> str:
    """Return a value as text. Arrays are JSON."""
    if isinstance(value, list):
        return _encoder.encode(_json_value(value)).decode()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes | memoryview):
        return f"\\x{bytes(value).hex()}"
    return str(value)


def _json_value(value: Any) -> Any:
    """Return what the encoder can write: NaN, bytes and intervals become texts, times are in ISO 8601."""
    if isinstance(value, Json):
        return msgspec.Raw(value.encode())
    if isinstance(value, list):
        return [_json_value(one) for one in value]
    if isinstance(value, float | Decimal):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | memoryview | timedelta):
        return _text(value)
    return value


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)
