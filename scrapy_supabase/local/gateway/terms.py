"""Parsed terms of query parameters: columns, filters, logic, order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Path:
    """Column, or path inside a json column, whose steps are (`->` or `->>`, key or index)."""

    column: str
    steps: tuple[tuple[str, str | int], ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """Entry of `select`. `path.column` is `*` for all columns; `relation` is true if it embeds another table."""

    path: Path
    alias: str = ""
    cast: str = ""
    aggregate: bool = False
    relation: bool = False


@dataclass(frozen=True, slots=True)
class Filter:
    """Filter `path operator value`, with the operator of the URL. `values` are those of `in`."""

    path: Path
    operator: str
    value: str = ""
    negated: bool = False
    quantifier: str = ""
    values: tuple[str, ...] = ()
    language: str = ""


@dataclass(frozen=True, slots=True)
class Logic:
    """Conjunction or disjunction of filters and nested logic."""

    operator: str
    parts: tuple[Filter | Logic, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """Term of `order`; `relation` is the embedded table to which the path belongs."""

    path: Path
    direction: str = ""
    nulls: str = ""
    relation: str = ""
