"""SQL text with numbered parameters, and the clauses that reading, changing and calling share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scrapy_supabase.local.gateway.catalog import Table
from scrapy_supabase.local.gateway.parse import OPERATORS, Field, Filter, Logic, Order, Path
from scrapy_supabase.sql import array_literal, quote

_STAR = "*"


class Statement:
    """A statement under construction: text refers to `parameters` by `$1`, `$2`, …"""

    def __init__(self) -> None:
        self.parameters: list[Any] = []

    def value(self, value: Any) -> str:
        """Add a parameter; PostgreSQL finds its type from where it stands. Returns `$n`."""
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def path(self, relation: str, path: Path, *, as_text: bool = False) -> str:
        """A column or json place. A filter compares text: its last `->` gives a json, and casts to text by itself."""
        sql = f"{relation}.{quote(path.column)}"
        if path.steps:
            sql = f"to_jsonb({sql})"
        for number, (arrow, key) in enumerate(path.steps):
            arrow = "->>" if as_text and number == len(path.steps) - 1 and arrow == "->>" else arrow
            index = key.lstrip("-").isascii() and key.lstrip("-").isdigit() and len(key) < 10
            sql += f"{arrow}{int(key)}" if index else f"{arrow}{self.value(key)}::text"
        return sql

    def columns(self, relation: str, fields: Iterable[Field]) -> str:
        """The list of a SELECT."""
        return ", ".join(self._column(relation, field) for field in fields)

    def _column(self, relation: str, field: Field) -> str:
        if field.path.column == _STAR:
            return f"{relation}.*"
        sql = self.path(relation, field.path)
        if field.cast:
            sql = f"CAST({sql} AS {_type(field.cast)})"
        keys = [key for _, key in field.path.steps if not key.lstrip("-").isdigit()]
        name = field.alias or (keys[-1] if keys else field.path.column if field.path.steps or field.cast else "")
        return f"{sql} AS {quote(name)}" if name else sql

    def where(self, relation: str, parts: Iterable[Filter | Logic]) -> str:
        """A WHERE clause, or nothing."""
        conditions = [self._condition(relation, part) for part in parts]
        return " WHERE " + " AND ".join(conditions) if conditions else ""

    def _condition(self, relation: str, part: Filter | Logic) -> str:
        if isinstance(part, Logic):
            inner = f" {part.operator.upper()} ".join(self._condition(relation, each) for each in part.parts)
            return f"NOT ({inner})" if part.negated else f"({inner})"
        sql = self._comparison(relation, part)
        return f"NOT ({sql})" if part.negated else sql

    def _comparison(self, relation: str, part: Filter) -> str:
        left = self.path(relation, part.path, as_text=True)
        if part.operator == "in":
            return f"{left} = ANY ({self.value(array_literal(part.values))})"
        if part.operator == "is":
            return f"{left} IS {part.value.replace('_', ' ').upper()}"
        if part.operator not in OPERATORS:  # full text
            language = f"{self.value(part.language)}, " if part.language else ""
            return f"{left} @@ {part.operator}({language}{self.value(part.value)})"
        likes = part.operator in ("like", "ilike")
        operator = OPERATORS[part.operator]
        if part.quantifier:
            values = tuple(value.replace("*", "%") if likes else value for value in part.values)
            return f"{left} {operator} {part.quantifier} ({self.value(array_literal(values))})"
        return f"{left} {operator} {self.value(part.value.replace('*', '%') if likes else part.value)}"

    def order(self, relation: str, terms: Iterable[Order]) -> str:
        """An ORDER BY clause, or nothing."""
        nulls = {"nullsfirst": " NULLS FIRST", "nullslast": " NULLS LAST", "": ""}
        sql = [
            f"{self.path(relation, term.path)} {term.direction.upper()}{nulls[term.nulls]}".strip() for term in terms
        ]
        return " ORDER BY " + ", ".join(sql) if sql else ""


def qualified(table: Table) -> str:
    """A table's name as SQL."""
    return f"{quote(table.schema)}.{quote(table.name)}"


def _type(cast: str) -> str:
    """The type of a cast: letters, digits, `(10,2)` and `[]` only (the parser saw to it), quoted where it is a name."""
    base, _, rest = cast.strip().partition("(")
    array = "[]" * cast.count("[]")
    base = base.replace("[]", "").strip()
    modifier = f"({rest.split(')')[0]})" if rest else ""
    return f"{base if ' ' in base or base.islower() else quote(base)}{modifier}{array}"
