"""Migrations of the local stack: once, in order, each whole or not at all."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase, LocalSupabaseError
from scrapy_supabase.local.migrations import apply_migrations, read_migrations
from tests.fix_local import Connection


@pytest.fixture
def database(local_stack: LocalSupabase) -> Iterator[Connection]:
    """An empty database of the test's own."""
    with psycopg.connect(local_stack.db_url, autocommit=True) as admin:
        admin.execute("drop database if exists migrated")
        admin.execute("create database migrated")
        with psycopg.connect(local_stack.db_url.removesuffix("/postgres") + "/migrated", autocommit=True) as connection:
            yield connection
        admin.execute("drop database migrated")


def write(folder: Path, **files: str) -> Path:
    """Make numbered files: `_001_x="…"`."""
    for name, sql in files.items():
        (folder / f"{name.removeprefix('_')}.sql").write_text(sql)
    return folder


def test_they_are_applied_once_and_in_order_of_their_numbers(database: Connection, tmp_path: Path) -> None:
    """The tenth comes after the second; a second run applies nothing."""
    write(
        tmp_path,
        _2_b="create table b (a int references a)",
        _10_c="drop table b",
        _1_a="create table a (a int primary key)",
    )
    assert apply_migrations(database, read_migrations(tmp_path), tmp_path) == ["1_a.sql", "2_b.sql", "10_c.sql"]
    assert apply_migrations(database, read_migrations(tmp_path), tmp_path) == []
    write(tmp_path, _11_d="create table d ()")
    assert apply_migrations(database, read_migrations(tmp_path), tmp_path) == ["11_d.sql"]


def test_a_changed_migration_is_named(database: Connection, tmp_path: Path) -> None:
    """An applied file must not change."""
    apply_migrations(database, read_migrations(write(tmp_path, _001_a="create table a ()")), tmp_path)
    write(tmp_path, _001_a="create table a (b int)")
    with pytest.raises(LocalSupabaseError, match=r"001_a\.sql was changed after it was applied"):
        apply_migrations(database, read_migrations(tmp_path), tmp_path)


def test_a_failing_migration_leaves_nothing(database: Connection, tmp_path: Path) -> None:
    """The error has file, line and the server's message; earlier migrations stay applied."""
    write(tmp_path, _001_a="create table a ()", _002_b="create table b ();\n\ninsert into nowhere values (1);")
    with pytest.raises(LocalSupabaseError, match=r'002_b\.sql, line 3: relation "nowhere" does not exist'):
        apply_migrations(database, read_migrations(tmp_path), tmp_path)
    tables = database.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
    assert tables == [("a",)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("books.sql",), "its name must be a number"),
        (("001_a.sql", "01_b.sql"), "have the same number"),
    ],
)
def test_names_that_have_no_order_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    """A file without a number, or two files with the same, are refused."""
    for name in names:
        (tmp_path / name).write_text("select 1")
    with pytest.raises(LocalSupabaseError, match=message):
        read_migrations(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """The error names the folder."""
    with pytest.raises(LocalSupabaseError, match="nowhere does not exist"):
        read_migrations(tmp_path / "nowhere")


def test_names_of_the_supabase_command_line_are_taken(database: Connection, tmp_path: Path) -> None:
    """`20260101120000_x.sql`, given as single files."""
    path = tmp_path / "20260101120000_x.sql"
    path.write_text("create table x ()")
    assert apply_migrations(database, read_migrations([path]), tmp_path) == [path.name]


def test_the_stack_applies_them(open_folder: Path, tmp_path: Path) -> None:
    """`LocalSupabase(migrations=…)`: the REST API knows the table at once."""
    write(tmp_path, _001_a="create table a (id int primary key); grant all on a to service_role;")
    with LocalSupabase(open_folder / "migrated stack", migrations=tmp_path) as stack:
        url = f"{stack.url}/rest/v1/a?select=id"
        headers = {"apikey": stack.service_role_key, "Prefer": "return=representation"}
        request = urllib.request.Request(url, b'{"id": 1}', {**headers, "Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer) == [{"id": 1}]
