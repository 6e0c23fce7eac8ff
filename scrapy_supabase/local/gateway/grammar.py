"""Grammar of PostgREST's query parameters: `select`, filters, logic trees, `order`, names.

Source: PostgREST 14 (docs: references/api/tables_views; its PGRST100 responses list what it expects).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scrapy_supabase.local.gateway.parsec import (
    Parser,
    ahead,
    any_char,
    attempt,
    char,
    either,
    end,
    label,
    lazy,
    many,
    many1,
    none_ahead,
    optional,
    pure,
    refused,
    satisfy,
    separated,
    sequence,
    string,
)
from scrapy_supabase.local.gateway.terms import Field, Filter, Logic, Order, Path

SIMPLE = {
    "neq": "<>", "cs": "@>", "cd": "<@", "ov": "&&", "sl": "<<", "sr": ">>", "nxr": "&<", "nxl": "&>", "adj": "-|-",
}  # fmt: skip
QUANTIFIED = {
    "eq": "=", "gte": ">=", "gt": ">", "lte": "<=", "lt": "<", "like": "LIKE", "ilike": "ILIKE", "match": "~",
    "imatch": "~*",
}  # fmt: skip
FULL_TEXT = {
    "fts": "to_tsquery", "plfts": "plainto_tsquery", "phfts": "phraseto_tsquery", "wfts": "websearch_to_tsquery",
}  # fmt: skip
_IS = {"null": "NULL", "not_null": "NOT NULL", "true": "TRUE", "false": "FALSE", "unknown": "UNKNOWN"}


def _text(parser: Parser) -> Parser:
    return sequence(parser, make="".join)


def _none_of(characters: str) -> Parser:
    return satisfy(lambda c: c not in characters)


def _one_of(characters: str) -> Parser:
    return satisfy(lambda c: c in characters)


def _between(opening: str, parser: Parser, closing: str) -> Parser:
    return sequence(char(opening), parser, char(closing), make=lambda _, value, __: value)


def _lexeme(parser: Parser) -> Parser:
    return sequence(_BLANKS, parser, _BLANKS, make=lambda _, value, __: value)


def _words(table: dict[str, Any]) -> Parser:
    return either(*(attempt(string(word)) for word in table))


_BLANKS = many(_one_of(" \t"))
_DIGIT = label(satisfy(lambda c: "0" <= c <= "9"), "digit")
_LETTER = label(satisfy(str.isalpha), "letter")
_IDENTIFIER = sequence(many1(either(_LETTER, _DIGIT, _one_of("_ $"))), make=lambda c: "".join(c).strip())
_QUOTED = sequence(
    char('"'),
    _text(many(either(_none_of('\\"'), sequence(char("\\"), any_char, make=lambda _, c: c)))),
    char('"'),
    make=lambda _, value, __: value,
)
_DELIMITER = label(char("."), "delimiter (.)")
_DASH = attempt(sequence(char("-"), none_ahead(char(">"))))


def _dashed(parser: Parser) -> Parser:
    return sequence(separated(parser, _DASH), make="-".join)


NAME = label(either(_QUOTED, _dashed(_IDENTIFIER)), "field name (* or [a..z0..9_$])")
NAMES = separated(NAME, _lexeme(char(",")))

_KEY = label(
    either(_QUOTED, _dashed(sequence(many1(_none_of("(-:.,>)")), make=lambda c: "".join(c).strip()))),
    "any non reserved character different from: .,>()",
)
_AFTER_INDEX = either(
    *(attempt(ahead(string(text))) for text in ("->", "::", ".", ",")),
    attempt(end),
)
_INDEX = sequence(
    optional(char("-"), ""), many1(_DIGIT), _AFTER_INDEX, make=lambda sign, digits, _: int(sign + "".join(digits))
)
_STEP = sequence(
    either(attempt(string("->>")), attempt(string("->"))),
    either(attempt(_INDEX), attempt(_KEY)),
)
_STEPS = sequence(many(_STEP), make=tuple)
_PATH = _lexeme(sequence(NAME, optional(_STEPS, ()), make=Path))
_SEPARATED_PATH = sequence(separated(NAME, _DELIMITER), optional(_STEPS, ()))
TREE_PATH = sequence(_SEPARATED_PATH, make=lambda found: (tuple(found[0][:-1]), Path(found[0][-1], found[1])))

_END_OF_FIELD = either(attempt(ahead(string(")"))), attempt(ahead(string(","))), attempt(end))
_ALIAS = optional(attempt(sequence(NAME, char(":"), none_ahead(char(":")), make=lambda name, *_: name)), "")
_CAST = optional(sequence(string("::"), _IDENTIFIER, make=lambda _, cast: cast), "")
_AGGREGATION = optional(
    attempt(
        sequence(
            char("."),
            either(string("sum"), string("avg"), string("count"), attempt(string("max")), attempt(string("min"))),
            string("()"),
            make=lambda *_: True,
        )
    ),
    False,
)
_HINT = sequence(char("!"), either(attempt(string("left")), attempt(string("inner")), attempt(NAME)))
_EMBEDS = attempt(ahead(string("(")))
_SPREAD = _lexeme(sequence(string("..."), NAME, optional(_HINT), optional(_HINT), _EMBEDS))
_RELATION = _lexeme(sequence(_ALIAS, refused(NAME, "count"), optional(_HINT), optional(_HINT), _EMBEDS))
_STAR = Field(Path("*"))
_FIELD = _lexeme(
    either(
        attempt(sequence(string("*"), _END_OF_FIELD, make=lambda *_: _STAR)),
        attempt(
            sequence(_ALIAS, string("count()"), _CAST, _END_OF_FIELD, make=lambda *_: Field(Path("*"), aggregate=True))
        ),
        sequence(
            _ALIAS,
            _PATH,
            _CAST,
            _AGGREGATION,
            _CAST,
            _END_OF_FIELD,
            make=lambda alias, path, cast, aggregate, *_: Field(path, alias, cast, aggregate),
        ),
    )
)
_EMBEDDED = Field(Path("*"), relation=True)
_FIELD_TREE = either(
    sequence(attempt(_SPREAD), _between("(", lazy(lambda: SELECT), ")"), make=lambda *_: _EMBEDDED),
    sequence(attempt(_RELATION), _between("(", lazy(lambda: SELECT), ")"), make=lambda *_: _EMBEDDED),
    _FIELD,
)
SELECT: Parser = optional(separated(_FIELD_TREE, _lexeme(char(","))), [])

_END_OF_TERM = either(attempt(ahead(char(","))), attempt(end))


def _dotted(*words: str) -> Parser:
    return either(*(attempt(sequence(_DELIMITER, string(word), make=lambda _, found: found)) for word in words))


_DIRECTION = optional(_dotted("asc", "desc"), "")
_NULLS = either(
    sequence(optional(_dotted("nullsfirst", "nullslast"), ""), _END_OF_TERM, make=lambda nulls, _: nulls),
    sequence(_END_OF_TERM, make=lambda _: ""),
)
_RELATED_TERM = sequence(
    NAME,
    _between("(", _PATH, ")"),
    _DIRECTION,
    _NULLS,
    make=lambda name, path, direction, nulls: Order(path, direction, nulls, name),
)
ORDER = separated(_lexeme(either(attempt(_RELATED_TERM), sequence(_PATH, _DIRECTION, _NULLS, make=Order))), char(","))


def _any_case(word: str, value: str) -> Parser:
    return attempt(sequence(*(either(char(c), char(c.upper())) for c in word), make=lambda *_: value))


_ELEMENT = either(
    attempt(sequence(_QUOTED, none_ahead(_none_of(",)")), make=lambda value, _: value)), _text(many(_none_of(",)")))
)
_LIST = sequence(
    _lexeme(char("(")), separated(_ELEMENT, char(",")), _lexeme(char(")")), make=lambda _, values, __: tuple(values)
)


def _operation(value: Parser) -> Parser:
    nothing = Path("")
    inside = sequence(
        attempt(sequence(string("in"), _DELIMITER)), _LIST, make=lambda _, v: Filter(nothing, "in", values=v)
    )
    trilean = label(
        either(*(_any_case(word, sql) for word, sql in _IS.items())), "isVal: (null, not_null, true, false, unknown)"
    )
    being = sequence(attempt(sequence(string("is"), _DELIMITER)), trilean, make=lambda _, v: Filter(nothing, "is", v))
    distinct = sequence(
        attempt(sequence(string("isdistinct"), _DELIMITER)), value, make=lambda _, v: Filter(nothing, "isdistinct", v)
    )
    language = optional(attempt(_between("(", _IDENTIFIER, ")")), "")
    full_text = sequence(
        _words(FULL_TEXT),
        language,
        _DELIMITER,
        value,
        make=lambda name, language, _, v: Filter(nothing, name, v, language=language),
    )
    simple = sequence(
        label(_words(SIMPLE), "unknown single value operator"),
        _DELIMITER,
        value,
        make=lambda name, _, v: Filter(nothing, name, v),
    )
    quantifier = _between("(", either(attempt(string("any")), string("all")), ")")
    quantified = sequence(
        label(_words(QUANTIFIED), "unknown single value operator"),
        optional(attempt(quantifier), ""),
        _DELIMITER,
        value,
        make=lambda name, quantifier, _, v: Filter(nothing, name, v, quantifier=quantifier.upper()),
    )
    operation = label(
        either(inside, being, distinct, attempt(full_text), attempt(simple), attempt(quantified)),
        "operator (eq, gt, ...)",
    )
    negation = either(attempt(sequence(string("not"), _DELIMITER, make=lambda *_: True)), pure(False))
    return sequence(negation, operation, make=lambda negated, found: replace(found, negated=negated))


OPERATION = _operation(_text(many(any_char)))
_PG_ARRAY = attempt(_text(sequence(string("{"), _text(many(_none_of("{}"))), string("}"))))
_LOGIC_VALUE = either(
    attempt(sequence(_QUOTED, none_ahead(_none_of(",)")), make=lambda value, _: value)),
    _PG_ARRAY,
    _text(many(_none_of(",)"))),
)
_LOGIC_FILTER = sequence(
    _PATH, _DELIMITER, _operation(_LOGIC_VALUE), make=lambda path, _, found: replace(found, path=path)
)
_NOT = label(
    either(attempt(sequence(string("not"), _DELIMITER, make=lambda *_: True)), pure(False)), "negation operator (not)"
)
_LOGIC_OPERATOR = label(either(attempt(string("and")), string("or")), "logic operator (and, or)")
LOGIC: Parser = either(
    attempt(_LOGIC_FILTER),
    sequence(
        _NOT,
        _LOGIC_OPERATOR,
        _lexeme(char("(")),
        separated(lazy(lambda: LOGIC), _lexeme(char(","))),
        _lexeme(char(")")),
        make=lambda negated, operator, _, parts, __: Logic(operator, tuple(parts), negated),
    ),
)
LOGIC_PATH = separated(NAME, _DELIMITER)
