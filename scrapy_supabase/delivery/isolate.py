"""The search for the rows that caused a refusal. PostgreSQL's messages mostly quote the value, key or row at fault.

The result is a guess. The uploader sends the other rows without the suspects, and the answer decides. `details` are
optional: PostgREST 16 leaves them out with `client-error-verbosity=minimal`, and then there are fewer guesses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation

import msgspec

from scrapy_supabase.errors import ServerError
from scrapy_supabase.models import Row
from scrapy_supabase.rows.values import text_of_json

Values = Mapping[str, str | None]  # column → text of the value, None for NULL

_NOT_NULL = re.compile(r'null value in column "(.+?)"')
_KEY = re.compile(r"(?s)Key \((.+?)\)=\((.*)\) (?:already exists|is not present|conflicts with)")
_FAILING_ROW = re.compile(r"(?s)Failing row contains \((.*)\)")
_OF_A_TYPE = re.compile(r'(?s)invalid input (?:syntax|value) for (?:type|enum) ([^:]+): "(.*)"$')
_OUT_OF_RANGE = re.compile(r'(?s)value "(.*)" is out of range for type (.+)$')
_QUOTED_LAST = re.compile(r'(?s): "(.*)"$')
_TOO_LONG = re.compile(r"value too long for type (character(?: varying)?|bit(?: varying)?)\((\d+)\)")
_OVERFLOW = re.compile(r"less than 10\^(\d+)")
_INTEGERS = {"int32": ("smallint", "integer"), "int64": ("bigint",)}  # names in PostgREST's OpenAPI document
_WORD = range(3, 200)  # length, in characters, of values to search for anywhere in a message


class Suspects(msgspec.Struct, frozen=True):
    """The rows that a refusal seems to be about, and the columns at fault if they are known.

    `sure` means that the message fits these rows and no others: storing all others proves these at fault.
    """

    rows: tuple[Row, ...] = ()
    columns: tuple[str, ...] = ()
    sure: bool = False


def find_suspects(error: ServerError, rows: Sequence[Row], types: Mapping[str, str]) -> Suspects:
    """Return the suspects among `rows`, if the error identifies any. `types` maps columns to their type names."""
    values = [_texts(row) for row in rows]
    message, details = error.message, error.details or ""
    hits = (
        _with_key(details, values)
        or _with_value(message, values, types)
        or _with_null(message, values)
        or _with_failing_row(details, values)
        or _with_too_much(message, details, values, types)
    )
    if not hits:
        return Suspects(tuple(rows[at] for at in _with_words(f"{message} {details}", values)))
    columns = tuple(dict.fromkeys(column for found in hits.values() for column in found))
    # All rows with the same malformed value, or with the same missing key, are at fault alike.
    alike = error.code == "23503" or (error.code == "22P02" and all(types.get(column) for column in columns))
    # A trigger's own statement, or one that creates parents, quotes a row of another table.
    is_of_table = 'relation "' not in message or f'relation "{rows[0].table}"' in message
    return Suspects(tuple(rows[at] for at in hits), columns, sure=is_of_table and (len(hits) == 1 or alike))


def columns_at_fault(error: ServerError, row: Row, types: Mapping[str, str]) -> tuple[str, ...]:
    """Return the columns of a rejected row whose values the refusal quotes; none if it names a column itself."""
    if not error.code.startswith("22") or 'column "' in error.message:
        return ()
    return find_suspects(error, [row], types).columns


Hits = dict[int, tuple[str, ...]]  # index of a row → its columns at fault


def _with_key(details: str, values: Sequence[Values]) -> Hits:
    found = _KEY.search(details)
    if not found:
        return {}
    columns = tuple(name.strip('"').replace('""', '"') for name in found[1].split(", "))
    wanted = [_plain(each) for each in (found[2].split(", ") if len(columns) > 1 else [found[2]])]
    return {
        at: columns
        for at, row in enumerate(values)
        if [_plain(text) if (text := row.get(column)) is not None else None for column in columns] == wanted
    }


def _with_value(message: str, values: Sequence[Values], types: Mapping[str, str]) -> Hits:
    if found := _OF_A_TYPE.search(message):
        kind, text = found[1], found[2]
    elif found := _OUT_OF_RANGE.search(message):
        kind, text = found[2], found[1]
    elif found := _QUOTED_LAST.search(message):
        kind, text = "", found[1]
    else:
        return {}
    return _fitting(values, lambda column, value: value == text and _may_be(types.get(column), kind))


def _may_be(known: str | None, kind: str) -> bool:
    """Return whether a message about type `kind` can mean a column of type `known` (None: unknown)."""
    if not known or not kind:
        return True
    if known in _INTEGERS:
        return kind in _INTEGERS[known]
    return known == kind or known.rpartition(".")[2] == kind.rpartition(".")[2] or known.endswith("[]")


def _with_null(message: str, values: Sequence[Values]) -> Hits:
    found = _NOT_NULL.search(message)
    if not found:
        return {}
    return {at: (found[1],) for at, row in enumerate(values) if row.get(found[1]) is None}


def _with_failing_row(details: str, values: Sequence[Values]) -> Hits:
    """Return the row with the most values in the quoted list; several rows if they have equally many."""
    found = _FAILING_ROW.search(details)
    if not found:
        return {}
    listed = {_plain(part) for part in found[1].split(", ")}
    scores = [sum(text is not None and _plain(text) in listed for text in row.values()) for row in values]
    best = max(scores, default=0)
    return {at: () for at, score in enumerate(scores) if score == best} if best else {}


def _with_too_much(message: str, details: str, values: Sequence[Values], types: Mapping[str, str]) -> Hits:
    if found := _TOO_LONG.search(message):
        kind, most = found[1], int(found[2])
        return _fitting(values, lambda column, value: len(value) > most and _may_be(types.get(column), kind))
    if found := _OVERFLOW.search(details):
        limit = Decimal(10) ** int(found[1])

        def is_over(column: str, value: str) -> bool:
            number = _number(value)
            return number is not None and abs(number) >= limit and _may_be(types.get(column), "numeric")

        return _fitting(values, is_over)
    return {}


def _with_words(words: str, values: Sequence[Values]) -> list[int]:
    """Return the rows with the most text in the message, as the length of all values found; none if all are equal."""

    def score(row: Values) -> int:
        texts = (text for text in row.values() if text is not None and len(text) in _WORD and text in words)
        return sum(len(text) for text in texts if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", words))

    scores = [score(row) for row in values]
    best = max(scores, default=0)
    hits = [at for at, each in enumerate(scores) if each == best]
    return hits if best and len(hits) < len(values) else []


def _fitting(values: Sequence[Values], fits: Callable[[str, str], bool]) -> Hits:
    found: Hits = {}
    for at, row in enumerate(values):
        columns = tuple(column for column, text in row.items() if text is not None and fits(column, text))
        if columns:
            found[at] = columns
    return found


def _texts(row: Row) -> Values:
    try:
        raw = msgspec.json.decode(row.data, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    return {name: text_of_json(raw[name]) for name in row.columns if name in raw}


def _plain(text: str) -> str:
    """Return a value in the form of PostgreSQL's messages: normalized numbers, `t` and `f`."""
    number = _number(text)
    if number is not None:
        return str(number.normalize())
    return {"true": "t", "false": "f"}.get(text, text)


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text) if text[:1] in "+-.0123456789" else None
    except InvalidOperation:
        return None
    return number if number is not None and number.is_finite() else None


def joined(columns: Iterable[str]) -> str:
    """Join quoted column names: `"a" or "b"`."""
    return " or ".join(f'"{column}"' for column in columns)
