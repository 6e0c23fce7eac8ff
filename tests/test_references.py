"""Crawls whose rows get the ids of their parents, over REST and over a database connection."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests import fault_proxy as faults
from tests.fault_proxy import Exchange, FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_project import Project
from tests.polling import eventually
from tests.spool.test_replay import Command, command
from tests.test_row_options import END_INSERTS, SLOW, server

Sql = Callable[..., list[tuple[Any, ...]]]
__all__ = ["command"]
OVER = pytest.mark.parametrize("over", ["rest", "database"])
ID = "id bigint generated always as identity primary key"


def no_rows(exchange: Exchange) -> None:
    """Requests without rows pass, and so do look-ups; a row finds the server down."""
    if exchange.handler.command == "POST" and exchange.body not in (b"", b"[]"):
        exchange.reply(503, [], b"<h1>down</h1>")
    else:
        faults.passes(exchange)


@OVER
def test_a_shop(crawl: Crawler, sql: Sql, project: Project, over: str) -> None:
    """Brands are made, categories are scraped, too, after their products. The fields that name them are no columns.

    A child table gets the id of the brand from its parent.
    """
    sql("create table t_brands (id uuid primary key default gen_random_uuid(), name text unique, site text)")
    sql(f"create table t_categories ({ID}, slug text unique, title text not null)")
    sql(
        "create table t_products (url text primary key, brand_id uuid not null references t_brands, "
        "category_id bigint references t_categories, price numeric, brand text)"
    )
    sql(
        "create table t_sizes (url text references t_products, size text, brand uuid not null references t_brands, "
        "primary key (url, size))"
    )
    sql("grant all on t_brands, t_categories, t_products, t_sizes to service_role; notify pgrst, 'reload schema'")
    tables = {
        "*": {
            "by": "kind",
            "tables": {
                "category": {"table": "t_categories", "on_conflict": "slug"},
                "product": {
                    "table": "t_products",
                    "columns": {"maker": "brand"},
                    "children": {"sizes": {"table": "t_sizes", "parent": {"url": "url", "brand": "brand_id"}}},
                    "references": {
                        "brand_id": {
                            "table": "t_brands", "match": {"name": "maker"}, "columns": {"site": "maker_site"},
                            "create": True,
                        },
                        "category_id": {"table": "t_categories", "match": {"slug": "in.category"}},
                    },
                },
            },
        }
    }  # fmt: skip
    products: list[dict[str, Any]] = [
        {
            "kind": "product", "url": f"p{n}", "maker": f"Brand {n % 9}", "maker_site": f"b{n % 9}.example", "price": n,
            "in": {"category": f"c{n % 3}" if n else None},
        }
        for n in range(60)
    ]  # fmt: skip
    products[4]["sizes"] = [{"size": "S"}, {"size": "M"}]
    categories = [{"kind": "category", "slug": f"c{n}", "title": f"Category {n}"} for n in range(2)]
    settings = {"SUPABASE_TABLE": None, "SUPABASE_TABLES": tables, "SUPABASE_UNKNOWN_COLUMNS": "reject"}
    done = crawl({"items": [*products, *categories]}, BATCH_CHUNK_SIZE=10, **settings, **server(project, over))
    assert done.counts("received", "uploaded", "failed", "spooled") == (64, 44, 20, 0), done.log
    assert sql("select size, name from t_sizes s join t_brands b on b.id = brand order by 1") == [
        ("M", "Brand 4"), ("S", "Brand 4"),
    ]  # fmt: skip
    assert {(line["code"], line["table"]) for line in done.rejected} == {("no_parent", "t_products")}
    assert done.rejected[0]["row"]["category_id"] == {"match": {"slug": "c2"}}
    assert "has no column" not in done.log
    assert sql("select count(*), count(distinct site), min(site) from t_brands") == [(9, 9, "b0.example")]
    wrong = "select url from t_products p join t_brands b on b.id = brand_id where brand <> name"
    assert sql(wrong) == []
    by_slug = (
        "select slug, count(*) from t_products left join t_categories c on c.id = category_id group by 1 order by 1"
    )
    assert sql(by_slug) == [("c0", 19), ("c1", 20), (None, 1)]


@OVER
def test_rows_in_the_spool_keep_natural_keys(
    crawl: Crawler, sql: Sql, proxy: FaultProxy, project: Project, command: Command, over: str
) -> None:
    """`kill -9`, then a crawl with other settings: ids are looked up anew. So they are by `replay`."""
    sql(f"create table t_p ({ID}, name text unique); create table t (id int primary key, p bigint references t_p)")
    sql("grant all on t, t_p to service_role; notify pgrst, 'reload schema'; insert into t_p (name) values ('a')")
    settings = {"SUPABASE_URL": proxy.url, **server(project, over)}
    proxy.always = no_rows
    if over == "database":
        sql(SLOW)
    killed = crawl.start(
        {"items": [{"id": n, "name": "b" if n == 7 else "a"} for n in range(30)]},
        SUPABASE_TABLE=None,
        SUPABASE_TABLES={"*": {"table": "t", "references": {"p": {"table": "t_p", "match": {"name": "name"}}}}},
        SUPABASE_CLOSE_TIMEOUT=100,
        **settings,
    )
    spool = crawl.folder / "spool"

    def files() -> list[bytes]:
        return [path.read_bytes() for path in spool.glob("*/*.jsonl")]

    assert eventually(lambda: sum(data.count(b'"p":{"match":{"name":"') for data in files()) >= 30)
    killed.send_signal(signal.SIGKILL)
    crawl.finish(killed, balanced=False)
    assert any(data.lstrip(b"\0").startswith(b'{"format":4,') for data in files())
    proxy.always = faults.passes
    if over == "database":
        sql(END_INSERTS)
        sql("drop trigger slow on t")
    sql("delete from t_p; insert into t_p (name) values ('x'), ('a')")
    done = crawl({"items": [{"id": 99, "p": 2}]}, **settings)
    assert done.counts("recovered", "uploaded", "failed", "spooled") == (29, 1, 0, 0), done.log
    assert sql("select name, count(*) from t join t_p on t_p.id = p group by 1 order by 1") == [("a", 29), ("x", 1)]
    (rejected,) = done.rejected
    assert (rejected["code"], rejected["row"]) == ("no_parent", {"id": 7, "p": {"match": {"name": "b"}}})
    sql("insert into t_p (name) values ('b')")
    again = command("replay", "--rejected", "--mode", "upsert", url=proxy.url, **server(project, over))
    assert again.returncode == 0, again
    assert sql("select name from t join t_p on t_p.id = p where t.id = 7") == [("b",)]
    assert not (spool / "rejected.jsonl").exists()


def test_replay_waits_for_parents_that_come_later(
    crawl: Crawler, sql: Sql, proxy: FaultProxy, command: Command
) -> None:
    """The rows that a crawl left refer to rows that it scraped after them; the command has no settings of tables."""
    sql(f"create table t_p ({ID}, name text unique); create table t (id int primary key, p bigint references t_p)")
    sql("grant all on t, t_p to service_role; notify pgrst, 'reload schema'")
    reference = {"p": {"table": "t_p", "match": {"name": "name"}}}
    kinds = {"a": {"table": "t", "references": reference}, "b": {"table": "t_p", "on_conflict": "name"}}
    proxy.always = no_rows
    left = crawl(
        {"items": [*({"kind": "a", "id": n, "name": "x"} for n in range(4)), {"kind": "b", "name": "x"}]},
        SUPABASE_URL=proxy.url,
        SUPABASE_TABLE=None,
        SUPABASE_TABLES={"*": {"by": "kind", "tables": kinds}},
        SUPABASE_CLOSE_TIMEOUT=0.1,
    )
    assert left.counts("spooled", "failed") == (5, 0), left.log
    proxy.always = faults.passes
    again = command("replay", url=proxy.url)
    assert again.returncode == 0, again
    assert sql("select count(*) from t join t_p on t_p.id = p") == [(4,)]
