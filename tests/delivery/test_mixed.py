"""Rows of many shapes: few requests for new rows, and stored values stay if a row lacks the field."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_project import Project
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]

NAMES = [f"a{n:02}" for n in range(1, 13)]
TABLE = f"""create table t (id int primary key, {", ".join(f"{name} text default 'none'" for name in NAMES)},
    at timestamptz not null default now()); grant all on t to service_role"""


def items(count: int, seed: int, value: str) -> list[dict[str, Any]]:
    """Items that each have some of twelve optional fields."""
    chosen = random.Random(seed)
    return [{"id": n, **{name: value for name in NAMES if chosen.random() < 0.5}} for n in range(count)]


def expected(*crawls: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What is stored after crawls of these items: what an item lacks is the default, or stays."""
    rows: dict[int, dict[str, Any]] = {}
    for crawl in crawls:
        for item in crawl:
            rows.setdefault(item["id"], dict.fromkeys(NAMES, "none")).update(item)
    return rows


def stored(sql: Sql) -> dict[int, dict[str, Any]]:
    """The table."""
    return {row[0]["id"]: row[0] for row in sql("select to_jsonb(t) - 'at' from t")}


def over(project: Project, way: str) -> dict[str, Any]:
    """The settings for a way to the database."""
    return {"SUPABASE_DB_URL": project.db_url} if way == "database" else {}


WAYS = pytest.mark.parametrize("way", ["rest", "database"])


@WAYS
def test_new_rows_take_few_requests_and_stored_ones_keep_their_columns(
    sql: Sql, crawl: Crawler, project: Project, way: str
) -> None:
    """A first crawl, and a second one with other fields of the same rows."""
    sql(TABLE)
    first, second = items(1000, 1, "first"), items(200, 2, "second")
    done = crawl({"items": first}, **over(project, way))
    assert done.counts("uploaded", "failed") == (1000, 0)
    assert done.stats["supabase/request_count"] <= 30
    assert stored(sql) == expected(first)
    again = crawl({"items": second}, **over(project, way))
    assert again.counts("uploaded", "failed") == (200, 0)
    assert stored(sql) == expected(first, second)


@WAYS
@pytest.mark.parametrize("mode", ["ignore", "insert"])
def test_other_modes(sql: Sql, crawl: Crawler, project: Project, way: str, mode: str) -> None:
    """`ignore` keeps stored rows; with `insert`, the database rejects them one by one."""
    sql(TABLE)
    first, second = items(150, 1, "first"), items(300, 2, "second")
    options = {"SUPABASE_MODE": mode, **over(project, way)}
    crawl({"items": first}, **options)
    done = crawl({"items": second}, **options)
    assert done.counts("failed") == (150 if mode == "insert" else 0,)
    assert {line["code"] for line in done.rejected} == ({"23505"} if mode == "insert" else set())
    assert stored(sql) == expected(first, second[150:])


@WAYS
def test_versions_of_a_row_with_other_columns_stay_in_order(
    sql: Sql, crawl: Crawler, project: Project, way: str
) -> None:
    """Each row comes several times, with other fields each time: the newest value of each column is stored."""
    sql(TABLE)
    rounds = [items(60, seed, f"v{seed}") for seed in range(1, 6)]
    done = crawl({"items": [item for items in rounds for item in items]}, **over(project, way), BATCH_CHUNK_SIZE=25)
    assert done.counts("failed", "spooled") == (0, 0)
    assert stored(sql) == expected(*rounds)


@WAYS
def test_bad_rows_among_rows_of_many_shapes(sql: Sql, crawl: Crawler, project: Project, way: str) -> None:
    """Each bad row costs only itself."""
    sql(TABLE)
    sql("alter table t add column n int")
    first = [{**item, "n": "many" if item["id"] % 50 == 7 else 5} for item in items(300, 1, "x")]
    done = crawl({"items": first}, **over(project, way))
    assert done.counts("uploaded", "failed") == (294, 6)
    assert {line["row"]["id"] % 50 for line in done.rejected} == {7}
    assert done.stats["supabase/request_count"] <= 60


@pytest.mark.parametrize("kill", [False, True])
def test_the_spool_keeps_the_shapes_of_rows(sql: Sql, crawl: Crawler, proxy: FaultProxy, kill: bool) -> None:
    """After an outage or a killed process, the next crawl stores each row with its own fields."""
    sql(TABLE)
    before, first = items(100, 3, "before"), items(300, 1, "first")
    crawl({"items": before})
    proxy.faults.extend([faults.passes] * 2)
    proxy.always = faults.hangs if kill else faults.answers(503, "<h1>down</h1>")
    options: dict[str, Any] = {"SUPABASE_URL": proxy.url, "SUPABASE_CLOSE_TIMEOUT": 60 if kill else 0.2}
    process = crawl.start({"items": first}, **options, WITNESS=str(crawl.folder / "seen"), ITEM_PIPELINES={
        "scrapy_supabase.SupabasePipeline": 300, "tests.crawl.Witness": 400,
    })  # fmt: skip
    if kill:
        seen = crawl.folder / "seen"
        assert eventually(lambda: seen.exists() and len(seen.read_text().splitlines()) == 300)
        process.send_signal(signal.SIGKILL)
        crawl.finish(process, balanced=False)
    else:
        assert crawl.finish(process).counts("spooled") == (300,)
    formats = {json.loads(path.read_text().strip("\0").split("\n")[0])["format"] for path in spool_files(crawl)}
    assert 2 in formats
    proxy.always = faults.passes
    done = crawl({"items": []}, SUPABASE_URL=proxy.url)
    assert done.counts("recovered", "recovered_failed") == (300, 0)
    assert stored(sql) == expected(before, first)


def spool_files(crawl: Crawler) -> list[Any]:
    """Chunks that are left, with rows in them."""
    found = (crawl.folder / "spool").glob("*/0*.jsonl")
    return [path for path in found if path.read_bytes().strip(b"\0")]


def test_values_that_jsonb_would_rewrite_are_sent_by_shape(sql: Sql, crawl: Crawler) -> None:
    """Numbers with an exponent in a text column, and values of a `json` column, are stored as they are sent."""
    sql(TABLE)
    first = [{**item, "a01": 1e22} for item in items(100, 1, "x")]
    crawl({"items": first})
    assert sql("select distinct a01 from t") == [("1e22",)]
    sql("drop table t")
    sql(TABLE)
    sql("alter table t add column raw json")
    crawl({"items": [{**item, "raw": {"b": 1, "a": [1.50]}} for item in items(100, 1, "x")]})
    assert sql("select distinct raw::text from t") == [('{"b":1,"a":[1.5]}',)]
