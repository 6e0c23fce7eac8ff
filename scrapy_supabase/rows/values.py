"""Values → JSON bytes that PostgreSQL takes, without changing what they say.

`msgspec.json` does the encoding (0.4 µs a row). What it would alter or refuse is replaced first: bytes (base64 → the
`\\x…` that `bytea` reads), infinities (null → the names that `float8` and `numeric` read), negative durations (-PT5S →
PT-5S), offsets with seconds (rounded), NUL characters and lone surrogates (which PostgreSQL and JSON have no place for:
removed and reported), subclasses, types of other libraries, nested items. NaN is a missing value, as in pandas: NULL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec

from scrapy_supabase.errors import ItemError
from scrapy_supabase.messages import sentence
from scrapy_supabase.schema.library_types import NoValueError, library_type


def _has_plain_offset(value: datetime | time) -> bool:
    zone = value.tzinfo
    if zone is None or zone is UTC:
        return True
    offset = value.utcoffset()
    return offset is None or not (offset.seconds % 60 or offset.microseconds)


def _is_number(value: Decimal) -> bool:
    return not value.is_nan()


def _is_forward(value: timedelta) -> bool:
    return value.days >= 0


# Types that msgspec encodes as PostgreSQL reads them, whatever the value.
EXACT = frozenset({str, int, bool, type(None), date, UUID, msgspec.Raw})
# Types of which it does that for values of which this is true; of floats for all but infinities.
EXACT_IF: Mapping[type, Callable[[Any], bool]] = {
    Decimal: _is_number,
    datetime: _has_plain_offset,
    time: _has_plain_offset,
    timedelta: _is_forward,
}
_SCALARS = EXACT | {float}
NUL = b"\\u0000"
BACKSLASH = ord("\\")  # to be looked for as a number: to look for bytes raises and catches an exception first
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

encode_plain = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical").encode
CANNOT_ENCODE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def encode_row(row: Mapping[str, Any]) -> tuple[bytes, bool]:
    """Return `row` as a JSON object, and whether characters that cannot be stored were removed from it.

    Raises `ItemError` naming the field that cannot be encoded. `row` is not changed.
    """
    values = row.values()
    try:
        if not _SCALARS.issuperset(map(type, values)):
            for value in values:
                kind = type(value)
                if kind not in _SCALARS and (kind not in EXACT_IF or not EXACT_IF[kind](value)):
                    row = {name: _plain(value) for name, value in row.items()}
                    break
        data = encode_plain(row)
        if b"null" in data and any(type(value) is float and math.isinf(value) for value in values):
            row = {name: _plain(value) for name, value in row.items()}
            data = encode_plain(row)
        if BACKSLASH not in data or NUL not in data:  # the first is ten times as fast
            return data, False
    except UnicodeEncodeError:  # a lone surrogate
        pass
    except CANNOT_ENCODE as error:
        raise _blame(row, error) from error
    try:
        row = {name: _plain(value) for name, value in row.items()}
        cleaned = _without_unstorable(row)
        return encode_plain(cleaned), cleaned != row
    except CANNOT_ENCODE as error:
        raise _blame(row, error) from error


def _plain(value: Any) -> Any:
    """Return `value` made of what msgspec encodes as PostgreSQL reads it."""
    kind: type = type(value)
    if kind in EXACT or (kind in EXACT_IF and EXACT_IF[kind](value)):
        return value
    if kind is float:
        return value if value - value == 0.0 else _not_finite(value)
    if kind is list and _SCALARS.issuperset(map(type, value)) and math.inf not in value and -math.inf not in value:
        return value
    if (known := library_type(kind)) is not None:
        return _plain(known.plain(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name if type(name) is str else _name(name): _plain(item) for name, item in value.items()}
    scalar = _plain_scalar(value)
    if scalar is value:
        from itemadapter import ItemAdapter, is_item  # it imports pydantic: 0.1 s that few crawls need

        if is_item(value):
            return _plain(dict(ItemAdapter(value)))
    return scalar


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    for base, plain in _BASES:  # a subclass, such as a number that remembers its unit, or pandas' Timestamp
        if isinstance(value, base):
            return plain(value)
    return value


def _not_finite(value: float) -> str | None:
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"


def _datetime(value: datetime) -> datetime | str:
    zone, fold = value.tzinfo, value.fold
    day = (value.year, value.month, value.day)
    plain = datetime(*day, value.hour, value.minute, value.second, value.microsecond, tzinfo=zone, fold=fold)
    if _has_plain_offset(plain):
        return plain
    # msgspec rounds offsets to minutes. PostgreSQL reads seconds, but no fractions of them.
    offset = plain.utcoffset()
    return plain.isoformat() if offset is not None and not offset.microseconds else plain.astimezone(UTC)


def _time(value: time) -> time | str:
    plain = time(value.hour, value.minute, value.second, value.microsecond, tzinfo=value.tzinfo, fold=value.fold)
    return plain if _has_plain_offset(plain) else plain.isoformat()


def _duration(value: timedelta) -> timedelta | str:
    """A negative duration is -PT300S to msgspec. PostgreSQL wants a sign before each number: PT-300S."""
    plain = timedelta.__pos__(value)  # of a subclass, too, whatever its attributes mean
    if _is_forward(plain):
        return plain
    plain = -plain
    days = f"-{plain.days}D" if plain.days else ""
    fraction = f".{plain.microseconds:06}" if plain.microseconds else ""
    return f"P{days}T-{plain.seconds}{fraction}S"


_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (  # a datetime is a date
    (float, lambda value: _plain(float(value))),
    (str, str),
    (int, int),
    (datetime, _datetime),
    (date, lambda value: date(value.year, value.month, value.day)),
    (time, _time),
    (timedelta, _duration),
    (Decimal, lambda value: None if value.is_nan() else Decimal(value)),
    (UUID, lambda value: UUID(int=value.int)),
)


def _name(key: Any) -> str:
    text = text_of(key)
    if text is None:
        return "null" if key is None else str(key)
    return text


def is_json_text(text: str) -> bool:
    """Whether a text is a JSON object or array."""
    if text[:100].lstrip()[:1] not in ("{", "["):
        return False
    try:
        msgspec.json.decode(text)
    except CANNOT_ENCODE:
        return False
    return True


def is_storable(text: str) -> bool:
    """Whether PostgreSQL and JSON have a place for all its characters."""
    return not _UNSTORABLE.search(text)


def _without_unstorable(value: Any) -> Any:
    if isinstance(value, str):
        return _UNSTORABLE.sub("", value)
    if isinstance(value, dict):
        return {_without_unstorable(name): _without_unstorable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_unstorable(item) for item in value]
    return value


def _blame(row: Mapping[str, Any], error: Exception) -> ItemError:
    """Find the field that cannot be encoded: the first that fails alone."""
    for name, value in row.items():
        try:
            encode_plain(_plain(value))
        except UnicodeEncodeError:
            continue
        except RecursionError:
            return ItemError("too_deep", f"field {name!r} contains itself or is nested too deeply", name)
        except NoValueError as found:
            what = f"field {name!r} holds an object of type {found.holds}, which cannot be stored."
            return ItemError("not_encodable", f"{what} {found.remedy}", name)
        except Exception as found:  # noqa: BLE001 (whatever it is, it is this field's)
            what = f"field {name!r} of type {_type_name(value)} cannot be stored: {sentence(found)}"
            return ItemError("not_encodable", f"{what} Turn it into text, a number, a list or a dict.", name)
    return ItemError("not_encodable", f"the item cannot be stored: {sentence(error)}")


def text_of(value: Any) -> str | None:
    """Return the text PostgreSQL would read for a scalar: 1 and "1" are the same key, True is `true`; None for NULL."""
    kind = type(value)
    if kind is str:
        return value if value.isprintable() else _UNSTORABLE.sub("", value)
    if kind is int:
        return str(value)
    plain = _plain(value)
    if type(plain) is str:
        return text_of(plain)
    if plain is None:
        return None
    encoded = encode_plain(plain)
    decoded = msgspec.json.decode(encoded)
    return decoded if isinstance(decoded, str) else encoded.decode()


def text_of_json(value: msgspec.Raw) -> str | None:
    """What `text_of` returns for the value that `value` is the JSON of; None for null."""
    encoded = bytes(value).strip()
    if encoded == b"null":
        return None
    return msgspec.json.decode(encoded, type=str) if encoded.startswith(b'"') else encoded.decode()


def printable(item: Any) -> tuple[bytes, tuple[str, ...]]:
    """Return an item as JSON, and the fields in it that are only printed, since they cannot be stored. Never raises."""
    from itemadapter import ItemAdapter, is_item

    try:
        is_row = is_item(item)
        fields = dict(ItemAdapter(item)) if is_row else {"item": item}
        shown: dict[str, Any] = {}
        printed: list[str] = []
        for name, value in fields.items():
            text = _UNSTORABLE.sub("", str(name))
            try:
                shown[text] = msgspec.Raw(encode_row({"": value})[0][4:-1])
            except ItemError:
                shown[text] = _UNSTORABLE.sub("", repr(value)[:1000])
                printed.append(text)
            else:
                if text != name or not is_row:
                    printed.append(text)
        return encode_plain(shown), tuple(printed)
    except Exception:  # noqa: BLE001 (an item whose own code fails must not fail the crawl)
        return encode_plain({"item": f"<{_type_name(item)} that cannot be printed>"}), ("item",)


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
