"""Apply SQL to a database, all of it or nothing, and print each statement with its result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from scrapy_supabase.commands.database import SqlError, connect
from scrapy_supabase.messages import sentence

NOT_APPLIED = "nothing was applied"
_RELOAD = "notify pgrst, 'reload schema';"  # the REST API reads the tables again

# What may contain a semicolon that ends no statement: comments, quoted names and texts, bodies of functions.
_PARTS = re.compile(
    r"""--[^\n]* | \bE'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(\w*)\$.*?\$\1\$ | ;""",
    re.DOTALL | re.VERBOSE,
)


def statements(sql: str) -> Iterator[str]:
    """Yield the statements of a text of SQL, each with the comments before it."""
    start = 0
    for part in _PARTS.finditer(sql):
        if part[0] == ";":
            yield sql[start : part.end()].strip()
            start = part.end()
    rest = sql[start:].strip()
    if re.sub(r"--[^\n]*", "", rest).strip():  # not only comments
        yield rest


def apply_sql(url: str, sql: str) -> None:
    """Run all statements in one transaction on the database `url`. Raises `SqlError`; nothing is applied then."""
    notices: list[str] = []
    try:
        with connect(url) as connection:
            info = connection.info
            print(f"-- On {info.host}:{info.port}/{info.dbname}, as {info.user}:")
            connection.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
            with connection.transaction():
                for statement in [*statements(sql), _RELOAD]:
                    print(statement, flush=True)
                    print(_result(connection.execute(statement.encode()), notices), flush=True)
                    notices.clear()
    except SqlError as error:
        raise SqlError(f"{error} {NOT_APPLIED.capitalize()}.") from error


def _result(cursor: Any, notices: list[str]) -> str:
    """Return a comment such as `-- CREATE TABLE (relation "books" already exists, skipping)`."""
    noted = f" ({sentence(' '.join(notices)).rstrip('.')})" if notices else ""
    return f"-- {cursor.statusmessage}{noted}"
