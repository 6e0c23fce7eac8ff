"""What the pytest fixture `local_supabase` says where it cannot be had, and of crawls that a test would not want."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scrapy_supabase.pytest_plugin import _local_supabase_stack
from scrapy_supabase.testing import CrawlError, LocalSupabaseFixture
from scrapy_supabase.testing.child import CannotRunError, _module, _no_such_spider, _spider_class
from scrapy_supabase.testing.stack import SessionStack
from tests.messages import Said
from tests.polling import eventually
from tests.testing.test_pytest_plugin import TABLE, BooksSpider, HangsSpider
from tests.testing.test_testing_stack import _hold, run


class DiesSpider(BooksSpider):
    """Ends the process, as a library in C may."""

    def __init__(self) -> None:
        os._exit(3)


BOOKS: dict[str, Any] = {"SUPABASE_TABLE": "books"}
CRAWLS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("A row that is rejected", BooksSpider, {**BOOKS, "arguments": {"pages": -1}}),
    ("Rows that are left", BooksSpider, {**BOOKS, "SUPABASE_CLOSE_TIMEOUT": 0.1}),
    ("A crawl of a wrong setting", BooksSpider, {"SUPABASE_TABLE": "books", "BATCH_CHUNK_SIZE": 0}),
    ("A crawl whose table is missing", BooksSpider, {"SUPABASE_TABLE": "none"}),
    ("A crawl without the pipeline", BooksSpider, {"SUPABASE_ENABLED": False}),
    ("A spider that raises", BooksSpider.Fails, BOOKS),
    ("A crawl that does not end", HangsSpider, {"timeout": 2}),
    ("A crawl that ends with its process", DiesSpider, BOOKS),
    ("A spider by name, and no project", "books", {}),
    ("A setting that cannot be sent", BooksSpider, {"X": lambda: 1}),
    ("An argument that cannot be sent", BooksSpider, {"arguments": {"x": lambda: 1}}),
)
SLOW = """
create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.5); return new; end';
create trigger slow before insert on books for each row execute function slow()
"""


def shown(error: CrawlError) -> str:
    """The message without the log's end and without tracebacks, which are not ours."""
    text = re.sub(r"(The end of its log:\n).*|\nTraceback .*", r"\1", str(error), flags=re.DOTALL)
    text = re.sub(r"0x[0-9a-f]+|(?<=at or above ).*(?=\. Pass)", "<…>", text)
    return "CrawlError: " + re.sub(r"\d\d:\d\d:\d\d", "<time>", text)


@pytest.mark.parametrize(("how", "spider", "settings"), CRAWLS, ids=[how for how, _, _ in CRAWLS])
def test_a_crawl(
    said: Said, local_supabase: LocalSupabaseFixture, how: str, spider: Any, settings: dict[str, Any]
) -> None:
    """What became of it, and the part of its log that tells why."""
    local_supabase.sql(TABLE + ";" + SLOW * ("SUPABASE_CLOSE_TIMEOUT" in settings))
    with pytest.raises(CrawlError) as raised:
        local_supabase.crawl(spider, **settings)
    said(how, shown(raised.value))


def test_spiders_that_are_not_found(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, by class, by module: `The crawl could not run: …`."""
    (tmp_path / "scrapy.cfg").touch()
    monkeypatch.chdir(tmp_path)
    no_such = _no_such_spider("boks", ["shops", "books"])
    said("A spider that the project lacks", f"CrawlError: The crawl could not run: {no_such}")
    with pytest.raises(CannotRunError) as no_class:
        _spider_class({"module": "tests.testing.test_pytest_plugin", "file": None, "spider": "Nothing"})
    said("A class that does not exist", f"CrawlError: The crawl could not run: {no_class.value}")
    with pytest.raises(CannotRunError) as no_module:
        _module("nowhere.spiders", None)
    said("A module that does not exist", f"CrawlError: The crawl could not run: {no_module.value}")
    with pytest.raises(CannotRunError) as no_file:
        _module("nowhere", "nowhere.txt")
    said("A file that is not a module", f"CrawlError: The crawl could not run: {no_file.value}")

    class Hidden(BooksSpider):
        """In a function."""

    with pytest.raises(CrawlError) as hidden:
        LocalSupabaseFixture(
            SimpleNamespace(supabase=SimpleNamespace(url="http://x", service_role_key="x")),  # type: ignore[arg-type]
            spool=tmp_path, near=tmp_path, root=tmp_path, show=print,
        ).crawl(Hidden)  # fmt: skip
    said("A spider in a function", shown(hidden.value))


def begun(root: Path, migrations: str) -> Iterator[SessionStack]:
    """The fixture of the session, for a suite with this option."""
    fixture: Any = _local_supabase_stack.__wrapped__  # type: ignore[attr-defined]
    found: Iterator[SessionStack] = fixture(SimpleNamespace(getini=lambda _: migrations, rootpath=root))
    return found


def test_no_fixture(said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line instead of a traceback: the option, and what to do."""
    with pytest.raises(pytest.fail.Exception) as nowhere:
        next(begun(tmp_path, "nowhere"))
    said("A folder of migrations that is not there, for the fixture", f"Failed: {nowhere.value}")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "psycopg", None)
        with pytest.raises(pytest.fail.Exception) as no_extra:
            next(begun(tmp_path, ""))
    said("The fixture without the extra", f"Failed: {no_extra.value}")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "scrapy_supabase.testing.stack", None)
        with pytest.raises(pytest.fail.Exception) as no_module:
            next(begun(tmp_path, ""))
    said("The fixture and a part that cannot be imported", f"Failed: {no_module.value}")


def test_a_stack_that_cannot_be_made_clean(said: Said, tmp_path: Path) -> None:
    """What the next test is told that asks for the fixture."""
    (tmp_path / "001_roles.sql").write_text("create role t_readers; create table books (a int)")
    stack = SessionStack(tmp_path)
    try:
        stack.restore()
        stack._connection.execute("set lock_timeout = '100ms'")
        with stack.connect() as busy:
            thread = threading.Thread(target=_hold, args=(busy,))
            thread.start()
            locked = "select exists (select from pg_locks where relation = 'books'::regclass and granted)"
            assert eventually(lambda: run(stack, locked) == [(True,)])
            with pytest.raises(Exception) as held:  # noqa: PT011 (its text is compared)
                stack.restore()
            busy.cancel()
            thread.join()
        said("A statement that still runs", f"Failed: The fixture local_supabase: {held.value}")
        run(stack, "create table mine ()")
        with pytest.raises(Exception) as again:  # noqa: PT011 (its text is compared)
            stack.restore()
        said("A migration that cannot be repeated", f"Failed: The fixture local_supabase: {again.value}")
    finally:
        stack.stop()
