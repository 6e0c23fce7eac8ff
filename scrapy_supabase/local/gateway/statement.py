"""SQL text with numbered parameters, and the clauses that reading, changing and calling share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from scrapy_supabase.backends.bulk_sql import array_literal, quote
from scrapy_supabase.local.gateway.catalog import Column, Table
from scrapy_supabase.local.gateway.grammar import FULL_TEXT, QUANTIFIED, SIMPLE
from scrapy_supabase.local.gateway.terms import Field, Filter, Logic, Order, Path

_NULLS = {"nullsfirst": " NULLS FIRST", "nullslast": " NULLS LAST", "": ""}
_LIKES = ("like", "ilike")


class Statement:
    """SQL statement under construction: its text refers to `parameters` by `$1`, `$2`, …

    `columns` are those of the table to which paths refer, if known.
    """

    def __init__(self, columns: Mapping[str, Column] | None = None) -> None:
        self.parameters: list[Any] = []
        self._columns = columns or {}

    def value(self, value: Any) -> str:
        """Add a parameter, whose type PostgreSQL infers from the context, and return `$n`."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def path(self, relation: str, path: Path) -> str:
        """Return the SQL of a column, or of a path in a json column; other types are converted to jsonb first."""
        sql = f"{relation}.{quote(path.column)}"
        if path.steps and self._type(path.column) not in ("json", "jsonb"):
            sql = f"to_jsonb({sql})"
        for arrow, key in path.steps:
            sql += f"{arrow}'{key}'::int" if isinstance(key, int) else f"{arrow}{self.value(key)}"
        return sql

    def columns(self, relation: str, fields: Iterable[Field]) -> str:
        """Return the list of a SELECT."""
        return ", ".join(self._column(relation, field) for field in fields)

    def where(self, relation: str, parts: Iterable[Filter | Logic]) -> str:
        """Return a WHERE clause, or the empty text."""
        conditions = self.conditions(relation, parts)
        return " WHERE " + " AND ".join(conditions) if conditions else ""

    def conditions(self, relation: str, parts: Iterable[Filter | Logic]) -> list[str]:
        """Return the conditions, one per filter."""
        return [self._condition(relation, part) for part in parts]

    def order(self, relation: str, terms: Iterable[Order]) -> str:
        """Return an ORDER BY clause, or the empty text."""
        sql = [
            f"{self.path(relation, term.path)} {term.direction.upper()}{_NULLS[term.nulls]}".strip() for term in terms
        ]
        return " ORDER BY " + ", ".join(sql) if sql else ""

    def _type(self, column: str) -> str:
        known = self._columns.get(column)
        return known.format if known else ""

    def _column(self, relation: str, field: Field) -> str:
        if field.path.column == "*":
            return f"{relation}.*"
        sql = self.path(relation, field.path)
        if field.cast:
            sql = f"CAST({sql} AS {field.cast})"  # only letters, digits, blanks, _ and $: the grammar allows no others
        name = field.alias
        if not name and field.path.steps:
            keys = [key for _, key in field.path.steps if isinstance(key, str)]
            name = keys[-1] if keys else field.path.column
        return f"{sql} AS {quote(name)}" if name else sql

    def _condition(self, relation: str, part: Filter | Logic) -> str:
        if isinstance(part, Logic):
            inner = f" {part.operator.upper()} ".join(self._condition(relation, each) for each in part.parts)
            return f"NOT ({inner})" if part.negated else f"({inner})"
        sql = self._comparison(relation, part)
        return f"NOT ({sql})" if part.negated else sql

    def _comparison(self, relation: str, part: Filter) -> str:
        left = self.path(relation, part.path)
        if part.operator == "in":
            values = () if part.values == ("",) else part.values
            return f"{left} = ANY ({self.value(array_literal(values))})"
        if part.operator == "is":
            return f"{left} IS {part.value}"
        if part.operator == "isdistinct":
            return f"{left} IS DISTINCT FROM {self.value(part.value)}"
        if part.operator in FULL_TEXT:
            language = f"{self.value(part.language)}, " if part.language else ""
            if self._type(part.path.column) != "tsvector":
                left = f"to_tsvector({language}{left})"
            return f"{left} @@ {FULL_TEXT[part.operator]}({language}{self.value(part.value)})"
        if part.operator in SIMPLE:
            return f"{left} {SIMPLE[part.operator]} {self.value(part.value)}"
        value = self.value(part.value.replace("*", "%") if part.operator in _LIKES else part.value)
        quantified = f"{part.quantifier} ({value})" if part.quantifier else value
        return f"{left} {QUANTIFIED[part.operator]} {quantified}"


def qualified(table: Table) -> str:
    """Return a table's name as SQL."""
    return f"{quote(table.schema)}.{quote(table.name)}"
