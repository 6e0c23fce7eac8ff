"""Apply SQL to a database, all of it or nothing, and print each statement with its result."""

from __future__ import annotations

from typing import Any

from scrapy_supabase.backends.statements import execute_all
from scrapy_supabase.commands.database import SqlError, connect
from scrapy_supabase.messages import sentence

NOT_APPLIED = "nothing was applied"


def apply_sql(url: str, sql: str) -> None:
    """Run all statements in one transaction on the database `url`. Raises `SqlError`; nothing is applied then."""
    notices: list[str] = []

    def print_result(cursor: Any) -> None:
        print(_result(cursor, notices), flush=True)
        notices.clear()

    try:
        with connect(url) as connection:
            info = connection.info
            print(f"-- On {info.host}:{info.port}/{info.dbname}, as {info.user}:")
            connection.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
            execute_all(connection, sql, lambda statement: print(statement, flush=True), print_result)
    except SqlError as error:
        raise SqlError(f"{error} {NOT_APPLIED.capitalize()}.") from error


def _result(cursor: Any, notices: list[str]) -> str:
    """Return a comment such as `-- CREATE TABLE (relation "books" already exists, skipping)`."""
    noted = f" ({sentence(' '.join(notices)).rstrip('.')})" if notices else ""
    return f"-- {cursor.statusmessage}{noted}"
