"""The pytest plugin: a user's suite with the fixture `local_supabase`, and what the fixture does."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import scrapy

from scrapy_supabase import init_supabase, upload_to_supabase
from scrapy_supabase.testing import CrawlError, LocalSupabaseFixture

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "test-your-spider.md"
SHOP = Path(__file__).parents[1] / "data" / "docs" / "shop"
TABLE = "create table books (url text primary key, pages int check (pages >= 0)); grant all on books to service_role"


@dataclasses.dataclass
class Book:
    """An item."""

    url: str
    pages: int


class BooksSpider(scrapy.Spider):
    """Yields three books; the `pages` of the first can be told."""

    name = "books"
    pages: Any = 1

    async def start(self) -> AsyncIterator[Any]:
        """Books, and a request where the test gives a URL."""
        for number, pages in enumerate((int(self.pages), 2, 3)):
            yield Book(f"https://a.example/{number}", pages)

    class Fails(scrapy.Spider):
        """A class in a class: its callback has a fault."""

        name = "fails"
        start_urls = ["data:,x"]  # noqa: RUF012 (as in everybody's spider)

        def parse(self, response: Any) -> None:
            """Fail."""
            raise LookupError("no price on " + response.url)

    class Deep(Fails):
        """Its fault is far down: the log's record is longer than what an error shows."""

        name = "deep"

        def parse(self, response: Any) -> None:
            """Fail in the 40th call."""
            self.even(response, 40)

        def even(self, response: Any, depth: int) -> None:
            """Go down; a call of the same function would be shown once."""
            self.odd(response, depth - 1)

        def odd(self, response: Any, depth: int) -> None:
            """Go down, or fail."""
            if depth < 0:
                super().parse(response)
            self.even(response, depth - 1)


class HangsSpider(scrapy.Spider):
    """Does not end."""

    name = "hangs"

    def __init__(self) -> None:
        import threading

        threading.Event().wait()


def test_three_lines(local_supabase: LocalSupabaseFixture) -> None:
    """What the fixture is for; the result has the stats as Scrapy has them, and the log."""
    local_supabase.sql(TABLE)
    done = local_supabase.crawl(BooksSpider, SUPABASE_TABLE="books")
    assert local_supabase.sql("select count(*) from books where pages < %s", 3) == [(2,)]
    assert done.stats["supabase/uploaded_count"] == 3
    assert isinstance(done.stats["start_time"], datetime)
    assert "3 rows received: 3 uploaded" in done.log
    assert done.rejected == []


@pytest.mark.parametrize(
    "settings", [{"TWISTED_REACTOR_ENABLED": False}, {"SUPABASE_TABLES": {Book: "books"}}, {"over": "database"}]
)
def test_crawls_of_every_kind(local_supabase: LocalSupabaseFixture, settings: dict[Any, Any]) -> None:
    """Without a reactor; with classes among the settings; over a database connection."""
    local_supabase.sql(TABLE)
    if settings.pop("over", None):
        settings["SUPABASE_DB_URL"] = local_supabase.db_url
    done = local_supabase.crawl(BooksSpider, **{"SUPABASE_TABLE": "books", **settings}, arguments={"pages": 7})
    assert local_supabase.sql("select sum(pages) from books") == [(12,)]
    assert ("over a database connection" in done.log) == ("SUPABASE_DB_URL" in settings)


def test_rejected_rows_fail_the_test_with_the_reason(local_supabase: LocalSupabaseFixture) -> None:
    """Unless the test is about them: then they are in the result, those of this crawl only."""
    local_supabase.sql(TABLE)
    with pytest.raises(CrawlError) as caught:
        local_supabase.crawl(BooksSpider, SUPABASE_TABLE="books", arguments={"pages": -1})
    assert str(caught.value).startswith("Rejected: 1 row (check_rows=False allows that):\n  books, 23514: ")
    assert str(caught.value).endswith('{"url": "https://a.example/0", "pages": -1}')
    assert caught.value.result.stats["supabase/uploaded_count"] == 2
    done = local_supabase.crawl(BooksSpider, SUPABASE_TABLE="books", arguments={"pages": -2}, check_rows=False)
    assert [(one["code"], one["row"]["pages"]) for one in done.rejected] == [("23514", -2)]


def test_rows_that_are_left_fail_the_test(local_supabase: LocalSupabaseFixture) -> None:
    """A server that takes longer for a row than the close may take: with the log's first WARNING."""
    local_supabase.sql(
        "create function slow() returns trigger language plpgsql as 'begin perform pg_sleep(0.5); return new; end';"
        + TABLE
        + "; create trigger slow before insert on books for each row execute function slow()"
    )
    said = r"^Not uploaded: 3 rows \(check_rows=False allows that\)\.\n.* WARNING: .*SUPABASE_CLOSE_TIMEOUT"
    with pytest.raises(CrawlError, match=said):
        local_supabase.crawl(BooksSpider, SUPABASE_TABLE="books", SUPABASE_CLOSE_TIMEOUT=0.1)


@pytest.mark.parametrize(
    ("spider", "settings", "said"),
    [
        ("books", {}, r"spider 'books' cannot be found by its name: there is no scrapy.cfg at or above /"),
        (
            BooksSpider,
            {},
            r"The crawl could not run: 1 wrong setting for scrapy-supabase:\n  - SUPABASE_TABLE is missing",
        ),
        (BooksSpider, {"TWISTED_REACTOR_ENABLED": False}, r"SUPABASE_TABLE is missing"),
        (
            BooksSpider,
            {"SUPABASE_TABLE": "none"},
            r"^The crawl was closed .*uploaded\.\n\S+ \S+ \S+ ERROR: Closing the crawl .*\(supabase_no_table\)",
        ),
        (BooksSpider, {"SUPABASE_ENABLED": False}, r"without the pipeline of scrapy-supabase"),
        (
            BooksSpider.Fails,
            {"SUPABASE_TABLE": "books"},
            r"The spider raised LookupError\.\n(.*\n)+LookupError: no price",
        ),
        (
            BooksSpider.Deep,
            {"SUPABASE_TABLE": "books"},
            r"The spider raised LookupError\.\n.* ERROR: Spider error (.*\n)+  …\n(.*\n)+LookupError: no price",
        ),
        (
            HangsSpider,
            {"timeout": 3},
            r"it was stopped after 3 s\. .* raise timeout\.\nThe end of its log:\n",
        ),
        (HangsSpider, {"arguments": {"x": 1}}, r"could not run: Traceback(.*\n)+TypeError: HangsSpider.__init__"),
        (BooksSpider, {"X": lambda: 1}, r"The setting X cannot be sent .* at the top level of a module"),
        (BooksSpider, {"arguments": {"x": lambda: 1}}, r"The spider argument x cannot be sent"),
    ],
)
def test_what_keeps_a_crawl_from_its_end_is_said(
    local_supabase: LocalSupabaseFixture, spider: Any, settings: dict[str, Any], said: str
) -> None:
    """The error has the reason."""
    local_supabase.sql(TABLE)
    with pytest.raises(CrawlError, match=said) as caught:
        local_supabase.crawl(spider, **settings)
    assert len(str(caught.value).splitlines()) < 60
    assert local_supabase.key not in str(caught.value)


def test_a_spider_in_a_function_cannot_be_sent(local_supabase: LocalSupabaseFixture) -> None:
    """The error says where to define it."""

    class Hidden(scrapy.Spider):
        name = "hidden"

    with pytest.raises(CrawlError, match="Define it at the top level of a module"):
        local_supabase.crawl(Hidden)


def test_nothing_is_uploaded_elsewhere(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Not where the environment, the project or the spider say; code that asks the environment comes here, too."""
    for name in ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_DB_URL"):
        monkeypatch.setenv(name, "postgresql://postgres@127.0.0.1:1/x")
    local_supabase: LocalSupabaseFixture = request.getfixturevalue("local_supabase")
    local_supabase.sql(TABLE)
    local_supabase.crawl(ElsewhereSpider, SUPABASE_TABLE="books")
    assert upload_to_supabase(init_supabase(), [{"url": "u", "pages": 1}], "books").uploaded == 1
    assert local_supabase.sql("select count(*) from books") == [(4,)]


class ElsewhereSpider(BooksSpider):
    """Says where to upload to, as some projects do."""

    custom_settings = {  # noqa: RUF012
        "SUPABASE_URL": "http://127.0.0.1:1",
        "SUPABASE_DB_URL": "postgresql://postgres@127.0.0.1:1/x",
    }


def project_of_the_page(pytester: pytest.Pytester) -> None:
    """The project that how-to pages find, with the files of docs/how-to/test-your-spider.md."""
    shutil.copytree(SHOP, pytester.path, dirs_exist_ok=True)
    files = dict(re.findall(r"^```\w+\n(?:#|--) (\S+\.\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    for name, text in files.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


ASYNC = """
import asyncio
import pytest, pytest_twisted
from twisted.internet import reactor, task
from scrapy_supabase.testing import CrawlError

@pytest.mark.asyncio
async def test_in_a_coroutine(local_supabase):
    await asyncio.to_thread(local_supabase.crawl, "books")
    assert local_supabase.sql("select count(*) from books") == [(2,)]

def test_a_wrong_name(local_supabase):
    with pytest.raises(CrawlError, match="has no spider 'book'. Name one of: books"):
        local_supabase.crawl("book")

@pytest_twisted.ensureDeferred
async def test_beside_a_reactor(local_supabase):
    await task.deferLater(reactor, 0)
    local_supabase.crawl("books")
    assert local_supabase.sql("select count(*) from books") == [(2,)]
"""
NOTE_WHERE = """
import pathlib, pytest

@pytest.fixture(autouse=True)
def where(local_supabase, worker_id, pytestconfig):
    (pytestconfig.rootpath / worker_id).write_text(local_supabase.url)
"""


def test_the_page_beside_other_plugins(pytester: pytest.Pytester) -> None:
    """Its project, tested by two workers of pytest-xdist; some tests are of pytest-asyncio and pytest-twisted."""
    project_of_the_page(pytester)
    tests = pytester.path / "tests"
    tests.joinpath("test_async.py").write_text(ASYNC)
    tests.joinpath("conftest.py").write_text(NOTE_WHERE)
    # The page's first example makes the table itself: it is not of a project with migrations.
    three_lines = tests / "test_three_lines.py"
    three_lines.write_text(
        three_lines.read_text().replace("create table books", "drop table books; create table books")
    )
    done = pytester.runpytest_subprocess("-n2", "--dist=loadfile", "-p", "no:cacheprovider")
    done.assert_outcomes(passed=7)
    urls = {pytester.path.joinpath(name).read_text() for name in ("gw0", "gw1")}
    assert len(urls) == 2


def test_a_spider_of_the_test_module(pytester: pytest.Pytester) -> None:
    """However pytest imports it, its classes are known to the crawl's process."""
    pytester.makepyfile(
        test_own="""
        import dataclasses, scrapy

        @dataclasses.dataclass
        class Book:
            url: str

        class OwnSpider(scrapy.Spider):
            name = "own"

            async def start(self):
                yield Book("u")

        def test_it(local_supabase):
            local_supabase.sql("create table t (url text primary key); grant all on t to service_role")
            local_supabase.crawl(OwnSpider, SUPABASE_TABLES={Book: "t"})
            assert local_supabase.sql("select * from t") == [("u",)]
        """
    )
    pytester.runpytest_subprocess("--import-mode=importlib", "-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_without_the_extra_it_says_what_to_install(pytester: pytest.Pytester) -> None:
    """Only the tests that ask for the fixture fail."""
    pytester.makepyfile(
        absent="import sys\nsys.modules['psycopg'] = None\n",
        test_a="def test_it(local_supabase): ...\ndef test_other(): ...\n",
    )
    done = pytester.runpytest_subprocess("-p", "absent")
    done.assert_outcomes(errors=1, passed=1)
    done.stdout.fnmatch_lines(["*it needs the extra `local`: *. Run: pip install 'scrapy-supabase[[]local]'"])
    assert "Traceback" not in done.stdout.str()


@pytest.mark.parametrize(
    ("migrations", "said"),
    [
        ("nowhere", "The migrations folder */nowhere does not exist."),
        ("sql", 'Migration 1_a.sql, line 1: syntax error at or near "creat"*'),
    ],
)
def test_wrong_migrations_are_one_line(pytester: pytest.Pytester, migrations: str, said: str) -> None:
    """With the name of the option."""
    pytester.mkdir("sql").joinpath("1_a.sql").write_text("creat table a ()")
    pytester.makeini(f"[pytest]\nsupabase_migrations = {migrations}\n")
    pytester.makepyfile("def test_it(local_supabase): ...")
    done = pytester.runpytest_subprocess()
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines([f"The fixture local_supabase (supabase_migrations = {migrations}): {said}"])


def test_who_does_not_use_it_does_not_pay(pytester: pytest.Pytester) -> None:
    """Of the package, the plugin alone is imported; no Scrapy, no psycopg."""
    pytester.makepyfile(
        """
        import sys

        def test_it():
            ours = {name for name in sys.modules if name.startswith("scrapy_supabase")}
            assert ours == {"scrapy_supabase", "scrapy_supabase.pytest_plugin"}
            assert not {"scrapy", "psycopg", "msgspec"} & set(sys.modules)
        """
    )
    pytester.runpytest_subprocess("-p", "no:twisted").assert_outcomes(passed=1)
