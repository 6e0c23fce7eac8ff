"""Key types: which texts are equal as values of a column's type.

Each function returns the same text for all spellings of a value, or None for a spelling that only the database can
compare. A text that is no value of the type is returned unchanged: the database rejects its row, so that no other row
needs to wait for it. PostgreSQL docs: 8.1 numbers, 8.3 characters, 8.4 bytea, 8.5 dates and times, 8.6 booleans, 8.9
network addresses, 8.12 uuid, F.9 citext.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import msgspec


class KeyType(msgspec.Struct, frozen=True):
    """How values of a type are compared.

    `canonical` returns the same text only for values that are surely equal. `is_exact`: values with different texts
    surely differ; if not exact, they may be equal, such as two timestamps that the column rounds to the same second.
    `plain_ints`: the canonical text of a Python int is `str` of it.
    """

    canonical: Callable[[str], str | None]
    is_exact: bool = True
    plain_ints: bool = False


def key_type(name: str) -> KeyType:
    """Return the `KeyType` of a type. `name` is that of PostgreSQL's `format_type`, without modifiers."""
    if name.endswith(".citext"):  # with the schema of the extension
        name = "citext"
    return _KEY_TYPES.get(name, UNKNOWN)


def _same(text: str) -> str | None:
    return text


def _varchar(text: str) -> str | None:
    # `varchar(2)` silently cuts excess blanks, and the REST API does not report the limit of every column.
    return None if text.endswith(" ") else text


def _char(text: str) -> str | None:
    return text.rstrip(" ")


def _citext(text: str) -> str | None:
    # The lower case of other letters depends on the database's locale.
    return text.lower() if text.isascii() else None


# A character that occurs in no number, also not in PostgreSQL 16's 0x1F and 1_000.
_NOT_IN_NUMBERS = re.compile(r"[^0-9a-fxobp_.+\- \t\n\v\f\r]", re.IGNORECASE)
_NAMED = frozenset({"nan", "inf", "infinity"})


def _if_no_number(text: str) -> str | None:
    bare = text.strip(" \t\n\v\f\r")
    is_none = not bare or (_NOT_IN_NUMBERS.search(bare) and bare.lower().lstrip("+-") not in _NAMED)
    return text if is_none else None


_INTEGER = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]{1,400})[ \t\n\v\f\r]*")


def _integer(text: str) -> str | None:
    found = _INTEGER.fullmatch(text)
    return str(int(found[1])) if found else _if_no_number(text)


_NUMBER = re.compile(
    r"[ \t\n\v\f\r]*([+-]?(?:[0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,3})?)[ \t\n\v\f\r]*"
)


def _numeric(text: str) -> str | None:
    # The rounding of a fraction depends on the column's scale, which the REST API does not report.
    found = _NUMBER.fullmatch(text)
    if not found:
        return _if_no_number(text)
    number = Decimal(found[1])
    return str(int(number)) if number == int(number) else None


def _float8(text: str) -> str | None:
    found = _NUMBER.fullmatch(text)
    return repr(float(found[1]) + 0.0) if found else _if_no_number(text)  # -0.0 equals 0.0


_BOOLEANS = {
    word[:length]: value  # PostgreSQL accepts unique prefixes
    for value, words in (("true", ("true", "yes", "on", "1")), ("false", ("false", "no", "off", "0")))
    for word in words
    for length in range(1, len(word) + 1)
    if word[:length] != "o"
}


def _boolean(text: str) -> str | None:
    return _BOOLEANS.get(text.strip(" \t\n\v\f\r").lower(), text)


_UUID = re.compile(r"(\{)?[0-9a-f]{4}(?:-?[0-9a-f]{4}){7}(?(1)\})", re.IGNORECASE)


def _uuid(text: str) -> str | None:
    return text.strip("{}").replace("-", "").lower() if _UUID.fullmatch(text) else text


_BYTEA = re.compile(r"\\x(?:[0-9a-f]{2})*", re.IGNORECASE)


def _bytea(text: str) -> str | None:
    return text.lower() if _BYTEA.fullmatch(text) else None


def _inet(text: str) -> str | None:
    try:
        return str(ipaddress.ip_interface(text))
    except ValueError:
        return None


_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,15}))?)?(?:(Z)|([+-])(\d\d):?(\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)


def _moment(text: str) -> tuple[datetime, timezone | None] | None:
    """Return date and time of an ISO 8601 text, rounded to microseconds as PostgreSQL does, and its UTC offset."""
    match = _MOMENT.fullmatch(text)
    if not match:
        return None
    day, hour, minute, second, fraction, utc, sign, hours, minutes = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{hour or '00'}:{minute or '00'}:{second or '00'}")
        moment += timedelta(microseconds=round(float(f"0.{fraction or 0}") * 1_000_000))
        if not sign:
            return moment, UTC if utc else None
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
        return moment, timezone(-offset if sign == "-" else offset)
    except (ValueError, OverflowError):
        return None


def _date(text: str) -> str | None:
    found = _moment(text)
    return text[:10] if found else None


def _timestamp(text: str) -> str | None:
    found = _moment(text)
    return found[0].isoformat() if found else None  # PostgreSQL ignores the offset


def _timestamptz(text: str) -> str | None:
    found = _moment(text)
    if not found or found[1] is None:  # without an offset, it is in the session's time zone
        return None
    try:
        return found[0].replace(tzinfo=found[1]).astimezone(UTC).isoformat()
    except OverflowError:
        return None


UNKNOWN = KeyType(_same, is_exact=False)
TEXT = KeyType(_same, plain_ints=True)
_INTEGERS = KeyType(_integer, plain_ints=True)
_KEY_TYPES = {
    "text": TEXT,
    "enum": TEXT,  # the backends' name for every enum type
    "character varying": KeyType(_varchar, plain_ints=True),
    "character": KeyType(_char, plain_ints=True),
    "citext": KeyType(_citext, plain_ints=True),
    "smallint": _INTEGERS,
    "integer": _INTEGERS,
    "bigint": _INTEGERS,
    "int32": _INTEGERS,  # PostgREST's names of integer and bigint
    "int64": _INTEGERS,
    "numeric": KeyType(_numeric, plain_ints=True),
    "double precision": KeyType(_float8),
    "boolean": KeyType(_boolean),
    "uuid": KeyType(_uuid),
    "bytea": KeyType(_bytea),
    "inet": KeyType(_inet),
    "date": KeyType(_date),
    # The REST API does not report how many digits of a second the column keeps.
    "timestamp without time zone": KeyType(_timestamp, is_exact=False),
    "timestamp with time zone": KeyType(_timestamptz, is_exact=False),
}
