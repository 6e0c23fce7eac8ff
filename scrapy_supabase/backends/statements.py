"""SQL as text → its statements, and their execution in one transaction. For `sql`, `ddl --apply` and crawls."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

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


def execute_all(
    connection: psycopg.Connection[Any],
    sql: str,
    before: Callable[[str], None],
    after: Callable[[psycopg.Cursor[Any]], None] = lambda _: None,
) -> None:
    """Execute all statements of a text of SQL in one transaction, then let the REST API read the tables again.

    `before` is called with each statement, `after` with its result. Raises `psycopg.Error`; nothing is done then.
    """
    with connection.transaction():
        for statement in [*statements(sql), _RELOAD]:
            before(statement)
            after(connection.execute(statement.encode()))
