"""Messages about what is read: `select_rows` and `SUPABASE_SKIP_STORED`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from scrapy.settings import Settings

from scrapy_supabase.backends.base import Select
from scrapy_supabase.checkup.project import check_enabled
from scrapy_supabase.delivery.stored_urls import stored_urls
from scrapy_supabase.errors import ConfigurationError, SupabaseError
from scrapy_supabase.rows.where import filters_of
from scrapy_supabase.settings.explicit import selection_of
from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.skip_stored import SkipRule, read_skip_stored
from tests import fault_proxy as faults
from tests.checkup.test_check import Look, look
from tests.delivery.test_table_reader import reader, rows
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_project import Line, MakeLine
from tests.messages import Said, of_log, of_records
from tests.test_messages_settings import read as read_settings

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]
TABLE = "create table t (id bigint primary key, url text, at date); grant all on t to service_role"

__all__ = ["look"]

SETTINGS: Mapping[str, Any] = {
    "Tables without their columns": ["books"],
    "A table without options": {"books": "url"},
    "A wrong option": {"books": {"url": "url", "older_than": "7 days"}},
    "No column with the URL": {"books": {}},
    "An age in another language": {"books": {"url": "url", "younger_than": "7 Tage", "time": "at"}},
    "An age and no time": {"books": {"url": "url", "younger_than": "7 days"}},
    "A time that is no column": {"books": {"url": "url", "younger_than": 60, "time": 5}},
    "A condition with an unknown operator": {"books": {"url": "url", "where": {"title": {"like": "x"}}}},
}


@pytest.mark.parametrize("how", SETTINGS)
def test_settings(how: str, said: Said) -> None:
    """Wrong options are listed at the start."""
    said(how, read_settings({"SUPABASE_SKIP_STORED": SETTINGS[how]}))


def test_what_is_skipped_cannot_be_missed(said: Said) -> None:
    """A crawl that does not request all pages cannot find out which rows are gone."""
    tables = {"*": {"table": "books", "unseen": {"delete": True}}}
    settings = Settings({"SUPABASE_SKIP_STORED": {"books": {"url": "url"}}, "SUPABASE_TABLES": tables})
    found = Reader(settings, {})
    read_skip_stored(found)
    said("Skipped pages of a table whose missing rows are deleted", f"ConfigurationError: {found.problems[0]}")


def test_arguments(said: Said) -> None:
    """All wrong arguments are listed."""

    def of(*arguments: Any) -> list[str]:
        with pytest.raises(ConfigurationError) as raised:
            selection_of(*arguments)
        return [f"ConfigurationError: {raised.value}"]

    said("Wrong arguments of select_rows", of("", 5, ["done"], [None], ["", 1]))
    said("Wrong conditions of select_rows", of("t", (), {"price": {"lt": None}}, (), ()))
    said("A condition of select_rows that is no value", of("t", (), {"price": object}, (), ()))


def failure(line: Line, select: Select, key: tuple[str, ...] = ()) -> list[str]:
    """The error of a read."""
    with pytest.raises(SupabaseError) as raised:
        rows(line, select, key)
    return [f"{type(raised.value).__name__}: {raised.value}"]


def test_reading(sql: Sql, line: MakeLine, said: Said, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    """Each message ends with what to do."""
    sql(f"{TABLE}; create table t_closed (id int); create table t_keyless (a int, tags text[])")
    sql("revoke all on t_closed from service_role; grant all on t_keyless to service_role")
    sql("insert into t_keyless values (null); insert into t values (1); notify pgrst, 'reload schema'")
    made = line(url=proxy.url, check=False)
    said("A table that does not exist is read", failure(made, Select("t_none")))
    said("A table without a grant is read", failure(made, Select("t_closed")))
    said("A column that does not exist is read", failure(made, Select("t", ("nope",))))
    said("A value that is no date", failure(made, Select("t", (), filters_of({"at": "someday"}))))
    said("A table without a key is read", failure(made, Select("t_keyless")))
    said("NULL in a key", failure(made, Select("t_keyless"), ("a",)))
    said("An array as key", failure(made, Select("t_keyless"), ("tags",)))
    slow = faults.answers(500, {"code": "57014", "message": "canceling statement due to statement timeout"})
    proxy.faults.extend([faults.passes, slow])
    said("A table that takes too long to read", failure(made, Select("t", limit=1)))
    caplog.clear()
    caplog.set_level(logging.INFO)
    proxy.faults.extend([faults.passes, faults.answers(503)])
    rows(made, Select("t"))
    said("A request that is repeated", of_records(caplog, least=logging.INFO))


def test_stored_urls(sql: Sql, line: MakeLine, said: Said, caplog: pytest.LogCaptureFixture) -> None:
    """Every ten seconds, and at the end."""
    sql(f"{TABLE}; insert into t select n, 'http://x/' || n % 1100 from generate_series(1, 1200) n")
    sql("insert into t values (0); notify pgrst, 'reload schema'")
    caplog.set_level(logging.INFO)
    seconds = itertools.count(0, 7).__next__
    assert len(stored_urls(reader(line()), SkipRule("t", "url"), seconds)) == 1100
    said("Stored URLs are read for a long time", of_records(caplog, least=logging.INFO))
    with pytest.raises(ConfigurationError) as raised:
        stored_urls(reader(line()), SkipRule("t", "id"))
    said("A column without URLs", f"ConfigurationError: {raised.value}")


def test_crawls(sql: Sql, crawl: Crawler, said: Said, site: Site) -> None:
    """A crawl that cannot read what it needs ends with its own reason, before its first page or when it reads."""
    sql(f"{TABLE}; notify pgrst, 'reload schema'")
    url = site([[{"id": 1}], [{"id": 2}]])
    sql("insert into t values (9, %s)", f"{url}/1")
    skips: dict[str, Any] = {"addon": True, "SUPABASE_SKIP_STORED": {"t": {"url": "url"}}}
    done = crawl({"pages": 2, "site": url, "select": {"table": "t_none"}}, **skips)
    assert (done.stats["finish_reason"], done.counts("skipped")) == ("supabase_no_table", (1,))
    lines = [line.replace(url, "<site>") for line in of_log(done.log, least="DEBUG")]
    said("A request that is not sent", [line for line in lines if "URL" in line])
    said("A spider reads a table that does not exist", [line for line in lines if "t_none" in line])
    done = crawl(
        {"pages": 1, "site": url},
        ITEM_PIPELINES=None,
        SPIDER_MIDDLEWARES={"scrapy_supabase.SkipStoredMiddleware": 100},
        SUPABASE_URL="http://127.0.0.1:9",
        SUPABASE_SKIP_STORED={"t": {"url": "url"}},
    )
    assert done.stats["finish_reason"] == "supabase_unavailable"
    assert "downloader/request_count" not in done.stats
    said("The stored URLs cannot be read, and there is no pipeline", of_log(done.log, least="WARNING"))
    done = crawl({"items": [{"id": 1}]}, SUPABASE_SKIP_STORED={"t": {"url": "url"}})
    assert "item_scraped_count" not in done.stats
    said("Stored URLs without the middleware", of_log(done.log, least="WARNING"))


def test_check(sql: Sql, look: Look, said: Said) -> None:
    """`check` reads one URL."""
    sql(f"{TABLE}; notify pgrst, 'reload schema'")

    def findings(**settings: Any) -> list[str]:
        found = [f"{level}: {subject}: {text}\n{fix}".strip() for level, subject, text, fix in look(**settings)]
        return [one for one in found if "SKIP_STORED" in one or "skip stored" in one]

    said("URLs that can be read", findings(SUPABASE_SKIP_STORED={"t": {"url": "url"}}))
    said("URLs that cannot be read", findings(SUPABASE_SKIP_STORED={"t": {"url": "link"}}))
    enabled = {"scrapy_supabase.SupabasePipeline": 300}
    project = Settings({"ITEM_PIPELINES": enabled, "SUPABASE_SKIP_STORED": {"t": {"url": "url"}}})
    _, missing = check_enabled(project)
    text = f"{missing.level.value}: {missing.subject}: {missing.text}\n{missing.remedy}"
    said("A project without the middleware for stored URLs", [text])
