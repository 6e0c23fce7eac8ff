"""Parser combinators that report failures as Parsec does, because PostgREST's PGRST100 responses have Parsec's texts.

A parser is a function of text and position. If it fails without having consumed a character, an alternative is
tried; if it fails later, the parse ends. Failures at the furthest position are merged into one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Kinds of messages, in the order of output.
_SYSTEM_UNEXPECTED, _UNEXPECTED, _EXPECTED = range(3)
_Messages = tuple[tuple[int, str], ...]
_NOTHING: _Messages = ()


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a parser: `at` is the position of the next one; `error` lists what was expected, also after success."""

    ok: bool
    consumed: bool
    value: Any
    at: int
    error_at: int
    messages: _Messages = ()


Parser = Callable[[str, int], Result]


class ParseError(Exception):
    """Syntax error. `position` and `details` are Parsec's."""

    def __init__(self, text: str, result: Result) -> None:
        super().__init__(text)
        before = text[: result.error_at]
        self.line = before.count("\n") + 1
        self.column = 1
        for character in before.rpartition("\n")[2]:
            self.column += 8 - (self.column - 1) % 8 if character == "\t" else 1
        self.details = _sentence(result.messages)


def parse(parser: Parser, text: str) -> tuple[Any, int]:
    """Return the value and the position behind the parsed text. Raises `ParseError`."""
    result = parser(text, 0)
    if not result.ok:
        raise ParseError(text, result)
    return result.value, result.at


def haskell_show(text: str, quote: str = '"') -> str:
    """Return a text as Haskell's `show` prints it."""
    escaped = "".join(
        f"\\{c}" if c in (quote, "\\") else c if " " <= c <= "~" else _ESCAPES.get(c, f"\\{ord(c)}") for c in text
    )
    return f"{quote}{escaped}{quote}"


_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\x7f": "\\DEL", "\0": "\\NUL"}


def pure(value: Any = None) -> Parser:
    """Succeed without reading."""
    return lambda _, at: Result(True, False, value, at, at)


def satisfy(test: Callable[[str], bool]) -> Parser:
    """Read one character that passes the test."""

    def run(text: str, at: int) -> Result:
        if at < len(text) and test(text[at]):
            return Result(True, True, text[at], at + 1, at + 1)
        found = haskell_show(text[at]) if at < len(text) else ""
        return Result(False, False, None, at, at, ((_SYSTEM_UNEXPECTED, found),))

    return run


def char(expected: str) -> Parser:
    """Read a given character."""
    return label(satisfy(lambda c: c == expected), haskell_show(expected))


def string(expected: str, value: Any = None) -> Parser:
    """Read a given text; a failure has consumed characters if the first one matched."""

    def run(text: str, at: int) -> Result:
        for number, wanted in enumerate(expected):
            place = at + number
            if place >= len(text) or text[place] != wanted:
                found = haskell_show(text[place]) if place < len(text) else ""
                messages = ((_SYSTEM_UNEXPECTED, found), (_EXPECTED, haskell_show(expected)))
                return Result(False, number > 0, None, at, at, messages)
        end = at + len(expected)
        return Result(True, True, expected if value is None else value, end, end)

    return run


def sequence(*parsers: Parser, make: Callable[..., Any] | None = None) -> Parser:
    """Run parsers in order; the value is the tuple of their values, or `make` of them."""

    def run(text: str, at: int) -> Result:
        values, consumed, place, error_at, messages = [], False, at, at, _NOTHING
        for parser in parsers:
            result = parser(text, place)
            if result.consumed:
                consumed, error_at, messages = True, result.error_at, result.messages
            else:
                error_at, messages = _merged(error_at, messages, result.error_at, result.messages)
            if not result.ok:
                return Result(False, consumed, None, at, error_at, messages)
            values.append(result.value)
            place = result.at
        return Result(True, consumed, make(*values) if make else tuple(values), place, error_at, messages)

    return run


def either(*parsers: Parser) -> Parser:
    """Run the first parser that succeeds, or that fails after having consumed a character."""

    def run(text: str, at: int) -> Result:
        error_at, messages = at, _NOTHING
        for parser in parsers:
            result = parser(text, at)
            if result.consumed:
                return result
            error_at, messages = _merged(error_at, messages, result.error_at, result.messages)
            if result.ok:
                return Result(True, False, result.value, result.at, error_at, messages)
        return Result(False, False, None, at, error_at, messages)

    return run


def attempt(parser: Parser) -> Parser:
    """Run a parser; if it fails, no character is consumed."""

    def run(text: str, at: int) -> Result:
        result = parser(text, at)
        return result if result.ok else Result(False, False, None, at, result.error_at, result.messages)

    return run


def many(parser: Parser) -> Parser:
    """Repeat a parser until it fails; the value is the list of values."""

    def run(text: str, at: int) -> Result:
        values, place, consumed = [], at, False
        while True:
            result = parser(text, place)
            if not (result.ok and result.consumed):
                break
            values.append(result.value)
            place, consumed = result.at, True
        if result.consumed:
            return result
        return Result(True, consumed, values, place, result.error_at, result.messages)

    return run


def many1(parser: Parser) -> Parser:
    """Repeat a parser at least once."""
    return sequence(parser, many(parser), make=lambda first, rest: [first, *rest])


def separated(parser: Parser, separator: Parser) -> Parser:
    """Run a parser at least once, with a separator in between."""
    return sequence(parser, many(sequence(separator, parser)), make=lambda first, rest: [first, *(v for _, v in rest)])


def optional(parser: Parser, default: Any = None) -> Parser:
    """Run a parser, or return a default if it fails."""
    return either(parser, pure(default))


def label(parser: Parser, name: str) -> Parser:
    """Replace the expected parts of a parser by a name if it fails without having consumed a character."""

    def run(text: str, at: int) -> Result:
        result = parser(text, at)
        if result.consumed or (result.ok and not result.messages):
            return result
        messages = ((_EXPECTED, name), *(m for m in result.messages if m[0] != _EXPECTED))
        return Result(result.ok, False, result.value, result.at, result.error_at, messages)

    return run


def ahead(parser: Parser) -> Parser:
    """Run a parser without consuming characters."""

    def run(text: str, at: int) -> Result:
        result = parser(text, at)
        return Result(True, False, None, at, at) if result.ok else result

    return run


def none_ahead(parser: Parser) -> Parser:
    """Fail if the parser would succeed."""

    def run(text: str, at: int) -> Result:
        result = parser(text, at)
        if not result.ok:
            return Result(True, False, None, at, result.error_at, result.messages)
        return Result(False, False, None, at, at, ((_UNEXPECTED, haskell_show(result.value, "'")),))

    return run


def refused(parser: Parser, word: str) -> Parser:
    """Fail without a message if the value is a given word."""

    def run(text: str, at: int) -> Result:
        result = parser(text, at)
        if not result.ok or result.value != word:
            return result
        return Result(False, result.consumed, None, at, result.error_at, result.messages)

    return run


def lazy(make: Callable[[], Parser]) -> Parser:
    """Refer to a parser that is defined later."""
    return lambda text, at: make()(text, at)


any_char = satisfy(lambda _: True)
end = label(none_ahead(any_char), "end of input")


def _merged(one_at: int, one: _Messages, other_at: int, other: _Messages) -> tuple[int, _Messages]:
    if one and not other:
        return one_at, one
    if other and not one:
        return other_at, other
    if one_at == other_at:
        return one_at, one + other
    return (one_at, one) if one_at > other_at else (other_at, other)


def _sentence(messages: _Messages) -> str:
    if not messages:
        return "unknown parse error"
    by_kind: list[list[str]] = [[], [], []]
    for kind, text in messages:
        by_kind[kind].append(text)
    system, unexpected, expected = by_kind
    parts = []
    if system and not unexpected:
        parts.append(f"unexpected {system[0] or 'end of input'}")
    parts += [
        f"{word} {_listed(names)}" for word, names in (("unexpected", unexpected), ("expecting", expected)) if names
    ]
    return " ".join(parts)


def _listed(names: list[str]) -> str:
    different = list(dict.fromkeys(name for name in names if name))
    return different[0] if len(different) == 1 else f"{', '.join(different[:-1])} or {different[-1]}"
