"""Rows → fields: infer for each field the narrowest PostgreSQL type that stores all its values unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Any

import msgspec

from scrapy_supabase.schema.item_fields import ItemField

_WIDER = {  # type → the next wider type
    "bigint": "numeric",
    "numeric": "text",
    "date": "text",
    "boolean": "text",
    "timestamp with time zone": "text",
    "timestamp without time zone": "text",
    "time without time zone": "text",
    "uuid": "text",
    "text": "",
}
_EMPTY = "[]"  # a list without elements
_BIGINT = range(-(2**63), 2**63)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,30}")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?")
_TIMESTAMP = re.compile(rf"{_DATE.pattern}[T ]{_TIME.pattern}(Z|[+-][0-9]{{2}}:?[0-9]{{2}})?")


_CHANGED_BY = {  # type → one that also stores later values unchanged
    "date": "text",  # drops the time of day
    "timestamp without time zone": "text",  # drops the offset
    "time without time zone": "text",  # drops date and offset
    _EMPTY: "jsonb",  # the elements may be of any type
}


class Inference:
    """Infers fields from rows. `texts`: all values are texts, including numbers and booleans (CSV).

    `more_to_come`: these are the first rows, and the types must not change values of later ones.
    """

    def __init__(self, *, texts: bool = False, more_to_come: bool = False) -> None:
        self._texts = texts
        self._more_to_come = more_to_come
        self._types: dict[str, str | None] = {}  # field → type; None: only nulls so far
        self.rows = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row into account."""
        self.rows += 1
        for name, value in row.items():
            before = self._types.setdefault(name, None)
            if value is not None and value == value and before != "jsonb":  # NaN is stored as NULL
                self._types[name] = _common(before, self._type_of(value))

    def add_all(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take all `rows` into account."""
        for row in rows:
            self.add(row)

    @property
    def fields(self) -> tuple[ItemField, ...]:
        """The fields, in the order in which they appeared. None is required: later rows may lack a value."""
        types = {name: found or "" for name, found in self._types.items()}
        if self._more_to_come:
            types = {name: _CHANGED_BY.get(found, found) for name, found in types.items()}
        types = {name: "text[]" if found == _EMPTY else found for name, found in types.items()}
        return tuple(ItemField(name, sql_type) for name, sql_type in types.items())

    def _type_of(self, value: Any) -> str:
        if isinstance(value, bool):
            return "boolean"
        if isinstance(value, int):
            return "bigint" if value in _BIGINT else "numeric"
        if isinstance(value, (float, msgspec.Raw)):  # Raw: a number with a decimal point, as written in the file
            return "numeric"
        if isinstance(value, str):
            return _type_of_text(value, numbers=self._texts)
        if isinstance(value, list):
            return _type_of_list([self._type_of(one) for one in value if one is not None])
        return "jsonb"


def _type_of_text(text: str, *, numbers: bool) -> str:
    """Return the type that stores the value of a text unchanged."""
    if numbers:
        if _INTEGER.fullmatch(text):
            return "bigint" if int(text) in _BIGINT else "numeric"
        if _NUMBER.fullmatch(text):
            return "numeric"
        if text in ("true", "false"):
            return "boolean"
    if _UUID.fullmatch(text):
        return "uuid"
    for pattern, parse, sql_type in _TIMES:
        if (match := pattern.fullmatch(text)) is not None:
            try:
                parse(text)
            except ValueError:
                return "text"
            if pattern is _TIMESTAMP and not match[2]:
                return "timestamp without time zone"
            return sql_type
    return "text"


_TIMES: tuple[tuple[re.Pattern[str], Any, str], ...] = (
    (_DATE, date.fromisoformat, "date"),
    (_TIMESTAMP, datetime.fromisoformat, "timestamp with time zone"),
    (_TIME, time.fromisoformat, "time without time zone"),
)


def _type_of_list(kinds: list[str]) -> str:
    """Return an array type if all elements are texts or all are numbers, else jsonb."""
    common: str | None = None
    for kind in kinds:
        common = _common(common, kind)
    if common is None:
        return _EMPTY
    return f"{common}[]" if common in ("text", "bigint", "numeric") else "jsonb"


def _common(first: str | None, second: str) -> str:
    """Return the narrowest type for values of both types."""
    if first is None or first == second or (first == _EMPTY and second.endswith("[]")):
        return second
    if second == _EMPTY and first.endswith("[]"):
        return first
    if first.endswith("[]") and second.endswith("[]"):
        return f"{_common(first[:-2], second[:-2])}[]"
    wider = [first]
    while wider[-1] in _WIDER:
        wider.append(_WIDER[wider[-1]])
    while second not in wider and second in _WIDER:
        second = _WIDER[second]
    return second if second in wider and second else "jsonb"
