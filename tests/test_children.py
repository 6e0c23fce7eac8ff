"""Items with children, over REST and over a database connection: crawls, scripts, files; rejections, kills, outages."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.lost_parents import LostParents
from scrapy_supabase.delivery.uploader import Uploader
from scrapy_supabase.models import Parent, WriteOptions
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.script import init_supabase, upload_to_supabase
from tests import fault_proxy as faults
from tests.checkup.test_check import Look, look
from tests.fault_proxy import Exchange, FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_project import MakeLine, Project
from tests.polling import eventually
from tests.spool.test_replay import Command, command
from tests.test_row_options import OVER, server

Sql = Callable[..., list[tuple[Any, ...]]]
__all__ = ["command", "look"]

BOOKS = "create table t (url text primary key, price int check (price > 0)); grant all on t to service_role"
REVIEWS = (
    "create table t_reviews (book text{}, n int, text text, page text, primary key (book, n));"
    " create table t_votes (book text, n int, who text, primary key (book, n, who){});"
    " grant all on t_reviews, t_votes to service_role"
)
KEYS = (" references t (url)", ", foreign key (book, n) references t_reviews (book, n)")
CHILDREN: dict[str, Any] = {
    "reviews": {
        "table": "t_reviews",
        "parent": {"book": "url"},
        "position": "n",
        "on_conflict": "book,n",
        "children": {
            "votes": {"table": "t_votes", "parent": {"book": "book", "n": "n"}, "on_conflict": ["book", "n", "who"]}
        },
    }
}
SETTINGS: dict[str, Any] = {
    "SUPABASE_TABLE": None,
    "SUPABASE_TABLES": {"*": {"table": "t", "children": CHILDREN}},
    "BATCH_CHUNK_SIZE": 10,
}


@pytest.fixture
def tables(sql: Sql) -> Sql:
    """Books, reviews and votes, with foreign keys."""
    sql(f"{BOOKS}; {REVIEWS.format(*KEYS)}")
    return sql


def books(count: int, reviews: int = 3, price: int = 1) -> list[dict[str, Any]]:
    """Return books with reviews of two votes each."""
    votes = [{"who": "a"}, {"who": "b"}]
    return [
        {"url": f"u{number}", "price": price, "reviews": [{"text": f"{n}", "votes": votes} for n in range(reviews)]}
        for number in range(count)
    ]


def counted(sql: Sql) -> tuple[int, ...]:
    """Count the stored rows."""
    (found,) = sql("select (select count(*) from t), (select count(*) from t_reviews), (select count(*) from t_votes)")
    return found


@OVER
def test_children_go_to_their_tables(
    crawl: Crawler, tables: Sql, project: Project, site: Callable[..., str], over: str
) -> None:
    """Parents first, however chunks are filled: no foreign key is ever missing. A second crawl updates."""
    items = [*books(50), {"url": "v", "reviews": {"text": "only one"}}, {"url": "w", "reviews": None}]
    items += [
        {"url": "x", "reviews": [5]},
        {"url": "y", "oops": 1, "reviews": [{"text": "x", "votes": [{"who": "a"}]}]},
    ]
    settings = {**SETTINGS, **server(project, over), "SUPABASE_UNKNOWN_COLUMNS": "reject"}
    reviews = {**CHILDREN["reviews"], "stamps": {"page": "url"}}
    settings["SUPABASE_TABLES"] = {"*": {"table": "t", "children": {"reviews": reviews}}}
    page = site([items])
    done = crawl({"pages": 1, "site": page}, addon=True, **settings)
    assert done.counts("received", "uploaded", "failed") == (508, 504, 4), done.log
    assert counted(tables) == (53, 151, 300)
    assert done.stats["supabase/uploaded_count/t_votes"] == 300
    assert "supabase/error_count/23503" not in done.stats
    assert [(one["table"], one["code"]) for one in done.rejected] == [
        ("t_reviews", "bad_child"),
        ("t", "unknown_column"),
        ("t_reviews", "parent_rejected"),
        ("t_votes", "parent_rejected"),
    ]
    assert done.rejected[2]["row"] == {"text": "x", "book": "y", "n": 1, "page": f"{page}/0"}
    assert tables("select distinct page from t_reviews") == [(f"{page}/0",)]
    assert tables("select book, n, text from t_reviews where book in ('u7', 'v') order by 1, 2") == [
        ("u7", 1, "0"),
        ("u7", 2, "1"),
        ("u7", 3, "2"),
        ("v", 1, "only one"),
    ]


@OVER
def test_children_of_a_row_that_the_server_rejects(crawl: Crawler, sql: Sql, project: Project, over: str) -> None:
    """Without a foreign key, too: nothing of them is stored. A later version of the parent takes its children."""
    sql(f"{BOOKS}; {REVIEWS.format('', '')}")
    bad = [{**one, "url": f"bad{one['url']}"} for one in books(30, price=-1)]
    items = [
        *books(20),
        *bad,
        *books(20, price=2),
        *({**one, "price": 7, "reviews": [{"text": "later"}]} for one in bad[:2]),
    ]
    done = crawl({"items": items}, **SETTINGS, **server(project, over))
    assert sql("select count(*) from t where url like 'bad%'") == [(2,)], done.log
    assert sql("select book, text from t_reviews where book like 'bad%' order by 1") == [
        ("badu0", "later"),
        ("badu1", "later"),
    ]
    assert sql("select count(*) from t_votes where book like 'bad%'") == [(0,)]
    assert counted(sql) == (22, 62, 120)
    assert done.stats["supabase/failed_count/t"] == 30
    assert done.stats["supabase/failed_count/t_reviews"] == 90
    assert done.stats["supabase/failed_count/t_votes"] == 180


@OVER
def test_kill_9_and_recovery(crawl: Crawler, tables: Sql, project: Project, over: str) -> None:
    """A crawl without these settings uploads what a killed one left: parents first, whatever the order of the files."""
    tables("""create or replace function t_wait() returns trigger language plpgsql as $$ begin
        perform pg_advisory_xact_lock_shared(42); return new; end $$""")
    for table in ("t", "t_reviews", "t_votes"):
        tables(f"create trigger wait before insert on {table} for each row execute function t_wait()")
    tables("select pg_advisory_lock(42)")  # uploads wait
    settings = {**SETTINGS, **server(project, over), "BATCH_FLUSH_INTERVAL": 0}
    process = crawl.start({"items": books(40)}, **settings)
    assert eventually(lambda: len(lines(crawl)) >= 100, 60), (len(lines(crawl)), crawl.log_of(process))
    process.kill()
    crawl.finish(process, balanced=False)
    tables("select pg_advisory_unlock(42)")
    left = lines(crawl)
    headers = [json.loads(line) for line in left if line.startswith('{"format":')]
    assert {(one["table"], one["format"]) for one in headers} == {("t", 1), ("t_reviews", 4), ("t_votes", 4)}
    done = crawl({"items": []}, SUPABASE_TABLE="t", **server(project, over))
    rows = len(left) - len(headers)
    assert done.counts("recovered", "recovered_failed", "recovered_spooled") == (rows, 0, 0), done.log
    assert "supabase/error_count/23503" not in done.stats
    assert sum(counted(tables)) == rows


def lines(crawl: Crawler) -> list[str]:
    """Return the lines of all chunk files."""
    found: list[str] = []
    for path in (crawl.folder / "spool").glob("*/*.jsonl"):
        with suppress(FileNotFoundError):  # just renamed
            found += [line for line in path.read_bytes().replace(b"\0", b"").decode().splitlines() if line]
    return found


def test_the_server_is_gone_in_the_middle(crawl: Crawler, tables: Sql, proxy: FaultProxy) -> None:
    """Chunks wait on disk, and go in their order when it is back."""
    proxy.faults.extend([faults.passes] * 12 + [faults.answers(503, "<h1>down</h1>")] * 6)
    done = crawl({"items": books(60)}, **SETTINGS, SUPABASE_URL=proxy.url)
    assert done.counts("received", "uploaded", "failed", "spooled") == (600, 600, 0, 0), done.log
    assert "supabase/error_count/23503" not in done.stats
    assert counted(tables) == (60, 180, 360)


def test_children_wait_with_their_parents_for_the_next_run(crawl: Crawler, tables: Sql, proxy: FaultProxy) -> None:
    """One chunk of parents cannot be stored: its children are neither sent nor rejected."""

    failed: list[bytes] = []

    def one_chunk_fails(exchange: Exchange) -> None:
        of_books, body = exchange.handler.path.partition("?")[0].endswith("/t"), exchange.body
        if of_books and (b'"u3"' in body or (failed and body == b"[]")):
            failed.append(body)
            faults.answers(503, "<h1>down</h1>")(exchange)
        else:
            faults.passes(exchange)

    proxy.always = one_chunk_fails
    done = crawl({"items": books(60)}, **SETTINGS, SUPABASE_URL=proxy.url, SUPABASE_CLOSE_TIMEOUT=1)
    assert done.counts("failed") == (0,), done.log
    left, *others = (done.stats[f"supabase/spooled_count/{table}"] for table in ("t", "t_reviews", "t_votes"))
    assert 0 < left < 60, done.log
    assert others >= [3 * left, 6 * left], done.log
    assert "supabase/error_count/23503" not in done.stats
    proxy.always = faults.passes
    again = crawl({"items": []}, SUPABASE_TABLE="t", SUPABASE_URL=proxy.url)
    assert again.counts("recovered", "recovered_failed") == (left + sum(others), 0), again.log
    assert "supabase/error_count/23503" not in again.stats
    assert counted(tables) == (60, 180, 360)


def test_children_of_a_deferred_row_wait(crawl: Crawler, sql: Sql) -> None:
    """Books refer to authors that come last, one of whom never comes. Reviews have no foreign key."""
    sql("create table t_authors (name text primary key); grant all on t_authors to service_role")
    sql("create table t (url text primary key, price int, author text references t_authors)")
    sql(f"grant all on t to service_role; {REVIEWS.format('', '')}")
    items = [{**one, "author": "nobody" if n % 10 == 0 else "somebody"} for n, one in enumerate(books(60))]
    tables = {"builtins.dict": {"table": "t", "children": CHILDREN}, "tests.crawl.Author": "t_authors"}
    settings = {"SUPABASE_TABLE": None, "SUPABASE_TABLES": tables}
    done = crawl({"items": [*items, {"_class": "Author", "id": 1, "name": "somebody"}]}, **settings)
    assert done.counts("failed", "spooled") == (60, 0), done.log
    assert counted(sql) == (54, 162, 324)


def test_an_item_with_many_children(crawl: Crawler, tables: Sql) -> None:
    """All its rows are added before it goes on, and it waits if the last one does."""
    item = {"url": "u", "reviews": [{"text": str(n)} for n in range(10_000)]}
    done = crawl({"items": [item, {"url": "v"}]}, **{**SETTINGS, "BATCH_CHUNK_SIZE": 1000})
    assert counted(tables) == (2, 10_000, 0), done.log


def test_scripts_and_files(project: Project, tables: Sql, command: Command, tmp_path: Path) -> None:
    """`upload_to_supabase` takes the option; `load` takes it from the settings, and names the line of a child."""
    result = upload_to_supabase(init_supabase(project.url, project.key), books(30), "t", children=CHILDREN)
    assert (result.uploaded, result.failed) == (300, 0)
    assert counted(tables) == (30, 90, 180)
    items = [*books(40), {"url": "bad", "price": 0, "reviews": [{"text": "x"}]}, {"url": "z", "reviews": ["text"]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, items)))
    options = json.dumps(SETTINGS["SUPABASE_TABLES"])
    done = command("load", "rows.jsonl", "--table", "t", SUPABASE_TABLES=options, BATCH_CHUNK_SIZE="20")
    assert "401 rows uploaded, 3 rejected" in done.stdout + done.stderr
    assert counted(tables) == (41, 120, 240)
    rejected = [json.loads(line) for line in (tmp_path / "spool" / "rejected.jsonl").read_text().splitlines()]
    assert {(one["code"], one["location"]) for one in rejected} == {
        ("bad_child", "rows.jsonl, line 42"),
        ("23514", "rows.jsonl, line 41"),
        ("parent_rejected", "rows.jsonl, line 41"),
    }
    tables("alter table t drop constraint t_price_check")
    again = command("replay", "--rejected")
    assert "2 rows uploaded, 0 rejected" in again.stdout + again.stderr
    assert tables("select book, n from t_reviews where book = 'bad'") == [("bad", 1)]


def test_few_of_the_lost_parents_are_remembered(line: MakeLine, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are forgotten; values are compared as they are stored; a child may have two columns of its parent."""
    monkeypatch.setattr("scrapy_supabase.delivery.lost_parents._MOST", 2)
    sql("create table t (a int, b text, c int, primary key (a, b)); create table t_c (x int, y text, n int)")
    sql("grant all on t, t_c to service_role")
    made = line("t", "t_c")
    parent = Parent("t", ("x", "y"), ("a", "b"))
    made.schema.specs["t_c"] = TableSpec("t_c", writing=WriteOptions(parent=parent))
    made.schema.families.add("t_c", parent)
    parents = LostParents(made.schema)
    uploader = Uploader(Sender(made.backend, made.schema, attempts=1, delay=0, deadline=Deadline()), parents)
    bad = [{"a": number, "b": "x", "c": "many"} for number in range(4)]
    assert len(uploader.upload(made.chunk(bad)).rejections) == 4
    outcome = uploader.upload(made.chunk([{"x": n, "y": "x", "n": 1} for n in range(4)], "t_c"))
    assert (outcome.uploaded, [one.code for one in outcome.rejections]) == (2, ["parent_rejected"] * 2)
    parents.keep(made.chunk([{"a": 9, "b": "x"}]))
    outcome = uploader.upload(made.chunk([{"x": 9, "y": "x", "n": 1}, {"x": 9, "y": "z", "n": 1}], "t_c"))
    assert (outcome.uploaded, len(outcome.left), outcome.transient) == (1, 1, None)
    # Rows that are on their way when a newer version of their parent is rejected.
    sent = uploader.send(made.chunk([{"x": 50, "y": "x", "n": 1}], "t_c"))
    assert sent is not None
    assert len(uploader.upload(made.chunk([{"a": 50, "b": "x", "c": "many"}])).rejections) == 1
    assert sent.finish().uploaded == 1


def test_check_reports_a_child_table_without_a_key(look: Look, sql: Sql) -> None:
    """A second crawl would store its rows again. No foreign key is needed."""
    sql(f"{BOOKS}; create table t_reviews (book text, n int, text text); grant all on t_reviews to service_role")
    children = {"reviews": {"table": "t_reviews", "parent": {"book": "url"}, "position": "place"}}
    found = look(SUPABASE_TABLE=None, SUPABASE_TABLES={"*": {"table": "t", "children": children}})
    of_child = [(level, text) for level, subject, text, _ in found if subject == "table t_reviews"]
    assert ("warning", "has no primary key: every row is inserted, and a row sent twice is stored twice.") in of_child
    assert any(level == "error" and text.startswith("no column 'place'") for level, text in of_child), of_child
