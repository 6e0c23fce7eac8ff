"""Scrapy's commands `shell`, `fetch`, `view`, `parse` and `check` in a project with the pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import fork_server
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import OLDEST
from tests.fix_project import Project

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]
Scrapy = Callable[..., subprocess.CompletedProcess[str]]

SPIDER = '''
import scrapy


class ShopSpider(scrapy.Spider):
    name = "shop"

    def parse(self, response):
        """Take the items of a page.

        @url {site}/0
        @returns items 3
        """
        yield from response.json()
'''
SETTINGS = """
BOT_NAME = "shop"
SPIDER_MODULES = ["shop.spiders"]
ADDONS = {{"scrapy_supabase.Addon": 300}}
SUPABASE_URL = "{url}"
SUPABASE_KEY = "{key}"
SUPABASE_TABLE = "t"
SUPABASE_CLOSE_TIMEOUT = 5
BATCH_RETRY_DELAY = 0.02
TELNETCONSOLE_ENABLED = False
"""


@pytest.fixture
def page(site: Site) -> str:
    """The URL of a site whose page 0 has three items."""
    return site([[{"id": number, "title": f"t{number}"} for number in range(3)]])


@pytest.fixture
def scrapy(project: Project, proxy: FaultProxy, tmp_path: Path, page: str) -> Scrapy:
    """Run a command of Scrapy in a project: `scrapy("fetch", url, python=OLDEST)`."""
    (tmp_path / "shop" / "spiders").mkdir(parents=True)
    (tmp_path / "scrapy.cfg").write_text("[settings]\ndefault = shop.settings\n")
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "settings.py").write_text(SETTINGS.format(url=proxy.url, key=project.key))
    (tmp_path / "shop" / "spiders" / "__init__.py").write_text(SPIDER.format(site=page))

    def run(*arguments: str, python: str | Path = sys.executable) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
        environment["BROWSER"] = "true"  # of `view`
        return fork_server.scrapy(*arguments, python=str(python), cwd=tmp_path, env=environment)

    return run


COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "shell": (("shell", "{page}/0", "-c", "response.json()[2]['title']"), "t2\n"),
    "shell of a spider": (("shell", "{page}/0", "--spider=shop", "-c", "response.status"), "200\n"),
    "fetch": (("fetch", "{page}/0"), '"title": "t2"'),
    "fetch as a spider": (("fetch", "{page}/0", "--spider=shop"), '"title": "t2"'),
    "view": (("view", "{page}/0"), ""),
    "parse": (("parse", "{page}/0", "--spider=shop", "--nocolour"), "'title': 't2'"),
    "check": (("check", "shop"), ""),
}


@pytest.mark.parametrize(
    ("command", "version"),
    [*((name, "newest") for name in COMMANDS), ("shell", "oldest"), ("fetch", "oldest"), ("check", "oldest")],
)
def test_a_command_without_items_sends_and_writes_nothing(
    scrapy: Scrapy, proxy: FaultProxy, page: str, tmp_path: Path, command: str, version: str
) -> None:
    """Even without the table, the command works, without a request to the server, a file or a message."""
    arguments, printed = COMMANDS[command]
    python = OLDEST if version == "oldest" else sys.executable
    done = scrapy(*(each.format(page=page) for each in arguments), python=python)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout, (done.stdout, done.stderr)
    assert ("OK" in done.stderr) == (command == "check"), done.stderr
    assert proxy.seen == []
    assert not (tmp_path / ".scrapy" / "supabase").exists()
    assert "[scrapy_supabase" not in done.stderr  # as a logger
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["shell", "fetch", "parse"])
def test_a_command_leaves_the_report_of_the_last_crawl(
    scrapy: Scrapy, sql: Sql, page: str, tmp_path: Path, command: str
) -> None:
    """The report stays that of the crawl, even if the server is unreachable now."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    with (tmp_path / "shop" / "spiders" / "__init__.py").open("a") as file:
        file.write(f"\n    start_urls = ['{page}/0']\n")
    done = scrapy("crawl", "shop")
    assert sql("select count(*) from t") == [(3,)], done.stderr
    last = tmp_path / ".scrapy" / "supabase" / "last-run.json"
    before = last.read_bytes()
    assert scrapy(*(each.format(page=page) for each in COMMANDS[command][0])).returncode == 0
    assert last.read_bytes() == before


@pytest.mark.parametrize("mode", [None, "twisted.internet.selectreactor.SelectReactor"])
@pytest.mark.parametrize("version", ["newest", "oldest"])
def test_parse_sends_items_through_the_pipelines(
    scrapy: Scrapy, sql: Sql, page: str, mode: str | None, version: str
) -> None:
    """With `--pipelines`, all items are stored, although Scrapy waits for none of them."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    python = OLDEST if version == "oldest" else sys.executable
    options = ["-s", f"TWISTED_REACTOR={mode}"] if mode else []
    done = scrapy("parse", f"{page}/0", "--spider=shop", "--pipelines", *options, python=python)
    assert sql("select id, title from t order by id") == [(0, "t0"), (1, "t1"), (2, "t2")], done.stderr
    assert "3 rows received: 3 uploaded" in done.stderr
    assert "Traceback" not in done.stderr


def test_parse_without_a_table_is_an_error(scrapy: Scrapy, page: str, tmp_path: Path, project: Project) -> None:
    """The items are spooled, as in a crawl."""
    done = scrapy("parse", f"{page}/0", "--spider=shop", "--pipelines")
    assert "Closing the crawl before its first page (supabase_no_table)" in done.stderr
    assert "3 rows received: 0 uploaded" in done.stderr
    assert "Not uploaded: 3 rows, kept in" in done.stderr


def test_a_command_with_wrong_settings_goes_on(scrapy: Scrapy, page: str) -> None:
    """The shell works without a key; a crawl is refused."""
    done = scrapy("shell", f"{page}/0", "-c", "response.status", "-s", "SUPABASE_TIMEOUT=soon")
    assert done.stdout.endswith("200\n"), done.stderr
    assert "WARNING: Disabled <class 'scrapy_supabase.pipeline.SupabasePipeline'>: 1 wrong setting" in done.stderr
    assert "SUPABASE_TIMEOUT is 'soon'" in done.stderr
    refused = scrapy("crawl", "shop", "-s", "SUPABASE_TIMEOUT=soon")
    assert refused.returncode == 1
