"""The option `replace` of children: those that their item no longer has are deleted at the end of a crawl."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fix_crawl import Crawler
from tests.fix_project import Project
from tests.test_row_options import OVER, server

Sql = Callable[..., list[tuple[Any, ...]]]

CHILDREN: dict[str, Any] = {
    "reviews": {
        "table": "t_reviews",
        "parent": {"shop": "shop", "book": "id"},
        "position": "n",
        "on_conflict": ["shop", "book", "n"],
        "replace": True,
        "children": {
            "votes": {
                "table": "t_votes",
                "parent": {"shop": "shop", "book": "book", "n": "n"},
                "on_conflict": ["shop", "book", "n", "who"],
                "replace": True,
            }
        },
    }
}
SETTINGS: dict[str, Any] = {
    "SUPABASE_TABLE": None,
    "SUPABASE_STAMPS": {"run_id": "run_id"},
    "SUPABASE_TABLES": {"*": {"table": "t", "children": CHILDREN}},
}


@pytest.fixture
def tables(sql: Sql) -> Sql:
    """Books of shops, reviews and votes, with foreign keys."""
    sql(
        "create table t (shop text, id numeric, run_id text, primary key (shop, id)); create table t_reviews (shop "
        "text, book numeric, n int, stars int check (stars < 6), run_id text, primary key (shop, book, n), foreign key "
        "(shop, book) references t); create table t_votes (shop text, book numeric, n int, who text, run_id text, "
        "primary key (shop, book, n, who), foreign key (shop, book, n) references t_reviews on delete cascade); "
        "grant all on t, t_reviews, t_votes to service_role; notify pgrst, 'reload schema'"
    )
    return sql


def books(numbers: range, reviews: int, *, shop: str = 'a,"b)', voters: str = "xy", stars: int = 5) -> list[Any]:
    """Return books with reviews, each with votes."""
    votes = [{"who": who} for who in voters]
    return [
        {"shop": shop, "id": number, "reviews": [{"stars": stars, "votes": votes} for _ in range(reviews)]}
        for number in numbers
    ]


def counted(sql: Sql) -> tuple[int, ...]:
    """Count the stored rows."""
    (found,) = sql("select (select count(*) from t), (select count(*) from t_reviews), (select count(*) from t_votes)")
    return found


@OVER
def test_children_that_are_gone_are_deleted(crawl: Crawler, tables: Sql, project: Project, over: str) -> None:
    """Only of parents that the crawl stored, at any depth, and only if all children are stored."""
    settings = {**SETTINGS, **server(project, over)}
    assert counted(tables) == (0, 0, 0)
    done = crawl({"items": books(range(260), 3)}, **settings)
    assert (done.counts("unseen"), counted(tables)) == ((0,), (260, 780, 1560)), done.log

    bad = crawl({"items": [*books(range(10), 1), *books(range(300, 301), 1, stars=9)]}, **settings)
    assert bad.counts("failed", "unseen") == (3, 0), bad.log  # a review, and with it its two votes
    assert "Unseen rows of table t_reviews are not deleted: the crawl is not complete: 1 row rejected." in bad.log
    assert counted(tables) == (261, 780, 1560)

    # Ten books have two reviews less, of one voter each; one has none; the last is met on two pages.
    items = [*books(range(250, 260), 1, voters="x"), *books(range(249, 250), 0), *books(range(248, 249), 1)]
    items += [{"shop": 'a,"b)', "id": 248, "reviews": []}]
    done = crawl({"items": items}, **settings)
    assert done.counts("failed", "spooled", "unseen") == (0, 0, 35), done.log
    assert done.stats["supabase/unseen_count/t_reviews"] == 10 * 2 + 3 + 2
    assert done.stats["supabase/unseen_count/t_votes"] == 10  # those of deleted reviews went with them
    assert counted(tables) == (261, 780 - 25, 1560 - 10 - 25 * 2)


def test_an_item_that_does_not_tell_which_children_it_has(crawl: Crawler, tables: Sql) -> None:
    """As one of a list of books without their reviews: nothing is deleted."""
    crawl({"items": books(range(4), 2)}, **SETTINGS)
    items = [{"shop": 'a,"b)', "id": 0}, {"shop": 'a,"b)', "id": 1, "reviews": None}, *books(range(2, 3), 0)]
    done = crawl({"items": items}, **SETTINGS)
    reason = "2 items without a list of children (None or missing; [] means none)"
    assert f"Unseen rows of table t_reviews are not deleted: the crawl is not complete: {reason}." in done.log
    assert counted(tables) == (4, 8, 16)
    done = crawl({"items": [*items[1:], {**items[1], "reviews": []}][1:]}, **SETTINGS)
    assert done.counts("unseen") == (4,), done.log
    assert counted(tables) == (4, 4, 8)


def test_a_missing_column_is_told_at_start(crawl: Crawler, tables: Sql) -> None:
    """Otherwise the end of the crawl could not tell which rows to delete."""
    tables("alter table t_reviews drop column run_id; notify pgrst, 'reload schema'")
    done = crawl({"items": books(range(2), 1)}, **SETTINGS)
    assert done.stats["finish_reason"] == "supabase_schema"
    assert "Correct replace in SUPABASE_TABLES, or run: ALTER TABLE public.t_reviews ADD COLUMN run_id text" in done.log
    assert counted(tables) == (0, 0, 0)


def test_rows_that_refer_to_children(crawl: Crawler, tables: Sql) -> None:
    """Without ON DELETE CASCADE, the error says what to declare, and nothing else fails."""
    tables("create table t_notes (shop text, book numeric, n int, foreign key (shop, book, n) references t_reviews)")
    crawl({"items": books(range(2), 2)}, **SETTINGS)
    tables("insert into t_notes select shop, book, n from t_reviews")
    done = crawl({"items": books(range(2), 1)}, **SETTINGS)
    assert done.stats["finish_reason"] == "finished"
    assert "Rows of another table refer to them: declare its foreign key ON DELETE CASCADE" in done.log
    assert counted(tables) == (2, 4, 8)
