"""The conditions that a person writes as a dict: `{"done": False, "price": {"lt": 5}}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scrapy_supabase.backends.filters import Condition, Filter, differs, equal, one_of
from scrapy_supabase.errors import ConfigurationError, ItemError
from scrapy_supabase.rows.values import text_of

WHERE = "a dict that maps columns to a value, None, a list of values, or a dict such as {'lt': 5}"
_ORDERED = ("lt", "lte", "gt", "gte")
_OPERATORS = (*_ORDERED, "not")


def filters_of(where: Any, name: str = "where") -> tuple[Filter, ...]:
    """Return the conditions of a dict; all of them must be true. `name` is that of the setting or argument.

    A column is mapped to a value it must equal, to None for NULL, to a list of possible values, or to a dict with the
    operators `lt`, `lte`, `gt`, `gte` and `not`. `not` takes a value, None or a list; it is true for NULL, unless None
    is in it. Raises `ConfigurationError`.
    """
    if not isinstance(where, Mapping) or not all(isinstance(column, str) and column for column in where):
        raise ConfigurationError(f"{name} is {where!r}: it must be {WHERE}.")
    return tuple(each for column, value in where.items() for each in _filters(column, value, f"{name}[{column!r}]"))


def _filters(column: str, value: Any, name: str) -> Iterator[Filter]:
    if not isinstance(value, Mapping):
        yield _equal(column, value, name)
        return
    if not value or not value.keys() <= set(_OPERATORS):
        raise ConfigurationError(f"{name} is {value!r}: it must be a dict with keys of {', '.join(_OPERATORS)}.")
    for operator, operand in value.items():
        place = f"{name}[{operator!r}]"
        if operator == "not":
            yield differs(column, *(_texts(operand, place) if _is_list(operand) else [_text(operand, place)]))
        elif operand is None or _is_list(operand):
            raise ConfigurationError(
                f"{place} is {operand!r}: it must be one value, such as a number, a date or a text."
            )
        else:
            yield Condition(column, operator, (_text(operand, place) or "NaN",))  # None: a float that is not a number


def _equal(column: str, value: Any, name: str) -> Filter:
    return one_of(column, _texts(value, name)) if _is_list(value) else equal(column, _text(value, name))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset))


def _texts(values: Any, name: str) -> list[str | None]:
    return [_text(value, name) for value in values]


def _text(value: Any, name: str) -> str | None:
    """Return the text that PostgreSQL reads for a value. Raises `ConfigurationError`."""
    try:
        if isinstance(value, Mapping) or _is_list(value):
            raise ItemError("", "")
        return text_of(value)
    except (ItemError, TypeError, ValueError):
        problem = f"{name} is {value!r}: it must be a text, number, date, time, uuid, True, False or None."
        raise ConfigurationError(problem) from None
