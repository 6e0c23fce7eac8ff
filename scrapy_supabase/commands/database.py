"""The database on which `sql` and `ddl --apply` run SQL: SUPABASE_DB_URL, or the local Supabase of the project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scrapy_supabase.errors import ConfigurationError, SupabaseError
from scrapy_supabase.messages import sentence
from scrapy_supabase.settings.folders import local_folder
from scrapy_supabase.settings.server import LOCAL, database_url, hosted_project, local_migrations, names_local

if TYPE_CHECKING:
    import psycopg


@contextmanager
def find_database(settings: Any, *, without: str, db_url: str | None = None, migrate: bool = False) -> Iterator[str]:
    """Find the connection string. A local Supabase runs until the end of the block.

    `db_url` is that of the command line. `without` says, for an error, what was not done. A local Supabase that has no
    data yet is started if the settings name it, with their migrations; `migrate` applies new ones to any other, too.
    Raises `ConfigurationError` if there is no database.
    """
    url = db_url or database_url(settings)
    if url not in (None, LOCAL):
        yield url
        return
    if url is None and (host := hosted_project(settings)):
        raise ConfigurationError(
            f"There is no connection string for {host}: {without}. Run the SQL in the project's SQL editor, or set "
            "SUPABASE_DB_URL to the project's connection string."
        )
    folder = local_folder()
    is_new = not folder.is_dir()
    if is_new and url != LOCAL and not names_local(settings):
        raise ConfigurationError(
            f"There is no database: {without}. Set SUPABASE_DB_URL, or start a local one: scrapy supabase local"
        )
    from scrapy_supabase.local import LocalSupabase

    migrations = local_migrations(settings) if is_new or migrate else None
    with LocalSupabase(folder, migrations=migrations or (), join=True) as stack:
        yield stack.db_url


class SqlError(SupabaseError):
    """The database refused a query, or a connection."""


@contextmanager
def connect(url: str, query: str = "") -> Iterator[psycopg.Connection[Any]]:
    """Connect to a database, in autocommit mode.

    An error of `query` is raised as `SqlError`: the database's message, and the line that it is about. Raises
    `ConfigurationError` without psycopg.
    """
    try:
        import psycopg
    except ImportError:
        raise ConfigurationError("psycopg is not installed. Run: pip install 'scrapy-supabase[postgres]'") from None
    try:
        # A pooler would give a prepared statement to other clients, too.
        with psycopg.connect(url, autocommit=True, connect_timeout=15, prepare_threshold=None) as connection:
            yield connection
    except psycopg.Error as error:
        raise SqlError(_described(error, query)) from error


def _described(error: psycopg.Error, query: str) -> str:
    message = error.diag.message_primary
    if message is None:  # no connection: psycopg's message has host and port, never the password
        return sentence(error)
    position = error.diag.statement_position
    where = f" (line {query[: int(position) - 1].count(chr(10)) + 1})" if position and query else ""
    hint = f" Hint: {error.diag.message_hint}" if error.diag.message_hint else ""
    return f"{sentence(f'{message}{where}')}{hint}"
