"""scrapy supabase sql: run a query and print its rows as a table.

The query runs on SUPABASE_DB_URL (setting, environment or --db-url); without
one, on the local Supabase of this project.
"""

from __future__ import annotations

import argparse
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize, sentence
from scrapy_supabase.settings.folders import local_folder
from scrapy_supabase.settings.server import LOCAL, database_url, hosted_project

if TYPE_CHECKING:
    import psycopg

_WIDEST = 60  # characters of a cell


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("query", help='SQL, such as "select * from books limit 5"; - reads standard input')
    parser.add_argument("--db-url", metavar="URL", help="PostgreSQL connection string")


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Run the query and return the exit code."""
    query = sys.stdin.read() if opts.query == "-" else opts.query
    url = opts.db_url or database_url(settings)
    if url not in (None, LOCAL):
        return run_query(url, query)
    if url is None and (host := hosted_project(settings)):
        raise ConfigurationError(
            f"There is no connection string for {host}: the query was not run. Run it in the project's SQL editor, or "
            "set SUPABASE_DB_URL to the project's connection string."
        )
    folder = local_folder()
    if not folder.is_dir():
        raise ConfigurationError(
            "There is no database to query. Set SUPABASE_DB_URL, or start a local one: scrapy supabase local"
        )
    from scrapy_supabase.local import LocalSupabase

    with LocalSupabase(folder, join=True) as stack:
        return run_query(stack.db_url, query)


def run_query(url: str, query: str) -> int:
    """Run `query` on the database `url`, print its rows, or its error in one line, and return the exit code."""
    try:
        import psycopg
    except ImportError:
        raise ConfigurationError("psycopg is not installed. Run: pip install 'scrapy-supabase[postgres]'") from None
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=15) as connection:
            cursor = connection.execute(query.encode())
            while True:
                _print_result(cursor)
                if not cursor.nextset():
                    break
    except psycopg.Error as error:
        print(f"scrapy supabase sql: {_described(error, query)}", file=sys.stderr)
        return 1
    return 0


def _print_result(cursor: psycopg.Cursor[Any]) -> None:
    if cursor.description is None:
        print(cursor.statusmessage or "done")
        return
    rows = [[_shown(value) for value in row] for row in cursor]
    print(table([column.name for column in cursor.description], rows))
    print(f"({pluralize(len(rows), 'row')})")


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text as an aligned table; wide characters count twice."""
    lines = [list(names), *map(list, rows)]
    widths = [max((_width(line[at]) for line in lines), default=0) for at in range(len(names))]
    drawn = [
        " | ".join(text + " " * (w - _width(text)) for text, w in zip(line, widths, strict=True)) for line in lines
    ]
    rule = "-+-".join("-" * width for width in widths)
    return "\n".join(line.rstrip() for line in [drawn[0], rule, *drawn[1:]])


def _shown(value: object) -> str:
    if value is None:
        return "NULL"
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def _described(error: psycopg.Error, query: str) -> str:
    message = error.diag.message_primary
    if message is None:  # no connection: psycopg's message has host and port, never the password
        return sentence(error)
    position = error.diag.statement_position
    where = f" (line {query[: int(position) - 1].count(chr(10)) + 1})" if position else ""
    hint = f" Hint: {error.diag.message_hint}" if error.diag.message_hint else ""
    return f"{sentence(f'{message}{where}')}{hint}"
