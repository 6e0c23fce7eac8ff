"""Parsing of a query string into a `Query`. Syntax errors are PGRST100 with the text of PostgREST's own parser."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus

from scrapy_supabase.local.gateway import grammar
from scrapy_supabase.local.gateway.errors import ApiError, bad_query, not_built
from scrapy_supabase.local.gateway.parsec import ParseError, Parser, either, haskell_show, parse, pure
from scrapy_supabase.local.gateway.ranges import ALL, Range, limit_range
from scrapy_supabase.local.gateway.terms import Field, Filter, Logic, Order, Path

_MOST_PARAMETERS = 2000
_CAST = re.compile(r"::[\w $]+$")
_RESERVED = ("select", "columns", "on_conflict")
_NESTED = ("order", "limit", "offset", "and", "or")
Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Query:
    """Parameters of a request.

    `arguments` are those of a function, `filtered` the names used by filters; `cut` is the text of
    `columns` and the position from which on it could not be parsed.
    """

    # Nine fields, all optional.
    select: tuple[Field, ...] = (Field(Path("*")),)
    where: tuple[Filter | Logic, ...] = ()
    order: tuple[Order, ...] = ()
    range: Range = ALL
    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] | None = None
    arguments: tuple[tuple[str, str], ...] = field(default=())
    filtered: frozenset[str] = frozenset()
    cut: tuple[str, int] | None = None

    def check_columns(self) -> None:
        """Raise `ApiError` if `columns` was not parsed to its end, of which PostgREST would store only a part."""
        if self.cut is not None:
            raise _left_over("columns parameter", *self.cut)


def split(text: str) -> Pairs:
    """Return the decoded parameters that have a value, in order."""
    pieces = re.split("[&;]", text)
    if len(pieces) > _MOST_PARAMETERS:
        raise ApiError(414, "http_414", f"More than {_MOST_PARAMETERS} query parameters.")
    pairs = (piece.partition("=") for piece in pieces)
    return [(_decoded(name), _decoded(value)) for name, equals, value in pairs if equals and name != "apikey"]


@lru_cache(1000)
def parse_query(text: str, *, arguments: bool = False, rows: bool = True) -> Query:
    """Parse a query string. With `arguments`, a value without an operator is an argument of a function.

    `rows` enables limits of embedded tables, which apply when rows are read, not when they are written.
    Raises `ApiError`.
    """
    try:
        return _parse(split(text), arguments=arguments, rows=rows)
    except RecursionError:
        raise ApiError(400, "PGRST100", "The query is nested too deeply.", details="too deep") from None


def _parse(pairs: Pairs, *, arguments: bool, rows: bool) -> Query:
    first = dict(reversed(pairs))
    nested = [(_last(name), name, value) for name, value in pairs]
    orders = [_order(name, value) for last, name, value in nested if last == "order"]
    logic = [_logic(name, value) for last, name, value in nested if last in ("and", "or")]
    columns, cut = _columns(first.get("columns"))
    fields = _whole(grammar.SELECT, "select parameter", first["select"]) if first.get("select") else [Field(Path("*"))]
    others = [(name, value) for last, name, value in nested if name not in _RESERVED and last not in _NESTED]
    filters = [_filter(name, value, arguments=arguments) for name, value in others]
    conflict = _whole(grammar.NAMES, "on_conflict parameter", first["on_conflict"]) if "on_conflict" in first else None
    if any(each.relation for each in fields):
        raise not_built("embedding of related tables")
    if any(each.aggregate for each in fields):
        raise ApiError(400, "PGRST123", "Use of aggregate functions is not allowed")
    limits = [name for last, name, _ in nested if last in ("limit", "offset") and rows]
    paths = [path for path, _ in [*filters, *orders, *logic]] + [_tree_path(name)[0] for name in limits]
    _only_the_root(paths, (term.relation for _, terms in orders for term in terms))
    found = [each for _, each in filters]
    return Query(
        tuple(fields),
        (*(each for each in found if each.operator), *(tree for _, tree in logic)),
        orders[0][1] if orders else (),
        limit_range(pairs),
        columns,
        tuple(conflict) if conflict is not None else None,
        tuple((each.path.column, each.value) for each in found if not each.operator),
        frozenset(name for name, _ in others) | ({"and/or"} if logic else frozenset()),
        cut,
    )


def _decoded(text: str) -> str:
    return unquote_plus(text, errors="replace")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _read(parser: Parser, parameter: str, source: str, text: str) -> tuple[Any, int]:
    """Return the value and the position behind it. Raises `ApiError`."""
    try:
        return parse(parser, text)
    except ParseError as error:
        raise bad_query(parameter, source, error.details, error.line, error.column) from None


def _whole(parser: Parser, parameter: str, source: str, text: str | None = None) -> Any:
    """Return the value of the whole text. The gateway refuses a rest that does not parse; PostgREST ignores it."""
    text = source if text is None else text
    value, at = _read(parser, parameter, source, text)
    if at < len(text):
        raise _left_over(parameter, text, at, source)
    return value


def _left_over(parameter: str, text: str, at: int, source: str | None = None) -> ApiError:
    return bad_query(parameter, text if source is None else source, f"unexpected {haskell_show(text[at])}", 1, at + 1)


def _columns(text: str | None) -> tuple[tuple[str, ...] | None, tuple[str, int] | None]:
    if text is None:
        return None, None
    names, at = _read(grammar.NAMES, "columns parameter", text, text)
    return tuple(sorted(set(names))), (text, at) if at < len(text) else None


def _tree_path(name: str) -> tuple[tuple[str, ...], Path]:
    """Return the tables above a column, and the column. A cast behind it is ignored, as by PostgREST."""
    found: tuple[tuple[str, ...], Path] = _whole(grammar.TREE_PATH, "tree path", _CAST.sub("", name))
    return found


def _filter(name: str, value: str, *, arguments: bool) -> tuple[tuple[str, ...], Filter]:
    parents, path = _tree_path(name)
    if arguments and _read(either(grammar.OPERATION, pure(None)), "filter", value, value)[0] is None:
        return parents, Filter(path, "", value)
    return parents, replace(_whole(grammar.OPERATION, "filter", value), path=path)


def _order(name: str, value: str) -> tuple[tuple[str, ...], tuple[Order, ...]]:
    return _tree_path(name)[0], tuple(_whole(grammar.ORDER, "order", value))


def _logic(name: str, value: str) -> tuple[tuple[str, ...], Logic]:
    path = _whole(grammar.LOGIC_PATH, "logic path", name)
    operator = ("not." if "not" in path else "") + path[-1]
    tree = _whole(grammar.LOGIC, "logic tree", value, operator + value)
    return tuple(part for part in path[:-1] if part != "not"), tree


def _only_the_root(paths: Iterable[tuple[str, ...]], relations: Iterable[str]) -> None:
    """Raise `ApiError` PGRST108 for a parameter of a related table, because none is embedded."""
    name = next((path[0] for path in paths if path), None) or next((name for name in relations if name), None)
    if name is not None:
        message = f"'{name}' is not an embedded resource in this request"
        hint = f"Verify that '{name}' is included in the 'select' query parameter."
        raise ApiError(400, "PGRST108", message, hint=hint)
