"""The selection and order of the rows that a script uploads."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from scrapy_supabase.errors import ConfigurationError


def select_rows(rows: Iterable[Any], top_n: int | None, order_by: str | None) -> Iterable[Any]:
    """Return the first `top_n` rows (None: all), ordered by `order_by`: a field, "field.asc" or "field.desc".

    The default direction is descending; rows without a value come last. Raises `ConfigurationError`, also if `rows` is
    one row or a table of another library.
    """
    _check(rows)
    if order_by is None:
        if top_n is None:
            return rows
        return rows[:top_n] if isinstance(rows, Sequence) else islice(rows, top_n)
    name, _, direction = order_by.partition(".")
    if not name or direction not in ("", "asc", "desc"):
        raise ConfigurationError(f'order_by is {order_by!r}: it must be "field", "field.asc" or "field.desc".')
    key = _value_of(name)
    if top_n is None:
        rows = list(rows)
        top_n = len(rows)
    try:
        return _best(rows, top_n, key, smallest=direction == "asc")
    except TypeError as error:
        raise ConfigurationError(
            f"order_by: the values of {name!r} cannot be compared ({error}). Use a field whose values have one type."
        ) from error


# Attribute of a table → the method that returns its rows as dicts. The first one found counts.
_TABLES = {"to_dicts": "to_dicts()", "to_pylist": "to_pylist()", "columns": 'to_dict("records")'}


def _check(rows: Any) -> None:
    kind = type(rows)
    if isinstance(rows, (list, tuple, Iterator)) and not hasattr(rows, "_fields"):  # a namedtuple is one row
        return
    if kind.__module__.partition(".")[0] in ("pandas", "polars", "pyarrow", "modin", "dask"):
        method = next((call for name, call in _TABLES.items() if hasattr(rows, name)), None)
        if method is not None:
            raise ConfigurationError(f"rows is a {kind.__name__}. Upload its rows as dicts: rows.{method}.")
    from itemadapter import is_item

    if is_item(rows):
        raise ConfigurationError(f"rows is one row, of type {kind.__name__}. Put it into a list: [rows].")
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise ConfigurationError(f"rows is of type {kind.__name__}. It must be an iterable of dicts or other items.")


def _best(rows: Iterable[Any], number: int, key: Callable[[Any], Any], *, smallest: bool) -> list[Any]:
    """Return the first `number` rows in order, holding no more than that many in memory."""
    without: list[Any] = []

    def with_value() -> Iterator[Any]:
        for row in rows:
            if key(row) is not None:
                yield row
            elif len(without) < number:
                without.append(row)

    best = (heapq.nsmallest if smallest else heapq.nlargest)(number, with_value(), key=key)
    return [*best, *without][:number]


def _value_of(name: str) -> Callable[[Any], Any]:
    from itemadapter import ItemAdapter

    return lambda row: row.get(name) if isinstance(row, dict) else ItemAdapter(row).get(name)
