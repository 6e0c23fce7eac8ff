"""Values → JSON bytes that PostgreSQL reads as the same values.

`msgspec.json` encodes (0.4 µs per row). Values that it would change or refuse are converted first:

- bytes, which it encodes in base64, to the `\\x…` that `bytea` reads;
- infinities, which it encodes as null, to the names that `float8` and `numeric` read;
- negative durations, from -PT5S to PT-5S;
- UTC offsets with seconds, which it rounds;
- NUL characters and lone surrogates, which PostgreSQL and JSON cannot store: removed and reported;
- subclasses, types of other libraries, nested items.

NaN is a missing value, as in pandas: NULL.
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


# Types whose values msgspec always encodes as PostgreSQL reads them.
EXACT = frozenset({str, int, bool, type(None), date, UUID, msgspec.Raw})
# Types for which that holds only for values that pass the test. For floats, it holds except for infinities.
EXACT_IF: Mapping[type, Callable[[Any], bool]] = {
    Decimal: _is_number,
    datetime: _has_plain_offset,
    time: _has_plain_offset,
    timedelta: _is_forward,
}
_SCALARS = EXACT | {float}
NUL = b"\\u0000"
BACKSLASH = ord("\\")  # an int: `in` with bytes first tries an int and catches the exception
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

encode_plain = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical").encode
CANNOT_ENCODE = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def encode_row(row: Mapping[str, Any]) -> tuple[bytes, bool]:
    """Return `row` as a JSON object, and whether characters that cannot be stored were removed.

    `row` is not changed. Raises `ItemError`, which names the field that cannot be encoded.
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
        # msgspec encodes an infinite float as null. The search in the bytes spares most rows a look at each value.
        if b"null" in data and any(type(value) is float and math.isinf(value) for value in values):
            row = {name: _plain(value) for name, value in row.items()}
            data = encode_plain(row)
        if BACKSLASH not in data or NUL not in data:  # the first test is ten times as fast
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
    """Return `value` converted to types that msgspec encodes as PostgreSQL reads them."""
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
        from itemadapter import ItemAdapter, is_item  # imports pydantic, which takes 0.1 s; few crawls need it

        if is_item(value):
            return _plain(dict(ItemAdapter(value)))
    return scalar


def _plain_scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    for base, plain in _BASES:  # a subclass, such as pandas' Timestamp or a number with a unit
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
    # msgspec rounds offsets to minutes. PostgreSQL reads offsets with seconds, but not with fractions of seconds.
    offset = plain.utcoffset()
    return plain.isoformat() if offset is not None and not offset.microseconds else plain.astimezone(UTC)


def _time(value: time) -> time | str:
    plain = time(value.hour, value.minute, value.second, value.microsecond, tzinfo=value.tzinfo, fold=value.fold)
    return plain if _has_plain_offset(plain) else plain.isoformat()


def _duration(value: timedelta) -> timedelta | str:
    """Return a duration as PostgreSQL reads it: PT-300S if negative, for which msgspec writes -PT300S."""
    plain = timedelta.__pos__(value)  # a plain timedelta, also for a subclass with other attributes
    if _is_forward(plain):
        return plain
    plain = -plain
    days = f"-{plain.days}D" if plain.days else ""
    fraction = f".{plain.microseconds:06}" if plain.microseconds else ""
    return f"P{days}T-{plain.seconds}{fraction}S"


_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (  # the first match counts: a datetime is also a date
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
    """Return whether a text is a JSON object or array."""
    if text[:100].lstrip()[:1] not in ("{", "["):
        return False
    try:
        msgspec.json.decode(text)
    except CANNOT_ENCODE:
        return False
    return True


def is_null(value: Any) -> bool:
    """Return whether a value is stored as NULL: None, NaN, and what other libraries have for a missing value."""
    if value is None:
        return True
    kind = type(value)
    if kind is str or kind is int or kind is bool or isinstance(value, (dict, list)):
        return False
    try:
        return _plain(value) is None
    except Exception:  # noqa: BLE001 (`encode_row` reports it)
        return False


def is_storable(text: str) -> bool:
    """Return whether PostgreSQL and JSON can store all characters of a text."""
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
    """Return the `ItemError` for the first field that cannot be encoded alone."""
    for name, value in row.items():
        try:
            encode_plain(_plain(value))
        except UnicodeEncodeError:
            continue
        except RecursionError:
            return ItemError("too_deep", f"field {name!r} contains itself or is nested too deeply", name)
        except NoValueError as cause:
            problem = f"field {name!r} has an object of type {cause.type_name}, which cannot be stored."
            return ItemError("not_encodable", f"{problem} {cause.remedy}", name)
        except Exception as cause:  # noqa: BLE001 (any error is that of this field)
            problem = f"field {name!r} of type {_type_name(value)} cannot be stored: {sentence(cause)}"
            return ItemError("not_encodable", f"{problem} Convert it to text, a number, a list or a dict.", name)
    return ItemError("not_encodable", f"the item cannot be stored: {sentence(error)}")


def text_of(value: Any) -> str | None:
    """Return the text that PostgreSQL reads for a scalar; None for NULL. 1 and "1" have the same text."""
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
    """Return `text_of` for a value that is encoded as JSON; None for null."""
    encoded = bytes(value).strip()
    if encoded == b"null":
        return None
    return msgspec.json.decode(encoded, type=str) if encoded.startswith(b'"') else encoded.decode()


def printable(item: Any) -> tuple[bytes, tuple[str, ...]]:
    """Return an item as JSON, and the fields whose values cannot be stored and are only printed. Never raises."""
    from itemadapter import ItemAdapter, is_item

    try:
        is_row = is_item(item)
        fields = dict(ItemAdapter(item)) if is_row else {"item": item}
        encoded: dict[str, Any] = {}
        printed: list[str] = []
        for name, value in fields.items():
            text = _UNSTORABLE.sub("", str(name))
            try:
                encoded[text] = msgspec.Raw(encode_row({"": value})[0][4:-1])
            except ItemError:
                encoded[text] = _UNSTORABLE.sub("", repr(value)[:1000])
                printed.append(text)
            else:
                if text != name or not is_row:
                    printed.append(text)
        return encode_plain(encoded), tuple(printed)
    except Exception:  # noqa: BLE001 (an error in the item's own code must not end the crawl)
        return encode_plain({"item": f"<{_type_name(item)} that cannot be printed>"}), ("item",)


def _type_name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
