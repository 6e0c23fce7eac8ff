"""Conditions on rows, written as a query parameter of the REST API and as SQL with parameters.

Values are texts that the database casts to the column's type, as it does with values in a URL. All conditions go into
one parameter `and=(…)`: PostgREST may ignore a plain parameter whose column has a dot in its name when it changes or
deletes rows (`qsFiltersRoot` of its QueryParams.hs), and would then change every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote as percent_encoded

import msgspec

from scrapy_supabase.backends.bulk_sql import array_literal, quote
from scrapy_supabase.backends.wide import LONGEST_TARGET

COMPARISONS = {"eq": "=", "neq": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}
"""Operator of the REST API → operator of SQL."""


_MOST_ROWS = 200  # in a group
_LONGEST_QUERY = LONGEST_TARGET - 500
_MARKS = 12  # characters beside a name or value: quotes and a comma, percent-encoded


class Condition(msgspec.Struct, frozen=True):
    """A condition on one column. `operator`: one of `COMPARISONS`, `in`, `not_in`, `null`, `not_null`.

    `values` has one text for a comparison, any number for `in` and `not_in`. As in SQL, only `null` is true for NULL.
    """

    column: str
    operator: str
    values: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True):
    """Conditions of which all (`and`) or at least one (`or`) must be true. It has at least one part."""

    operator: str
    parts: tuple[Filter, ...]


Filter = Condition | Group


def equal(column: str, value: str | None) -> Filter:
    """Return the condition for a value; None is NULL."""
    return Condition(column, "null") if value is None else Condition(column, "eq", (value,))


def one_of(column: str, values: Iterable[str | None]) -> Filter:
    """Return the condition for any of several values, NULL among them if one is None."""
    values = list(values)
    texts = tuple(value for value in values if value is not None)
    listed = Condition(column, "in", texts)
    if len(texts) == len(values):
        return listed
    null = Condition(column, "null")
    return Group("or", (listed, null)) if texts else null


def differs(column: str, *values: str | None) -> Filter:
    """Return the condition for a value other than these. Unlike `<>`, it is true for NULL if None is not among them."""
    texts = tuple(value for value in values if value is not None)
    if len(texts) < len(values):
        not_null = Condition(column, "not_null")
        return Group("and", (not_null, Condition(column, "not_in", texts))) if texts else not_null
    return Group("or", (Condition(column, "not_in", texts), Condition(column, "null")))


def matches(columns: Sequence[str], rows: Iterable[Sequence[str | None]]) -> Filter:
    """Return the condition for any of several combinations of values. `rows` has at least one, with all columns."""
    if len(columns) == 1:
        return one_of(columns[0], [row[0] for row in rows])
    return Group("or", tuple(Group("and", tuple(map(equal, columns, row))) for row in rows))


def in_groups(columns: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    """Yield combinations of values in groups for `matches`, each for one request: its URL must not become too long."""
    some: list[tuple[str, ...]] = []
    names = sum(len(percent_encoded(column)) + _MARKS for column in columns) if len(columns) > 1 else 0
    length = 0
    for row in rows:
        size = names + sum(len(percent_encoded(text, safe="")) + _MARKS for text in row)
        if some and (length + size > _LONGEST_QUERY or len(some) == _MOST_ROWS):
            yield some
            some, length = [], 0
        some.append(row)
        length += size
    if some:
        yield some


def to_query(filters: Sequence[Filter]) -> str:
    """Return the parameter of the REST API for rows that meet all `filters`; empty without filters."""
    return "and=" + percent_encoded(f"({','.join(map(_in_query, filters))})", safe="") if filters else ""


def to_sql(filters: Sequence[Filter], parameters: list[bytes]) -> str:
    """Return the SQL condition for rows that meet all `filters`; `TRUE` without filters.

    The values are added to `parameters`, which the statement's `$1`, `$2` … refer to. They must be sent without types.
    """
    return " AND ".join(_in_sql(each, parameters) for each in filters) or "TRUE"


def query_name(name: str) -> str:
    r"""Quote a column's name or a value for the REST API: `with,comma` → `"with,comma"`, `"` → `\"`."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def query_names(names: Iterable[str]) -> str:
    """Return names for a parameter such as `columns=`, percent-encoded."""
    return percent_encoded(",".join(map(query_name, names)), safe="")


def _in_query(part: Filter) -> str:
    if isinstance(part, Group):
        return f"{part.operator}({','.join(map(_in_query, part.parts))})"
    operator, column, values = _simplified(part), query_name(part.column), part.values
    if operator in COMPARISONS:
        return f"{column}.{operator}.{query_name(values[0])}"
    if operator in ("in", "not_in"):
        return f"{column}.{operator.replace('_', '.')}.({','.join(map(query_name, values))})"
    return f"{column}.{'not.' if operator == 'not_null' else ''}is.null"


def _in_sql(part: Filter, parameters: list[bytes]) -> str:
    if isinstance(part, Group):
        return f"({f' {part.operator.upper()} '.join(_in_sql(each, parameters) for each in part.parts)})"

    def parameter(value: str) -> str:
        parameters.append(value.encode())
        return f"${len(parameters)}"

    operator, column, values = _simplified(part), quote(part.column), part.values
    if operator in COMPARISONS:
        return f"{column} {COMPARISONS[operator]} {parameter(values[0])}"
    if operator in ("in", "not_in"):
        return f"{column} {'= ANY' if operator == 'in' else '<> ALL'} ({parameter(array_literal(values))})"
    return f"{column} IS {'NOT ' if operator == 'not_null' else ''}NULL"


def _simplified(condition: Condition) -> str:
    """Return the operator. A list of one value is a comparison: PostgREST reads a list of one empty text as empty."""
    simple: dict[str, Any] = {"in": "eq", "not_in": "neq"}
    return simple.get(condition.operator, condition.operator) if len(condition.values) == 1 else condition.operator
