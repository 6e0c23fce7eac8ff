"""The local Supabase of the test run, and connections to it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A temporary folder that everybody may enter: as root, PostgreSQL runs as `nobody`; pytest's own are closed."""
    with tempfile.TemporaryDirectory(prefix="scrapy-supabase-tests-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def local_stack(open_folder: Path) -> Iterator[LocalSupabase]:
    """One stack for the whole run."""
    with LocalSupabase(open_folder / "shared stack") as stack:
        yield stack


@pytest.fixture
def db(local_stack: LocalSupabase) -> Iterator[Connection]:
    """A connection as `postgres`, in autocommit mode."""
    with psycopg.connect(local_stack.db_url, autocommit=True) as connection:
        yield connection
