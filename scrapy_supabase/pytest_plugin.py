"""The pytest plugin: fixture `local_supabase`, ini option `supabase_migrations` (entry point group `pytest11`).

pytest imports this module in every suite of an environment that has the package: no other module of it is imported
before a test uses the fixture. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scrapy_supabase.testing import LocalSupabaseFixture
    from scrapy_supabase.testing.stack import SessionStack

MIGRATIONS = "supabase_migrations"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option."""
    parser.addini(
        MIGRATIONS,
        help="folder of the fixture local_supabase's migrations: numbered .sql files; relative to the root folder",
        default="",
    )


@pytest.fixture(scope="session")
def _local_supabase_stack(pytestconfig: pytest.Config) -> Iterator[SessionStack]:
    """A stack for the whole session (with pytest-xdist, of one worker), started by the first test that needs it."""
    try:
        from scrapy_supabase.testing.stack import SessionStack, require_extra
    except ImportError as error:
        pytest.fail(
            f"The fixture local_supabase cannot be imported: {str(error).rstrip('.')}. "
            "Run: pip install 'scrapy-supabase[local]'",
            pytrace=False,
        )
    from scrapy_supabase.errors import SupabaseError

    folder = pytestconfig.getini(MIGRATIONS)
    try:
        require_extra()
        stack = SessionStack(pytestconfig.rootpath / folder if folder else None)
    except SupabaseError as error:
        option = f" ({MIGRATIONS} = {folder})" if folder else ""
        pytest.fail(f"The fixture local_supabase{option}: {error}", pytrace=False)
    yield stack
    stack.stop()


@pytest.fixture
def local_supabase(
    _local_supabase_stack: SessionStack,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalSupabaseFixture]:
    """A Supabase on this machine with the migrations applied: its URL and keys, crawls that upload to it, and SQL."""
    from scrapy_supabase.errors import SupabaseError
    from scrapy_supabase.testing import LocalSupabaseFixture
    from scrapy_supabase.testing.fixture import environment

    try:
        _local_supabase_stack.restore()
    except SupabaseError as error:
        pytest.fail(f"The fixture local_supabase: {error}", pytrace=False)
    fixture = LocalSupabaseFixture(
        _local_supabase_stack,
        spool=tmp_path_factory.mktemp("supabase-spool"),
        near=request.path.parent,
        root=request.config.rootpath,
        show=lambda title, text: request.node.add_report_section("call", title, text),
    )
    for name, value in environment(fixture).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    yield fixture
    fixture.close()
