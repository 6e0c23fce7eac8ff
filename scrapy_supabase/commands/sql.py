"""scrapy supabase sql: run a query and print its rows as a table, JSON Lines or CSV.

The query runs on SUPABASE_DB_URL (setting, environment or --db-url); without
one, on the local Supabase of this project. On a terminal, long cells are cut;
--full prints them whole, as a pipe or a file always gets them.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from scrapy_supabase.commands.database import connect, find_database
from scrapy_supabase.commands.results import WIDEST, Json, cell, table, write_csv, write_json
from scrapy_supabase.messages import pluralize

if TYPE_CHECKING:
    import psycopg

TABLE, JSON, CSV = "table", "json", "csv"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("query", help='SQL, such as "select * from books limit 5"; - reads standard input')
    parser.add_argument("--db-url", metavar="URL", help="PostgreSQL connection string")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const=JSON, help="one JSON object per row and line")
    form.add_argument("--csv", dest="form", action="store_const", const=CSV, help="CSV with a header; NULL is empty")
    form.add_argument("--full", action="store_true", help="do not cut long cells on a terminal")
    parser.set_defaults(form=TABLE)


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Run the query and return the exit code."""
    query = sys.stdin.read() if opts.query == "-" else opts.query
    with find_database(settings, db_url=opts.db_url, without="the query was not run") as url:
        return run_query(url, query, opts.form, full=opts.full)


def run_query(url: str, query: str, form: str = TABLE, *, full: bool = False) -> int:
    """Run `query` on the database `url`, print its rows, and return the exit code. Raises `SqlError`."""
    with connect(url, query) as connection:
        _load_json_as_text(connection)
        cursor = connection.execute(query.encode())
        while True:
            _print_result(cursor, form, full=full)
            if not cursor.nextset():
                return 0


def _load_json_as_text(connection: psycopg.Connection[Any]) -> None:
    """Keep JSON as the database writes it: Python's objects have other quotes and fewer digits."""
    from psycopg.adapt import Buffer, Loader

    class JsonText(Loader):
        def load(self, data: Buffer) -> Json:
            return Json(bytes(data).decode())

    for name in ("json", "jsonb"):
        connection.adapters.register_loader(name, JsonText)


def _print_result(cursor: psycopg.Cursor[Any], form: str, *, full: bool) -> None:
    if cursor.description is None:
        print(cursor.statusmessage or "done", file=sys.stdout if form == TABLE else sys.stderr)
        return
    names = [column.name for column in cursor.description]
    if form == JSON:
        write_json(names, cursor, sys.stdout)
    elif form == CSV:
        write_csv(names, cursor, sys.stdout)
    else:
        widest = WIDEST if sys.stdout.isatty() and not full else None
        rows = [[cell(value, widest) for value in row] for row in cursor]
        print(table(names, rows))
        print(f"({pluralize(len(rows), 'row')})")
