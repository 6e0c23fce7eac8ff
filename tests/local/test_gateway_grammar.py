"""Syntax errors have the texts of PostgREST's parser (from its doctests and the recordings)."""

from __future__ import annotations

import pytest

from scrapy_supabase.local.gateway import grammar
from scrapy_supabase.local.gateway.parsec import ParseError, Parser, parse
from scrapy_supabase.local.gateway.terms import Field, Filter, Order, Path

FAILURES = [
    (grammar.NAMES, "", 1, "unexpected end of input expecting field name (* or [a..z0..9_$])"),
    (grammar.SELECT, "x:*", 3, 'unexpected "*" expecting ":" or field name (* or [a..z0..9_$])'),
    (
        grammar.SELECT,
        "id,clients(name[])",
        16,
        'unexpected \'[\' expecting letter, digit, "-", "->>", "->", "::", ".", ")", "," or end of input',
    ),
    (grammar.SELECT, "data->>-78xy", 11, 'unexpected \'x\' expecting digit, "->", "::", ".", "," or end of input'),
    (grammar.SELECT, "name::", 7, "unexpected end of input expecting letter or digit"),
    (grammar.OPERATION, "fts().value", 5, 'unexpected ")" expecting operator (eq, gt, ...)'),
    (grammar.OPERATION, "eq().value", 4, 'unexpected ")" expecting operator (eq, gt, ...)'),
    (grammar.OPERATION, "is().value", 3, 'unexpected "(" expecting operator (eq, gt, ...)'),
    (grammar.OPERATION, "noop.0", 1, 'unexpected "o" expecting "not" or operator (eq, gt, ...)'),
    (
        grammar.ORDER,
        "clients(name,id)",
        8,
        'unexpected \'(\' expecting letter, digit, "-", "->>", "->", delimiter (.), "," or end of input',
    ),
    (grammar.ORDER, "id.ac", 4, 'unexpected "c" expecting "asc", "desc", "nullsfirst" or "nullslast"'),
    (grammar.ORDER, "id.descc", 8, "unexpected 'c' expecting delimiter (.), \",\" or end of input"),
    (grammar.ORDER, "id.nullslasttt", 13, "unexpected 't' expecting \",\" or end of input"),
    (grammar.ORDER, "id.asc.nlsfst", 8, 'unexpected "l" expecting "nullsfirst" or "nullslast"'),
    (
        grammar.LOGIC,
        "or()",
        4,
        'unexpected ")" expecting field name (* or [a..z0..9_$]), negation operator (not) or logic operator (and, or)',
    ),
    (grammar.LOGIC, "or)(", 3, 'unexpected ")" expecting "("'),
    (grammar.LOGIC, "and(ord(id.eq.1,id.eq.1),id.eq.2)", 7, 'unexpected "d" expecting "("'),
    (grammar.LOGIC, "or(id.eq.1,not.xor(id.eq.2,id.eq.3))", 16, 'unexpected "x" expecting logic operator (and, or)'),
]


@pytest.mark.parametrize(("parser", "text", "column", "details"), FAILURES, ids=[text for _, text, *_ in FAILURES])
def test_failures(parser: Parser, text: str, column: int, details: str) -> None:
    """Column and text are Parsec's."""
    with pytest.raises(ParseError) as raised:
        parse(parser, text)
    assert (raised.value.line, raised.value.column, raised.value.details) == (1, column, details)


def test_lines_and_tabs_count() -> None:
    """A tab goes to the next multiple of eight, as in Parsec's positions."""
    with pytest.raises(ParseError) as raised:
        parse(grammar.LOGIC, "or(\t,")
    assert raised.value.column == 9
    with pytest.raises(ParseError) as raised:
        parse(grammar.OPERATION, "\n")
    assert (raised.value.line, raised.value.details[:15]) == (1, 'unexpected "\\n"')


@pytest.mark.parametrize(
    ("parser", "text", "value"),
    [
        (grammar.NAMES, 'a, b ,"c, \\"d\\""', ["a", "b", 'c, "d"']),
        (
            grammar.SELECT,
            "w:word,doc->a->>-1::text",
            [Field(Path("word"), "w"), Field(Path("doc", (("->", "a"), ("->>", -1))), "", "text")],
        ),
        (grammar.ORDER, "n.nullsfirst", [Order(Path("n"), "", "nullsfirst")]),
        (grammar.OPERATION, 'not.in.(1,"a,b",)', Filter(Path(""), "in", negated=True, values=("1", "a,b", ""))),
        (grammar.OPERATION, "like(all).{a*}", Filter(Path(""), "like", "{a*}", quantifier="ALL")),
    ],
)
def test_values(parser: Parser, text: str, value: object) -> None:
    """Valid texts are parsed completely."""
    assert parse(parser, text) == (value, len(text))
