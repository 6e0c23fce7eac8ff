"""The local Supabase of a test session, restored to its first state between two tests."""

from __future__ import annotations

import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from scrapy_supabase.local import LocalSupabase, LocalSupabaseError
from scrapy_supabase.local.migrations import apply_migrations, read_migrations
from scrapy_supabase.local.place import SERVER_USER, own_folder, reachable
from scrapy_supabase.local.posix import is_root
from scrapy_supabase.messages import sentence

_OWN = "n.nspname !~ '^pg_' and n.nspname not in ('information_schema', 'extensions', 'scrapy_supabase_local')"
_SCHEMAS = f"select format('%I', n.nspname) from pg_namespace n where {_OWN} and n.nspname <> 'auth'"
_TABLES = f"""
select format('%I.%I', n.nspname, c.relname), c.relkind from pg_class c join pg_namespace n on n.oid = c.relnamespace
where {_OWN} and c.relkind in ('r', 'p', 'm')
"""
_RESTART = f"""
select setval(s.seqrelid::regclass, s.seqstart, false)
from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace where {_OWN}
"""
_PUBLIC = """
create schema public;
grant usage on schema public to public, anon, authenticated, service_role;
delete from scrapy_supabase_local.migrations;
"""
_WATCH = """
create table scrapy_supabase_local.changes ();
create function scrapy_supabase_local.changed() returns event_trigger language plpgsql security definer as
  $$ begin insert into scrapy_supabase_local.changes default values; end $$;
create event trigger scrapy_supabase_changed on ddl_command_end execute function scrapy_supabase_local.changed();
create event trigger scrapy_supabase_dropped on sql_drop execute function scrapy_supabase_local.changed();
"""


def require_extra() -> None:
    """Raise `LocalSupabaseError`, with the command to run, if the extra `local` is not installed."""
    for name in ("psycopg", "jwt"):
        try:
            import_module(name)
        except ImportError as error:
            raise LocalSupabaseError(
                f"it needs the extra `local`: {sentence(error)} Run: pip install 'scrapy-supabase[local]'"
            ) from error


class SessionStack:
    """A local Supabase in a temporary folder, which `stop` removes. Raises `LocalSupabaseError`.

    `restore` returns it to its state after the migrations: it empties the tables or, if a test changed the schema or
    the migrations store rows, drops the schemas and applies the migrations again.
    """

    def __init__(self, migrations: Path | None) -> None:
        self._migrations = read_migrations(migrations) if migrations else ()
        self._folder = Path(tempfile.mkdtemp(prefix="scrapy-supabase-pytest-", dir=_place()))
        # For root, PostgreSQL runs as `nobody`, who must pass through; the folders in it are closed to others.
        self._folder.chmod(0o755)
        self.supabase = LocalSupabase(self._folder / "data")
        try:
            self.supabase.start()
            self._connection = self.connect()
            apply_migrations(self._connection, self._migrations, self._folder)
            self._connection.execute(_WATCH)
            self._connection.execute("set lock_timeout = '10s'; set client_min_messages = 'error'")
            self._can_be_emptied = not self._has_rows()
            self._clean = True
        except BaseException:
            self.stop()
            raise

    def connect(self) -> Any:
        """Return a new connection as `postgres`, in autocommit mode."""
        import psycopg

        return psycopg.connect(self.supabase.db_url, autocommit=True)

    def restore(self) -> None:
        """Return the database to its state after the migrations. Raises `LocalSupabaseError`."""
        import psycopg

        if self._clean:
            self._clean = False
            return
        try:
            # A transaction that a test left open holds locks.
            self._connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where state ~ '^idle in transaction'"
            )
            changed = self._connection.execute("select exists (select from scrapy_supabase_local.changes)").fetchone()
            if self._can_be_emptied and changed == (False,):
                self._empty()
            else:
                self._rebuild()
        except psycopg.errors.LockNotAvailable as error:
            raise LocalSupabaseError(
                "a statement of an earlier test is still running and locks its tables. End the statement in that test."
            ) from error

    def stop(self) -> None:
        """Stop it and remove its folder."""
        if hasattr(self, "_connection"):
            self._connection.close()
        self.supabase.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _empty(self) -> None:
        with self._connection.transaction():
            self._connection.execute("set local session_replication_role = replica")  # disables triggers
            tables = [name for name, kind in self._connection.execute(_TABLES) if kind != "m"]
            if tables:
                self._connection.execute(f"truncate {', '.join(tables)}".encode())
            self._connection.execute(_RESTART)

    def _rebuild(self) -> None:
        with self._connection.transaction():
            for (schema,) in self._connection.execute(_SCHEMAS).fetchall():
                self._connection.execute(f"drop schema {schema} cascade".encode())
            self._connection.execute(_PUBLIC)
        try:
            apply_migrations(self._connection, self._migrations, self._folder)
        except LocalSupabaseError as error:
            raise LocalSupabaseError(
                f"{error} Migrations must be repeatable: after a test that changes the schema, or if migrations store "
                "rows, they are applied again for the next test. Objects outside the schemas, such as roles and "
                "extensions, still exist then: create them only if they do not exist."
            ) from error
        self._connection.execute("delete from scrapy_supabase_local.changes")

    def _has_rows(self) -> bool:
        """Return whether the migrations store rows, or create materialized views."""
        found = self._connection.execute(_TABLES).fetchall()
        return any(
            kind == "m"
            or self._connection.execute(f"select exists (select from {name})".encode()).fetchone() == (True,)
            for name, kind in found
        )


def _place() -> Path | None:
    """Return the parent of the folder: None for the system's, or one in /var/tmp that the server's user can enter."""
    if not is_root() or reachable(Path(tempfile.gettempdir()), SERVER_USER):
        return None
    return own_folder(Path("/var/tmp/scrapy-supabase-root"))  # noqa: S108 (its owner is checked)
