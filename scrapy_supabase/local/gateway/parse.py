"""Query parameters → small values: `select`, filters, logic trees, `order`, `columns`, `limit`, `offset`.

The grammar is PostgREST's (docs: references/api/tables_views); what does not parse is PGRST100.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from scrapy_supabase.local.gateway.errors import ApiError, bad_query, not_built

RESERVED = frozenset({"select", "order", "limit", "offset", "columns", "on_conflict"})
_LOGIC = re.compile(r"(not\.)?(and|or)")
_AGGREGATES = ("count()", "sum()", "avg()", "min()", "max()")
_FULL_TEXT = {
    "fts": "to_tsquery",
    "plfts": "plainto_tsquery",
    "phfts": "phraseto_tsquery",
    "wfts": "websearch_to_tsquery",
}
OPERATORS = {
    "eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "LIKE", "ilike": "ILIKE",
    "match": "~", "imatch": "~*", "cs": "@>", "cd": "<@", "ov": "&&", "sl": "<<", "sr": ">>", "nxr": "&<",
    "nxl": "&>", "adj": "-|-", "isdistinct": "IS DISTINCT FROM",
}  # fmt: skip
_QUANTIFIABLE = frozenset({"eq", "like", "ilike", "gt", "gte", "lt", "lte", "match", "imatch"})


@dataclass(frozen=True, slots=True)
class Path:
    """A column, or a place inside a json column: the steps are (`->` or `->>`, key or index)."""

    column: str
    steps: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """An entry of `select`. `path.column` is `*` for all columns."""

    path: Path
    alias: str = ""
    cast: str = ""


@dataclass(frozen=True, slots=True)
class Filter:
    """`path operator value`; `operator` is `in`, `is`, a full-text function, or a key of `OPERATORS`."""

    path: Path
    operator: str
    value: str
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
    """A term of `order`."""

    path: Path
    direction: str = ""
    nulls: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """All parameters of a request; `arguments` are those that are neither reserved nor filters (for functions)."""

    select: tuple[Field, ...]
    where: tuple[Filter | Logic, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0
    columns: tuple[str, ...] | None = None
    on_conflict: tuple[str, ...] = ()
    arguments: tuple[tuple[str, str], ...] = field(default=())


def parse_query(pairs: list[tuple[str, str]], *, function: bool = False) -> Query:
    """Parse the decoded pairs of a query string. For a function, `name=value` without an operator is an argument."""
    given: dict[str, str] = {}
    where: list[Filter | Logic] = []
    arguments: list[tuple[str, str]] = []
    for name, value in pairs:
        logic = _LOGIC.fullmatch(name)
        if name in RESERVED:
            given[name] = value
        elif logic:
            where.append(_logic(f"{name}{value}", value))
        elif "." in name and not name.startswith('"'):
            raise not_built("filters on embedded tables")
        elif function and not _has_operator(value):
            arguments.append((name, value))
        else:
            path = _whole_path(name)
            where.append(_filter(path, value))
    limit = _number(given, "limit")
    if limit is not None and limit < 0:
        details = "Limit should be greater than or equal to zero."
        raise ApiError(416, "PGRST103", "Requested range not satisfiable", details=details)
    return Query(
        _select(given["select"]) if given.get("select") else (Field(Path("*")),),
        tuple(where),
        _order(given["order"]) if given.get("order") else (),
        limit,
        max(0, _number(given, "offset") or 0),
        _names(given["columns"], "columns") if given.get("columns") else None,
        _names(given["on_conflict"], "on_conflict") if given.get("on_conflict") else (),
        tuple(arguments),
    )


class _Cursor:
    """Reads a text from left to right."""

    def __init__(self, text: str, what: str) -> None:
        self.text = text
        self.at = 0
        self.what = what

    def fail(self, details: str = "") -> ApiError:
        found = f'unexpected "{self.text[self.at]}"' if self.at < len(self.text) else "unexpected end of input"
        return bad_query(self.what, self.what, self.text, details or found)

    def skip(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[0]

    @property
    def done(self) -> bool:
        return self.at >= len(self.text)

    def name(self) -> str:
        if self.text.startswith('"', self.at):
            return self.quoted()
        found = self.match(_NAME)
        if not found:
            raise self.fail(f'unexpected "{self.text[self.at : self.at + 1]}" expecting field name (* or [a..z0..9_$])')
        return found

    def quoted(self) -> str:
        found = self.match(_QUOTED)
        if found is None:
            raise self.fail()
        return re.sub(r"\\(.)", r"\1", found[1:-1], flags=re.DOTALL)

    def path(self) -> Path:
        column = self.name()
        steps = []
        while arrow := self.match(_ARROW):
            steps.append((arrow, self.quoted() if self.text.startswith('"', self.at) else self._step()))
        return Path(column, tuple(steps))

    def _step(self) -> str:
        found = self.match(_STEP)
        if not found:
            raise self.fail()
        return found


_NAME = re.compile(r"[\w$ ]+(?:-(?!>)[\w$ ]+)*")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ARROW = re.compile(r"->>?")
_STEP = re.compile(r"-?[\w$ ]+(?:-(?!>)[\w$ ]+)*")
_CAST = re.compile(r"[\w ]+(?:\([\d, ]*\))?(?:\[\])*")


def _whole_path(name: str) -> Path:
    cursor = _Cursor(name, "filter")
    path = cursor.path()
    if not cursor.done:
        raise cursor.fail()
    return path


def _select(text: str) -> tuple[Field, ...]:
    cursor = _Cursor(text, "select parameter")
    fields = [_select_field(cursor)]
    while cursor.skip(","):
        fields.append(_select_field(cursor))
    if not cursor.done:
        raise cursor.fail()
    return tuple(fields)


def _select_field(cursor: _Cursor) -> Field:
    if cursor.skip("..."):
        raise not_built("embedding of related tables")
    if cursor.skip("*"):
        return Field(Path("*"))
    if any(cursor.text.startswith(call, cursor.at) for call in _AGGREGATES):
        raise ApiError(400, "PGRST123", "Use of aggregate functions is not allowed")
    path = cursor.path()
    alias = ""
    if not path.steps and cursor.text.startswith(":", cursor.at) and not cursor.text.startswith("::", cursor.at):
        cursor.skip(":")
        alias = path.column
        if any(cursor.text.startswith(call, cursor.at) for call in _AGGREGATES):
            raise ApiError(400, "PGRST123", "Use of aggregate functions is not allowed")
        path = cursor.path()
    if cursor.text.startswith(("(", "!"), cursor.at):
        raise not_built("embedding of related tables")
    if any(cursor.text.startswith("." + call, cursor.at) for call in _AGGREGATES):
        raise ApiError(400, "PGRST123", "Use of aggregate functions is not allowed")
    cast = ""
    if cursor.skip("::"):
        cast = cursor.match(_CAST) or ""
        if not cast:
            raise cursor.fail()
    return Field(path, alias, cast)


def _order(text: str) -> tuple[Order, ...]:
    terms = []
    cursor = _Cursor(text, "order")
    while True:
        path = cursor.path()
        if cursor.text.startswith("(", cursor.at):
            raise not_built("ordering by embedded tables")
        direction = nulls = ""
        for word in ("asc", "desc"):
            if not direction and cursor.match(re.compile(rf"\.{word}(?![a-z])")):
                direction = word
        for word in ("nullsfirst", "nullslast"):
            if not nulls and cursor.match(re.compile(rf"\.{word}(?![a-z])")):
                nulls = word
        terms.append(Order(path, direction, nulls))
        if not cursor.skip(","):
            break
    if not cursor.done:
        raise cursor.fail()
    return tuple(terms)


def _names(text: str, what: str) -> tuple[str, ...]:
    cursor = _Cursor(text, f"{what} parameter")
    names = [cursor.name().strip()]
    while cursor.skip(","):
        names.append(cursor.name().strip())
    if not cursor.done:
        raise cursor.fail()
    return tuple(dict.fromkeys(names))


def _number(given: dict[str, str], name: str) -> int | None:
    text = given.get(name)
    # PostgREST reads what is no number as if it were not there.
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,18}", text) else None


_OPERATION = re.compile(r"(?P<not>not\.)?(?P<name>[a-z]+)(?:\((?P<option>[^()]*)\))?\.", re.DOTALL)


def _operation(text: str) -> re.Match[str] | None:
    found = _OPERATION.match(text)
    if found is None:
        return None
    name, option = found["name"], found["option"]
    if option is not None:
        fits = (name in _QUANTIFIABLE and option in ("any", "all")) or name in _FULL_TEXT
        return found if fits else None
    return found if name in OPERATORS or name in _FULL_TEXT or name in ("in", "is") else None


def _has_operator(value: str) -> bool:
    return _operation(value) is not None


def _filter(path: Path, text: str, *, in_logic: bool = False) -> Filter:
    found = _operation(text)
    if found is None:
        start = text[:1]
        details = f'unexpected "{start}" expecting "not" or operator (eq, gt, ...)'
        raise bad_query("filter", path.column, text, details if start else "unexpected end of input")
    name, value, negated = found["name"], text[found.end() :], bool(found["not"])
    if in_logic and value.startswith('"') and _QUOTED.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    if name == "in":
        return Filter(path, "in", value, negated, values=_list(text, value, "(", ")"))
    if name == "is":
        word = value.lower()
        if word not in ("null", "not_null", "true", "false", "unknown"):
            raise bad_query("filter", path.column, text, "expecting null, not_null, true, false or unknown")
        return Filter(path, "is", word, negated)
    if name in _FULL_TEXT:
        return Filter(path, _FULL_TEXT[name], value, negated, language=found["option"] or "")
    if found["option"]:
        values = _list(text, value, "{", "}")
        return Filter(path, name, value, negated, quantifier=found["option"].upper(), values=values)
    return Filter(path, name, value, negated)


def _list(text: str, value: str, opening: str, closing: str) -> tuple[str, ...]:
    cursor = _Cursor(value, "filter")
    if not cursor.skip(opening):
        raise bad_query("filter", text, text, f'unexpected "{value[:1]}" expecting "{opening}"')
    if cursor.skip(closing) and cursor.done:
        return ()
    plain = re.compile(rf"[^,{re.escape(closing)}]*")
    values = []
    while True:
        if cursor.text.startswith('"', cursor.at) and (quoted := _QUOTED.match(cursor.text, cursor.at)):
            cursor.at = quoted.end()
            values.append(re.sub(r"\\(.)", r"\1", quoted[0][1:-1], flags=re.DOTALL))
        else:
            values.append(cursor.match(plain) or "")
        if not cursor.skip(","):
            break
    if not (cursor.skip(closing) and cursor.done):
        raise cursor.fail()
    return tuple(values)


def _logic(name_and_value: str, value: str) -> Logic:
    cursor = _Cursor(name_and_value, "logic tree")
    tree = _logic_tree(cursor)
    if tree is None or not cursor.done:
        raise bad_query("logic tree", "", value, "")
    return tree


def _logic_tree(cursor: _Cursor) -> Logic | None:
    """Parse `and(…)`, `not.or(…)`; None where the text goes on otherwise."""
    found = re.compile(r"(not\.)?(and|or)\(").match(cursor.text, cursor.at)
    if found is None:
        return None
    cursor.at = found.end()
    parts: list[Filter | Logic] = []
    while True:
        cursor.match(re.compile(r"\s*"))
        part = _logic_tree(cursor)
        parts.append(part if part is not None else _logic_filter(cursor))
        cursor.match(re.compile(r"\s*"))
        if not cursor.skip(","):
            break
    if not cursor.skip(")"):
        raise cursor.fail()
    return Logic(found[2], tuple(parts), bool(found[1]))


_LOGIC_VALUE = re.compile(
    r"""(?:not\.)?[a-z]+(?:\([^()]*\))?\.(?:"(?:[^"\\]|\\.)*"|\((?:"(?:[^"\\]|\\.)*"|[^")])*\)|\{[^}]*\}|[^,)]*)""",
    re.DOTALL,
)


def _logic_filter(cursor: _Cursor) -> Filter:
    path = cursor.path()
    if not cursor.skip("."):
        raise cursor.fail()
    text = cursor.match(_LOGIC_VALUE)
    if text is None:
        raise cursor.fail()
    return _filter(path, text, in_logic=True)
