"""Every message has been provoked and read: the sources, the golden files and docs/reference/errors.md agree.

How to add a message: provoke it for real in a `tests/test_messages_*.py` (or a new one: its golden file is named after
it) with the fixture `said`, as in `said("A table without grants", messages)`, each message being `KIND: text`. Run
`make messages`, read what was written to `tests/golden`, and mend the text until it says what happened, to which
table, row or setting, where the rows are, and what to type. Then give it its entry in docs/reference/errors.md.

What cannot be provoked stands in `NOT_PROVOKED`, with the reason; what only looks like a sentence (the name of a type)
in `NOT_SAID`; a module whose lines are kept by another test (the page of a run) in `ELSEWHERE`, with that test.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.messages import GOLDEN, Message, all_messages

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "scrapy_supabase"
PAGE = ROOT / "docs" / "reference" / "errors.md"

NOT_PROVOKED = {
    "module {} has no attribute {}": "Python's own words for a name that is not there",
    "The scheduler is not open.": "a request before the start: Scrapy's engine gives none",
    "This version of Scrapy is not supported: its engine does not list requests in progress.": "none is known",
    "a retry is asked for on TransientError only": "a fault of ours, which only a change of retry.py could make",
    "it could not start. The reason is in its log.": "a reactor that does not start and says no error: none is known",
    "by proxy {}": "a proxy that fails: the words around it are those of any failed connection",
    "no connection to {} within {} s": "a host that drops packets: none is to be had on a machine without a network",
    "the answer with {} rows is too long": "a page of rows of more than 64 MB: it is read in parts; see test_select.py",
    "the connection was closed": "an error of http.client without a word; none is known",
    "the connection was lost": "an error of libpq without a word; none is known",
    "the item cannot be stored: {}": "each field can be encoded alone, and not all of them: no such item is known",
    "<{} that cannot be printed>": "an item whose own code fails: a line of the reject file, not a message",
    "This item came after the spider was closed.": "an item after the end: Scrapy gives none",
    "it prints no reason": "a PostgreSQL that fails without a word",
    "PostgreSQL does not run as root, and there is no user nobody. Run as another user.": "a system without nobody",
    "The local Supabase in {} neither starts nor stops: see supervisor.log there.": "takes half a minute",
    "The local gateway failed: see gateway.log in its data folder.": "a fault of ours in the gateway",
    "%s: a row is tried again later: %s": "a DEBUG line",
    "{} {} ended by itself ({})": "a line of supervisor.log",
}
"""Template → why it has no golden message."""

ELSEWHERE = {
    # What PostgREST says, word by word: tests/local/test_golden.py compares it with recordings of the real one.
    "local/gateway/__main__.py": "tests/local/test_gateway_catalog.py",
    "local/gateway/answer.py": "tests/local/test_golden.py",
    "local/gateway/api.py": "tests/local/test_golden.py",
    "local/gateway/auth.py": "tests/local/test_golden.py",
    "local/gateway/catalog.py": "tests/local/test_gateway_catalog.py",
    "local/gateway/database.py": "tests/local/test_golden.py",
    "local/gateway/errors.py": "tests/local/test_golden.py",
    "local/gateway/forward.py": "tests/local/test_golden.py",
    "local/gateway/functions.py": "tests/local/test_golden.py",
    "local/gateway/grammar.py": "tests/local/test_gateway_grammar.py",
    "local/gateway/media.py": "tests/local/test_golden.py",
    "local/gateway/openapi.py": "tests/local/test_golden.py",
    "local/gateway/parse.py": "tests/local/test_golden.py",
    "local/gateway/parsec.py": "tests/local/test_gateway_grammar.py",
    "local/gateway/payload.py": "tests/local/test_golden.py",
    "local/gateway/prefer.py": "tests/local/test_golden.py",
    "local/gateway/ranges.py": "tests/local/test_golden.py",
    "local/gateway/read.py": "tests/local/test_golden.py",
    "local/gateway/request.py": "tests/local/test_golden.py",
    "local/gateway/rpc.py": "tests/local/test_golden.py",
    "local/gateway/serve.py": "tests/local/test_gateway_catalog.py",
    "local/gateway/server.py": "tests/local/test_gateway_errors.py",
    "local/gateway/write.py": "tests/local/test_golden.py",
    "schema/history.py": "tests/schema/test_history.py",  # SQL
    # Words of PostgreSQL that are looked for, and what is added to them in a rejection.
    "contrib/redis/leases.py": "tests/contrib/test_redis_leases.py",  # scripts for Redis
    "delivery/isolate.py": "tests/delivery/test_isolate.py",
    "delivery/upload_state.py": "tests/delivery/test_isolate.py",
    # The page of a run: its words are looked at in the page, and what it shows of the settings.
    "report/charts.py": "tests/report/test_report.py",
    "report/page.py": "tests/report/test_report.py",
    "settings/display.py": "tests/monitoring/test_record.py",
}
"""Module → the test that keeps what it says."""

_TYPE = "the name of a type in SQL: tests/schema/test_ddl.py"
_DDL = "SQL that ddl prints: tests/schema/test_ddl.py"
_CREATED = "SQL of a crawl that creates tables: tests/delivery/test_create_tables.py"
_BETWEEN = "SQL between two tests of a user: tests/testing/test_testing_stack.py"
_MONITOR = "the name of a monitor in Spidermon's output: tests/monitoring/test_monitors.py"
_FIGURE = "the name of a figure on the report's page: tests/report/test_report.py"
NOT_SAID = {
    "timestamp with time zone": _TYPE,
    "timestamp without time zone": _TYPE,
    "time with time zone": _TYPE,
    "time without time zone": _TYPE,
    "double precision": _TYPE,
    "Error while reading start items and requests": "Scrapy's words: tests/delivery/test_run_end.py",
    "character varying": _TYPE,
    "create table if not exists {} (": _DDL,
    "{} bigint generated always as identity primary key": _DDL,
    "not null": _DDL,
    "a row of {} bytes, not shown": "a mark in the sample of a rejected row: tests/monitoring/test_record.py",
    "primary key ({})": _DDL,
    "-- {}\ncreate or replace function {}() returns trigger\nlanguage plpgsql set search_path = '' as $$ begin return "
    "null; end $$;\ncreate or replace trigger {} before update on {}\nfor each row when (new.{} < old.{}) execute "
    "function {}();": _DDL,
    "create unique index if not exists {} on {} ({});": _DDL,
    "alter table {} enable row level security;": _DDL,
    "alter table {} {};": _CREATED,
    "add column if not exists {}": _CREATED,
    "set local lock_timeout = '15s'": _CREATED,
    'drop policy if exists "{}" on {};': _DDL,
    'create policy "{}" on {} for {}{} {};': _DDL,
    "scrapy may {}": _DDL,
    "everybody may read": _DDL,
    "with check (true)": _DDL,
    "using (true) with check (true)": _DDL,
    "using (true)": _DDL,
    "{}: the value of {}. If that is no bigint, change the type.": _DDL,
    "notify pgrst, 'reload schema';": "SQL that ddl --apply prints: tests/commands/test_sql_and_ddl.py",
    "n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'extensions', 'scrapy_supabase_local')": _BETWEEN,
    "delete from scrapy_supabase_local.changes": _BETWEEN,
    "set lock_timeout = '10s'; set client_min_messages = 'error'": _BETWEEN,
    "set local session_replication_role = replica": _BETWEEN,
    "WITH pgrst_source AS ({} RETURNING {})": "SQL over a database connection: tests/backends/test_contract.py",
    "drop schema {} cascade": _BETWEEN,
    "Supabase: rejected rows": _MONITOR,
    "Supabase: rows left in the spool": _MONITOR,
    "Supabase: time since the last upload": _MONITOR,
    "Supabase: crawl closed by a fatal error": _MONITOR,
    "pages fetched": _FIGURE,
    "items scraped": _FIGURE,
    "items dropped": _FIGURE,
    "exceptions in the spider": _FIGURE,
    "errors in the log": _FIGURE,
    "{}… ({} more characters)": "what is left of a long value in a report: tests/monitoring/test_record.py",
    "{} more fields": "what is left of a long row in a report: tests/monitoring/test_record.py",
    "Failing row contains (…)": "what is left of PostgreSQL's words in a report: tests/monitoring/test_record.py",
}
"""Literal → what it is, as it is nothing that is said by itself, and the test that keeps it."""

NO_MESSAGES = {"help", "metavar", "description", "title", "doc"}
"""Arguments of argparse: they are in docs/reference/commands.md, and a test compares them."""

_SENTENCE = re.compile(r"[A-Za-z]{2,}[,:;.]? [a-z(]{2,}|[a-z]{2,} %[sdr.]")
_SQL = re.compile(
    r"\b(SELECT|select|alter role|insert into|create schema|reset all|coalesce|set_config|LISTEN)\b"
    r"|\(\?P<|\.\*|[a-z)]\|[a-z]"  # regular expressions
)
# Clauses of SQL statements that messages print, and what belongs to no message.
_CLAUSES = {"select, insert, update", "select, insert", "application/json; charset=utf-8", "row-level security"}


@dataclass(frozen=True)
class Template:
    """A literal of the sources that reads like a sentence; `{}` and `%s` stand for what is put in."""

    module: str
    line: int
    text: str

    def is_in(self, texts: Iterable[str]) -> bool:
        """Return whether it became a part of one of these."""
        parts = re.split(r"\{\}|%[-+.\d]*[a-z]", " ".join(self.text.split()))
        pattern, longest = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL), max(parts, key=len)
        return any(longest in text and pattern.search(text) for text in texts)


def templates() -> Iterator[Template]:
    """Every literal of the package that reads like a sentence and is no docstring, no help text and no SQL."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        tree = ast.parse(path.read_text())
        skipped: set[ast.AST] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                skipped.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                skipped.update(value for value in node.values if isinstance(value, ast.Constant))
            elif isinstance(node, ast.keyword) and node.arg in NO_MESSAGES:
                skipped.update(ast.walk(node.value))
            elif isinstance(node, ast.FunctionDef) and node.name in ("short_desc", "syntax"):
                skipped.update(ast.walk(node))
        for node in ast.walk(tree):
            text = None if node in skipped else _text_of(node)
            if text and _SENTENCE.search(text) and not _SQL.search(text) and text not in _CLAUSES:
                yield Template(module, getattr(node, "lineno", 0), text)


def _text_of(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
    return None


MESSAGES = tuple(all_messages())
SAID = tuple(" ".join(message.text.split()) for message in MESSAGES)


def test_every_message_of_the_sources_was_provoked() -> None:
    """A new one cannot come in without a reading."""
    found = list(templates())
    assert len(found) > 150
    unread = [
        f"{one.module}:{one.line}: {one.text!r}"
        for one in found
        if one.module not in ELSEWHERE and one.text.strip() not in NOT_PROVOKED | NOT_SAID and not one.is_in(SAID)
    ]
    assert not unread, "\n".join(["Not in tests/golden (see the docstring of this module):", *unread])


def test_the_exceptions_are_still_needed() -> None:
    """What is not there any more, or is provoked by now, is taken from the lists."""
    found = {one.text.strip(): one for one in templates()}
    assert sorted(set(NOT_PROVOKED | NOT_SAID) - set(found)) == []
    assert [text for text in NOT_PROVOKED if found[text].is_in(SAID)] == []
    assert all((PACKAGE / module).exists() and (ROOT / test).exists() for module, test in ELSEWHERE.items())
    assert all((ROOT / what.rpartition(": ")[2]).exists() for what in NOT_SAID.values())


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("messages_*.txt")), ids=lambda path: path.stem)
def test_every_block_of_a_golden_file_is_made_by_its_test_module(path: Path) -> None:
    """None is left from a test that is gone."""
    source = (ROOT / "tests" / f"test_{path.stem}.py").read_text()
    assert [m.how for m in MESSAGES if m.file == path.name and m.how not in source] == []


WRONG = {
    r"\b1 (rows|chunks|requests|uploads|columns|lines|cells|wrong settings)\b": "singular and plural",
    r"\b1 (row|chunk|request|upload|column|line|cell)\b[^.,:;]* (are|were|have|wait)\b": "singular and plural verbs",
    r"(?<![.…])\.\.(?!\.)(?!/)": "two full stops",
    r"\.\)": "a sentence in parentheses in a sentence",
    r"\( | \)|\s[.,;:](\s|$)": "a space too many",
    r"(?i)\b(settle|outcome|effort|circuit|probe|chunker|bisect|observer|ambiguous)\w*\b": "an internal word",
    r"\[Errno": "the system's number",
    r"<html|<body|</": "HTML",
    r"Traceback|Error\(": "Python",
    r"\beyJ|sb_secret_[a-z]|postgresql://\w+:\w+@(?!HOST)": "a secret",
}


@pytest.mark.parametrize("pattern", WRONG, ids=WRONG.values())
def test_nothing_that_tires_a_reader(pattern: str) -> None:
    """No glitch of composition, no inside, no secret in any message."""
    assert [message for message in MESSAGES if re.search(pattern, _own_words(message))] == []


def _own_words(message: Message) -> str:
    """Without what is quoted from the settings and from items."""
    return re.sub(r"\{\"id\".*\}|[\w.]+\.Odd|of type Odd", "", message.text)


def test_what_is_to_be_typed_stands_last() -> None:
    """A command or SQL is pasted from its first character to the end of the message."""
    for message in MESSAGES:
        for found in re.finditer(r"(?<!not )\b[Rr]un: ", message.text):
            rest = message.text[found.end() :]
            assert re.fullmatch(r"(scrapy supabase |pip install |kill -9 |[A-Z]{4,} ).*", rest, re.DOTALL), message
            assert rest.endswith(";") or rest[:1].islower(), message


# The page

_ENTRY = re.compile(r"^(?P<ticks>`+)(?P<text>.+?)(?P=ticks)\n: ", re.MULTILINE)
_PLACEHOLDER = re.compile(r"…|\b(TABLE|COLUMN|COLUMNS|SETTING|VALUE|ALLOWED|FILE|FOLDER|HOST|N|SECONDS|ANSWER|SQL|RUN"
                          r"|PROJECT|REASON|CODE|NAME|CLASS|WHY|COMMAND|VERSION|KEY|CHUNK|FIELD|URL)\b")  # fmt: skip


def entries() -> dict[str, re.Pattern[str]]:
    """The messages on the page, each with what it matches."""
    found: dict[str, re.Pattern[str]] = {}
    for entry in _ENTRY.finditer(PAGE.read_text()):
        text = entry["text"].strip()
        parts, at = [], 0
        for placeholder in _PLACEHOLDER.finditer(text):
            parts += [re.escape(text[at : placeholder.start()]), ".*?" if placeholder[0] == "…" else ".+?"]
            at = placeholder.end()
        found[text] = re.compile("".join([*parts, re.escape(text[at:])]), re.DOTALL)
    return found


def lines_of(message: Message) -> list[str]:
    """A message, or each line of a list of wrong settings; a finding of `check` with its remedy after an arrow."""
    if message.kind in ("ok", "warning", "error"):
        return [message.text.replace("\n", " → ")]
    if re.fullmatch(r"rejected [0-9A-Z]{5}|page", message.kind):
        return []  # the server's own words; the page of a run, which explains itself
    first, *rest = re.sub("^(WARNING|ERROR): ", "", message.text).split("\n")  # of a command
    listed = [line.strip().removeprefix("- ") for line in rest if line.strip().startswith("- ")]
    return [first, *listed] if listed else ["\n".join([first, *rest])]


def test_every_message_has_its_entry_on_the_page() -> None:
    """What is said can be looked up: docs/reference/errors.md."""
    known = list(entries().values())
    missing = [
        f"{message.kind}: {line}"
        for message in MESSAGES
        for line in lines_of(message)
        if not any(pattern.fullmatch(line) for pattern in known)
    ]
    assert not missing, "\n".join(dict.fromkeys(missing))


def test_every_entry_of_the_page_is_a_message() -> None:
    """What can be looked up is said."""
    lines = [line for message in MESSAGES for line in lines_of(message)]
    assert [text for text, pattern in entries().items() if not any(map(pattern.fullmatch, lines))] == []
