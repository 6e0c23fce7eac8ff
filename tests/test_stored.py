"""What is already stored: spiders that start from a table, and requests that are not sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fix_crawl import Crawler
from tests.fix_project import Project, as_role

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]

JOBS = """
create table t_jobs (id int primary key, title text, done bool not null default false);
create table t (id int primary key, title text, url text, scraped_at timestamptz);
grant all on t, t_jobs to service_role;
insert into t_jobs select n, 'job ' || n, n % 4 = 0 from generate_series(1, 2500) n;
notify pgrst, 'reload schema'
"""


@pytest.mark.parametrize(("mode", "over"), [("asyncio", "rest"), ("select", "database"), ("none", "rest")])
def test_a_crawl_from_a_table_that_skips_what_is_stored(
    sql: Sql, crawl: Crawler, site: Site, project: Project, mode: str, over: str
) -> None:
    """In each mode of Scrapy: rows beyond the server's limit, in order; stored URLs are not requested again.

    The URLs of rows that are older than a day, and of rows outside `where`, are requested; so are requests that ask for
    it. URLs are compared as Scrapy's filter of duplicates compares them.
    """
    sql(JOBS)
    pages: list[list[dict[str, Any]]] = [[{"id": 10_000 + n}] for n in range(9)]
    pages[0] += [{"follow": "/1"}, {"follow": "/2?b=2&a=1#top"}, {"follow": "/3"}, {"follow": "/4"}, {"follow": "/5"}]
    url = site(pages)
    sql("insert into t (id, url, scraped_at) values (-1, %s, now())", f"{url}/1")
    sql("insert into t (id, url, scraped_at) values (-2, %s, now())", f"{url}/2?a=1&b=2")
    sql("insert into t (id, url, scraped_at) values (-3, %s, now() - interval '25 hours')", f"{url}/3")
    sql("insert into t (id, url, scraped_at, title) values (-4, %s, now(), 'no')", f"{url}/4")
    sql("insert into t (id, url, scraped_at) select -10 - n, 'http://x/' || n, now() from generate_series(1, 2500) n")
    stored = [f"{url}/{number}" for number in range(6, 9)]
    for number, one in enumerate(stored):
        sql("insert into t (id, url, scraped_at) values (%s, %s, now())", -5 - number, one)
    more: dict[str, Any] = {}
    if over == "database":
        more = {"SUPABASE_DB_URL": as_role(project.db_url, "service_role"), "SUPABASE_URL": None, "SUPABASE_KEY": None}
    found = crawl(
        {
            "select": {"table": "t_jobs", "columns": ["id", "title"], "where": {"done": False}, "order": "id.desc"},
            "pages": 1,
            "site": url,
            "requests": [
                {"url": stored[0], "dont_filter": True},
                {"url": stored[1], "meta": {"supabase_skip_stored": False}},
                {"url": stored[2]},
            ],
        },
        mode=mode,
        addon=True,
        SUPABASE_STAMPS={"scraped_at": "now"},
        SUPABASE_SKIP_STORED={"t": {"url": "url", "younger_than": "1 day", "where": {"title": None}}},
        **more,
    )
    assert "Requests for 2,505 stored URLs of table t are skipped." in found.log
    assert found.counts("uploaded", "skipped", "failed") == (1875 + 6, 3, 0)
    assert found.stats["supabase/skipped_count/t"] == 3
    assert found.stats["finish_reason"] == "finished"
    assert "Traceback" not in found.log
    fetched = sql("select id - 10000 from t where id >= 10000 order by id")
    assert fetched == [(number,) for number in (0, 3, 4, 5, 6, 7)]
    assert sql("select count(*) from t where title = 'job ' || id") == [(1875,)]


def test_a_table_can_be_read_while_the_pipeline_is_disabled(sql: Sql, crawl: Crawler, site: Site) -> None:
    """Nothing is skipped then."""
    sql(JOBS)
    url = site([[{"id": 1}]])
    sql("insert into t (id, url) values (1, %s)", f"{url}/0")
    found = crawl(
        {"select": {"table": "t_jobs", "where": {"id": [5, 6]}}, "pages": 1, "site": url},
        addon=True,
        SUPABASE_ENABLED=False,
        SUPABASE_SKIP_STORED={"t": {"url": "url"}},
    )
    assert found.stats["item_scraped_count"] == 3
    assert "{'id': 5, 'title': 'job 5', 'done': False}" in found.log
