"""The ids of parents: looked up and made by natural key, over REST and over a database connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from scrapy_supabase.delivery.executor import Progress
from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Chunk, Outcome, Reference, WriteOptions
from scrapy_supabase.schema.schema import UnknownColumns
from scrapy_supabase.schema.table_spec import ParentFields
from tests import fault_proxy as faults
from tests.fault_proxy import Exchange, FaultProxy
from tests.fix_project import Line, MakeLine

Sql = Callable[..., list[tuple[Any, ...]]]
OVER = pytest.mark.parametrize("line", ["rest", "database"], indirect=True)
BOTH = "grant all on t, t_p to service_role; notify pgrst, 'reload schema'"
TABLES = """create table t_p (id bigint generated always as identity primary key, name text unique);
create table t (n int primary key, p bigint references t_p); """
ID = "id bigint generated always as identity primary key"


def start(line: MakeLine, match: Mapping[str, str], columns: Mapping[str, str] | None = None, **options: Any) -> Line:
    """Make a line for table t, whose column `p` is the id of a row of t_p."""
    create = bool(options.pop("create", False))
    reference = Reference("p", "t_p", tuple(sorted(match)), options.pop("id", "id"), create)
    writing = WriteOptions(references=(reference, *options.pop("more", ())))
    return line(
        *options.pop("tables", ("t",)), writing=writing, parents={"p": ParentFields(match, columns or {})}, **options
    )


def codes(outcome: Outcome) -> list[str]:
    """Return the codes of the rejected rows."""
    return [one.code for one in outcome.rejections]


@OVER
def test_a_parent_is_found_by_its_natural_key(line: MakeLine, sql: Sql) -> None:
    """Any text. A row without a parent is rejected; one without a natural key gets NULL; one with an id keeps it."""
    sql(TABLES + BOTH)
    names = ["Lamps", 'a,b"c\\d(e)', "é ü", "", " ", "null", "x" * 700, "*", "{a}", "%", "1"]
    for name in names:
        sql("insert into t_p (name) values (%s)", name)
    made = start(line, {"name": "category"})
    items: list[dict[str, Any]] = [{"n": n, "category": name} for n, name in enumerate(names)]
    items += [{"n": 20, "category": "Rugs"}, {"n": 21, "category": None}, {"n": 22}, {"n": 23, "p": 2, "category": "x"}]
    done = made.upload(*items)
    assert done.uploaded == len(items) - 1
    (rejected,) = done.rejections
    assert (rejected.code, rejected.data) == ("no_parent", b'{"n":20,"p":{"match":{"name":"Rugs"}}}')
    assert rejected.message == "column 'p': table t_p has no row with name = 'Rugs'"
    assert made.upload({"n": 3, "category": ""}, {"n": 20, "category": "Rugs"}).uploaded == 1
    found = sql("select n, name from t left join t_p on t_p.id = p order by n")
    assert found == [*enumerate(names), (21, None), (22, None), (23, names[1])]


@OVER
def test_a_parent_that_is_not_there_is_made(line: MakeLine, sql: Sql) -> None:
    """Once, with the columns for new ones. One that is there stays as it is. The second chunk needs one request."""
    sql(f"create table t_p ({ID}, name text unique, url text default 'none', n int)")
    sql(f"create table t (n int primary key, p bigint references t_p); {BOTH}")
    sql("insert into t_p (name, url) values ('b', 'old')")
    made = start(line, {"name": "category"}, {"url": "link", "n": "more.n"}, create=True)
    items = [{"n": n, "category": "abc"[n % 3], "link": "new", "more": {"n": 5}} for n in range(8)]
    done = made.upload(*items, {"n": 8, "category": "d"})
    assert (done.uploaded, done.effort.requests) == (9, 3)
    assert sql("select name, url, n from t_p order by 1") == [
        ("a", "new", 5),
        ("b", "old", None),
        ("c", "new", 5),
        ("d", "none", None),
    ]
    assert sql("select name, count(*) from t join t_p on id = p group by 1 order by 1") == [
        ("a", 3),
        ("b", 3),
        ("c", 2),
        ("d", 1),
    ]
    assert made.upload(*items).effort.requests == 1
    sent = made.uploader.send(made.chunk(items))
    assert sent is not None
    assert sent.finish().uploaded == 8


@OVER
def test_natural_keys_of_several_columns(line: MakeLine, sql: Sql) -> None:
    """All must be equal; one that is NULL finds nothing. Two rows that match are no parent either."""
    sql(f"create table t_p ({ID}, name text, country text, n numeric)")
    sql(f"create table t (n int primary key, p bigint references t_p); {BOTH}")
    stored = "('a,b', 'AT', 1), ('a,b', 'DE', 1), ('x)', 'AT', 2.50), ('y', 'AT', 3), ('y', 'AT', 3.0)"
    sql(f"insert into t_p (name, country, n) values {stored}")
    made = start(line, {"name": "name", "country": "of.country", "n": "size"})

    def item(n: int, name: str, country: str | None, size: Any) -> dict[str, Any]:
        return {"n": n, "name": name, "of": {"country": country}, "size": size}

    done = made.upload(
        item(1, "a,b", "DE", 1), item(2, "x)", "AT", "2.5"), item(3, "a,b", None, 1), item(4, "y", "AT", 3),
        item(5, "a,b", "CH", 1), item(6, "a,b", "AT", 1.0),
    )  # fmt: skip
    assert sql("select n, p from t order by n") == [(1, 2), (2, 3), (6, 1)]
    assert [one.message for one in done.rejections] == [
        "column 'p': table t_p has no row with country = 'NULL' and n = '1' and name = 'a,b'".replace("'NULL'", "NULL"),
        "column 'p': table t_p has several rows with country = 'AT' and n = '3' and name = 'y'",
        "column 'p': table t_p has no row with country = 'CH' and n = '1' and name = 'a,b'",
    ]


@OVER
@pytest.mark.parametrize(
    ("kind", "known", "stored", "given", "new"),
    [
        ("citext", None, ["Lamps", "Ä"], ["LAMPS", "lamps", "Ä"], "rugs"),
        # What a nondeterministic collation is to us: a type that is not known, or over REST a text like any other.
        ("citext", "", ["Lamps", "Ä"], ["LAMPS", "Lamps", "Ä"], "rugs"),
        ("citext", "text", ["Lamps", "Ä"], ["LAMPS", "Lamps", "Ä"], "rugs"),
        ("char(5)", None, ["ab"], ["ab", "ab ", "ab   "], "x"),
        ("numeric", None, ["1.50", "2"], ["1.5", 1.5, 2.0, 2], 3.0),
        ("timestamptz", None, ["2026-01-01 00:00Z"], ["2026-01-01T00:00Z", "2026-01-01T01:00:00+01:00"], "2026-02-02"),
        ("uuid", None, ["6a2f41a3-c54c-fce8-32d2-0324e1c32e22"], ["6A2F41A3C54CFCE832D20324E1C32E22"], "6b" + "0" * 30),
        ("boolean", None, ["true"], [True, "yes"], False),
        ("bigint", None, ["12345678901234567"], [12345678901234567, "12345678901234567"], 7),
    ],
)  # fmt: skip
def test_values_are_compared_as_the_database_does(
    line: MakeLine, sql: Sql, kind: str, known: str | None, stored: list[str], given: list[Any], new: Any
) -> None:
    """However a value is written: it finds its parent, and makes no second one."""
    sql("create extension if not exists citext")
    sql(f"create table t_p ({ID}, name {kind} unique); create table t (n int primary key, p bigint); {BOTH}")
    for value in stored:
        sql(f"insert into t_p (name) values ('{value}')")
    made = start(line, {"name": "name"}, create=True)
    if known is not None and (info := made.schema.info("t_p")):
        made.schema.learn("t_p", msgspec.structs.replace(info, key_types={"name": known}))
    done = made.upload(*({"n": n, "name": value} for n, value in enumerate([*given, new, new])))
    assert (done.uploaded, codes(done)) == (len(given) + 2, [])
    assert sql("select count(*) from t_p") == [(len(stored) + 1,)]
    wrong = "select n from t left join t_p on t_p.id = p where n = %s and (name = %s) is not true"
    assert [n for n, value in enumerate(given) if sql(wrong.replace("%s)", f"'{value}')"), n)] == []
    assert sql("select count(distinct p) from t where n >= %s", len(given)) == [(1,)]


@OVER
def test_a_parent_that_the_database_refuses(line: MakeLine, sql: Sql) -> None:
    """Only the rows that need it are rejected, with the server's words, which also name what the parent lacks."""
    sql(f"create table t_p ({ID}, name varchar(5) unique check (name <> 'bad'), slug text not null)")
    sql(f"create table t (n int primary key, p bigint references t_p); {BOTH}")
    made = start(line, {"name": "name"}, {"slug": "slug"}, create=True)
    items = [{"n": n, "name": f"a{n}", "slug": "s"} for n in range(10)]
    items[2] |= {"name": "bad"}
    items[5] |= {"name": "too long"}
    del items[7]["slug"]
    done = made.upload(*items)
    assert (done.uploaded, sorted(codes(done))) == (7, ["22001", "23502", "23514"])
    assert sql("select count(*), count(distinct p) from t") == [(7, 7)]


@OVER
def test_ids_of_deleted_parents_are_looked_up_again(line: MakeLine, sql: Sql) -> None:
    """A cached id may be outdated. A parent that is gone for good is no parent."""
    sql(TABLES + BOTH)
    sql("insert into t_p (name) values ('a'), ('b')")
    made = start(line, {"name": "name"})
    assert made.upload({"n": 1, "name": "a"}, {"n": 2, "name": "b"}).uploaded == 2
    sql("delete from t; delete from t_p; insert into t_p (name) values ('a')")
    items = [{"n": 1, "name": "a"}, {"n": 2, "name": "b"}, {"n": 3, "name": "a"}]
    sent = made.uploader.send(made.chunk(items))
    while sent is not None and (found := sent.poll()) is Progress.NO_ANSWER:
        pass
    assert sent is not None
    assert found is Progress.NEEDS_WAITING
    done = sent.finish()
    assert (done.uploaded, codes(done)) == (2, ["no_parent"])
    assert sql("select distinct p from t") == [(3,)]


def test_a_full_cache_costs_requests_only(line: MakeLine, sql: Sql) -> None:
    """Each id is right, also while other threads fill the cache."""
    sql(TABLES + BOTH)
    sql("insert into t_p (name) select 'p' || i from generate_series(0, 99) i")
    made = start(line, {"name": "name"})
    made.uploader._references._cache._most = 7
    chunks = [made.chunk([{"n": 20 * k + n, "name": f"p{(31 * k + n) % 100}"} for n in range(20)]) for k in range(20)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(made.uploader.upload, chunks))
    assert sum(one.uploaded for one in done) == 400
    assert sql("select count(*) from t join t_p on id = p where name = 'p' || (31 * (n / 20) + n % 20) % 100") == [
        (400,)
    ]


@OVER
def test_two_crawls_make_the_same_parents_once(line: MakeLine, sql: Sql) -> None:
    """At the same time, in different orders: each parent once, and every row has it."""
    sql(TABLES + BOTH)
    lines = [start(line, {"name": "name"}, create=True) for _ in range(2)]

    def run(number: int) -> list[Outcome]:
        names = [f"p{n}" for n in range(500)]
        names = names if number else names[::-1]
        rows = [{"n": 1000 * number + n, "name": name} for n, name in enumerate(names)]
        return [lines[number].upload(*rows[at : at + 50]) for at in range(0, 500, 50)]

    with ThreadPoolExecutor(2) as pool:
        done = [one for each in pool.map(run, range(2)) for one in each]
    assert sum(one.uploaded for one in done) == 1000
    assert sql("select count(*) from t_p") == [(500,)]
    assert sql("select count(*) from (select p from t group by p having count(*) = 2) x") == [(500,)]


def test_failures_of_the_server(line: MakeLine, sql: Sql, proxy: FaultProxy) -> None:
    """Look-up and making are tried again, and counted; if that is over, the rows are left with their natural keys."""
    sql(TABLES + BOTH)
    made = start(line, {"name": "name"}, create=True, url=proxy.url, timeout=1.0)
    proxy.faults.extend([faults.resets_before, faults.passes, faults.resets_after, faults.passes, faults.passes])
    done = made.upload({"n": 1, "name": "a"}, {"n": 2, "name": "b"})
    assert (done.uploaded, done.effort.requests, done.effort.retries, done.effort.ambiguous_retries) == (2, 6, 2, 0)
    proxy.always = faults.answers(503, "<h1>down</h1>")
    done = made.upload({"n": 3, "name": "c"})
    assert done.transient is not None
    assert [row.data for row in done.left] == [b'{"n":3,"p":{"match":{"name":"c"}}}']
    assert sql("select name from t_p order by 1") == [("a",), ("b",)]


def test_a_server_that_returns_few_rows(line: MakeLine, sql: Sql, proxy: FaultProxy) -> None:
    """`db-max-rows` is the project's: parents that are not in the answer are looked up again."""
    sql(TABLES + BOTH)
    sql("insert into t_p (name) select n::text from generate_series(0, 9) n")

    def at_most_three(exchange: Exchange) -> None:
        exchange.handler.path = exchange.handler.path.replace("limit=1000", "limit=3")
        faults.passes(exchange)

    proxy.always = at_most_three
    items = [{"n": n, "name": str(n)} for n in range(11)]
    done = start(line, {"name": "name"}, url=proxy.url).upload(*items)
    assert (done.uploaded, codes(done)) == (10, ["no_parent"])
    made = start(line, {"name": "name"}, create=True, url=proxy.url).upload(*items)
    assert (made.uploaded, codes(made)) == (11, [])
    assert sql("select count(distinct p) from t join t_p on t_p.id = p and t.n::text = name") == [(11,)]


@OVER
def test_a_tree(line: MakeLine, sql: Sql) -> None:
    """Parents in the same table and the same chunk, or in one that comes later."""
    sql(f"create table t_p ({ID}, name text unique, up bigint references t_p)")
    sql("grant all on t_p to service_role; notify pgrst, 'reload schema'")
    reference = Reference("up", "t_p", ("name",))
    made = line(
        "t_p", on_conflict=("name",), writing=WriteOptions(references=(reference,)),
        parents={"up": ParentFields({"name": "above"})},
    )  # fmt: skip
    items: list[dict[str, Any]] = [
        {"name": "c", "above": "b"},
        {"name": "b", "above": "a"},
        {"name": "a", "above": None},
        {"name": "z", "above": "y"},
    ]
    done = made.upload(*items, table="t_p")
    assert (done.uploaded, [row.data for row in done.deferred]) == (3, [b'{"name":"z","up":{"match":{"name":"y"}}}'])
    assert sql("select t.name, p.name from t_p t join t_p p on p.id = t.up order by 1") == [("b", "a"), ("c", "b")]
    last = done.chunk.subset(done.deferred, last_try=True)
    assert codes(made.uploader.upload(last)) == ["no_parent"]


@OVER
def test_the_id_as_part_of_the_key(line: MakeLine, sql: Sql) -> None:
    """Natural keys that differ may be of one parent: the last version is stored."""
    sql("create extension if not exists citext")
    sql(f"create table t_p ({ID}, name citext unique)")
    sql(f"create table t (p bigint references t_p, day int, price int, note text, primary key (p, day)); {BOTH}")
    made = start(line, {"name": "name"}, create=True, on_conflict=("p", "day"))
    items = [
        {"name": "a", "day": 1, "price": 1}, {"name": "b", "day": 1, "price": 2},
        {"name": "A", "day": 1, "price": 3}, {"name": "a", "day": 2, "price": 4},
    ]  # fmt: skip
    done = made.upload(*items)
    assert (done.uploaded, codes(done)) == (4, [])
    assert done.chunk.is_ordered
    assert sql("select lower(name), day, price from t join t_p on id = p order by 1, 2") == [
        ("a", 1, 3),
        ("a", 2, 4),
        ("b", 1, 2),
    ]


def test_what_a_path_leaves_of_a_field_is_collected(line: MakeLine, sql: Sql) -> None:
    """With a column for fields that have none; other settings leave the field out or take the row."""
    sql(f"create table t_p ({ID}, name text unique)")
    sql(f"create table t (n int primary key, p bigint references t_p, extra jsonb); {BOTH}")
    shop = {"name": "a", "url": "u"}
    for n, unknown in enumerate((UnknownColumns("collect", "extra"), UnknownColumns("reject"), UnknownColumns())):
        made = start(line, {"name": "shop.name"}, create=True, unknown=unknown)
        assert made.upload({"n": n, "shop": shop}).uploaded == 1
    assert sql("select n, name, extra from t join t_p on id = p order by n") == [
        (0, "a", {"shop": shop}),
        (1, "a", None),
        (2, "a", None),
    ]


@OVER
def test_with_other_options_for_the_write(line: MakeLine, sql: Sql) -> None:
    """`insert_only` and rows of several column sets take several requests over REST, each with the ids."""
    sql(f"create table t_p ({ID}, name text unique)")
    sql(f"create table t (n int primary key, p bigint references t_p, first int, a int, b int); {BOTH}")
    reference = Reference("p", "t_p", ("name",), create=True)
    writing = WriteOptions(insert_only=("first",), references=(reference,))
    made = line(writing=writing, parents={"p": ParentFields({"name": "name"})})
    for first in (1, 2):
        rows = made.rows([{"n": 1, "name": "x", "first": first, "a": 1}, {"n": 2, "name": "y", "first": first, "b": 2}])
        assert made.uploader.upload(Chunk(first, rows, "f", mixed=True)).uploaded == 2
    assert sql("select n, name, first, a, b from t join t_p on id = p order by n") == [
        (1, "x", 1, 1, None),
        (2, "y", 1, None, 2),
    ]


@OVER
def test_what_is_wrong_is_found_at_open(line: MakeLine, sql: Sql) -> None:
    """The table of the parents, its columns, the unique index, the grants, and the column for the id."""
    sql(f"create table t_p ({ID}, name text, slug text not null); create table t (n int primary key, p bigint); {BOTH}")

    def problem(match: str = "name", columns: Mapping[str, str] | None = None, **options: Any) -> tuple[str, str]:
        with pytest.raises(FatalError) as caught:
            start(line, {match: "name"}, columns, **options)
        return caught.value.reason, caught.value.remedy

    option = "references['p'] of table t in SUPABASE_TABLES"
    index = f"With 'create', {option} needs a unique index. Run: CREATE UNIQUE INDEX ON public.t_p (name);"
    assert problem(create=True) == ("supabase_no_unique_index", index)
    assert problem("title") == ("supabase_schema", f"Correct {option}, or add the column.")
    assert problem(id="key") == ("supabase_schema", f"Correct {option}, or add the column.")
    sql("create unique index on t_p (name)")
    assert problem(columns={"url": "url"}, create=True)[0] == "supabase_schema"
    sql("revoke insert on t_p from service_role; notify pgrst, 'reload schema'")
    grant = "Run: GRANT select, insert ON public.t_p TO service_role;"
    assert problem(create=True) == ("supabase_permission_denied", grant)
    sql("alter table t drop column p; notify pgrst, 'reload schema'")
    missing = f"Correct {option}, or run: ALTER TABLE public.t ADD COLUMN p bigint;"
    assert problem() == ("supabase_schema", missing)
    sql("drop table t_p; notify pgrst, 'reload schema'")
    sql("alter table t add column p bigint; notify pgrst, 'reload schema'")
    assert problem() == ("supabase_no_table", f"Correct {option}, or create the table.")
