"""A stack with two schemas, as the second recording was made with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase
from tests.fix_local import Connection
from tests.golden_exchanges import DATA

TwoSchemas = tuple[LocalSupabase, Connection]


@pytest.fixture(scope="session")
def two_schemas(open_folder: Path) -> Iterator[TwoSchemas]:
    """The stack and a connection as `postgres`; the recording's fixture is loaded by the tests."""
    with (
        LocalSupabase(open_folder / "two schemas", schemas=("public", "second")) as stack,
        psycopg.connect(stack.db_url, autocommit=True) as connection,
    ):
        connection.execute((DATA / "schema2.sql").read_bytes())
        yield stack, connection
