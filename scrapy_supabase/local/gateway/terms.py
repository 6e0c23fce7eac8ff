"""What a query parameter says, once parsed: columns, filters, logic, order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Path:
    """A column, or a place inside a json column: the steps are (`->` or `->>`, key or index)."""

    column: str
    steps: tuple[tuple[str, str | int], ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """An entry of `select`. `path.column` is `*` for all columns; `relation` says that it embeds another table."""

    path: Path
    alias: str = ""
    cast: str = ""
    aggregate: bool = False
    relation: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """`path operator value`; `operator` is that of the URL. `values` are those of `in`."""

    path: Path
    operator: str
    value: str = ""
    negated: bool = False
    quantifier: str = ""
    values: tuple[str, ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True)
class Logic:
    """`and` or `or` of filters and further logic."""

    operator: str
    parts: tuple[Filter | Logic, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """A term of `order`; `relation` is the embedded table that the path is of."""

    path: Path
    direction: str = ""
    nulls: str = ""
    relation: str = ""
