"""Numbered SQL files, each applied once, in order, in a transaction; the database keeps a list of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from scrapy_supabase.local.errors import LocalSupabaseError
from scrapy_supabase.messages import reason, sentence

if TYPE_CHECKING:
    import psycopg

_NAME = re.compile(r"(\d+)[_-].*\.sql")
_LOCK = 7_203_117  # an arbitrary number: the advisory lock of processes that apply migrations

_TABLE = """
create schema if not exists scrapy_supabase_local;
create table if not exists scrapy_supabase_local.migrations (
  name text primary key, sha256 text not null, applied_at timestamptz not null default now()
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """A numbered file and its SQL."""

    name: str
    number: int
    sql: str

    @property
    def sha256(self) -> str:
        """The checksum that shows whether the file was changed after it was applied."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(source: Path | str | Iterable[Path | str]) -> tuple[Migration, ...]:
    """Read the `*.sql` files of a folder, or the given files, sorted by number (`001_x.sql`, `20260101120000_x.sql`).

    Raises `LocalSupabaseError`.
    """
    if isinstance(source, (str, Path)):
        folder = Path(source)
        if not folder.is_dir():
            raise LocalSupabaseError(f"The migrations folder {folder} does not exist.")
        paths = list(folder.glob("*.sql"))
    else:
        paths = [Path(path) for path in source]
    found: list[Migration] = []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise LocalSupabaseError(
                f"Migration {path}: its name must be a number, _ and a name, such as 001_books.sql."
            )
        try:
            found.append(Migration(path.name, int(match[1]), path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise LocalSupabaseError(
                f"Migration {path} cannot be read: {sentence(reason(error) if isinstance(error, OSError) else error)}"
            ) from error
    found.sort(key=lambda migration: (migration.number, migration.name))
    for one, other in pairwise(found):
        if one.number == other.number:
            raise LocalSupabaseError(f"Migrations {one.name} and {other.name} have the same number: renumber one.")
    return tuple(found)


def apply_migrations(connection: psycopg.Connection, migrations: tuple[Migration, ...], folder: Path) -> list[str]:
    """Apply the migrations that are not applied yet; return their names.

    `connection` must be in autocommit mode. `folder` is the server's data folder, which errors name. Raises
    `LocalSupabaseError` with the file and the line.
    """
    applied_now: list[str] = []
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        connection.execute(_TABLE)
    for migration in migrations:
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            row = connection.execute(
                "select sha256 from scrapy_supabase_local.migrations where name = %s", [migration.name]
            ).fetchone()
            if row is None:
                _apply(connection, migration)
                applied_now.append(migration.name)
            elif row[0] != migration.sha256:
                raise LocalSupabaseError(
                    f"Migration {migration.name} was changed after it was applied. Restore the file and make the "
                    f"change in a new migration, or stop the processes that use {folder} and remove that folder: all "
                    "migrations are then applied again, and stored rows are lost."
                )
    return applied_now


def _apply(connection: psycopg.Connection, migration: Migration) -> None:
    import psycopg

    try:
        connection.execute(migration.sql.encode())
    except psycopg.Error as error:
        position = error.diag.statement_position
        line = migration.sql[: int(position) - 1].count("\n") + 1 if position else None
        place = f"{migration.name}, line {line}" if line else migration.name
        hint = f" Hint: {sentence(error.diag.message_hint)}" if error.diag.message_hint else ""
        raise LocalSupabaseError(
            f"Migration {place}: {sentence(error.diag.message_primary or error)}{hint} No part of it was applied."
        ) from error
    connection.execute("reset all")  # a `set` in this file must not affect the next one
    connection.execute(
        "insert into scrapy_supabase_local.migrations (name, sha256) values (%s, %s)",
        [migration.name, migration.sha256],
    )
