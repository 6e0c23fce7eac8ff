"""Reading a table page by page: every row once, in order, beyond the server's limit, over both backends."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from scrapy_supabase.backends.base import Order, Select
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.delivery.table_reader import TableReader
from scrapy_supabase.errors import ConfigurationError, FatalError
from scrapy_supabase.rows.where import filters_of
from scrapy_supabase.settings.explicit import selection_of
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_project import Line, MakeLine, Project

Sql = Callable[..., list[tuple[Any, ...]]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test over REST and over a database connection."""
    if "line" in metafunc.fixturenames:
        http = "proxy" in metafunc.fixturenames
        metafunc.parametrize("line", ["rest"] if http else ["rest", "database"], indirect=True)


def reader(line: Line, attempts: int = 3) -> TableReader:
    """A reader with waits of 10 ms."""
    return TableReader(line.backend, line.schema, policy=OpenPolicy(attempts, 0.01, line.deadline))


def rows(line: Line, select: Select, key: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """All rows."""
    return [row for page in reader(line).pages(select, key) for row in page]


def test_more_rows_than_the_server_sends_at_once(sql: Sql, line: MakeLine) -> None:
    """2,500 rows, with a limit of 1,000 rows per request; fewer are asked for, or more than there can be."""
    sql("create table t (id int primary key, done bool); grant all on t to service_role")
    sql("insert into t select n, n % 5 = 0 from generate_series(1, 2500) n; notify pgrst, 'reload schema'")
    made = line()
    for limit in (999, 1000, 10_000):
        assert [row["id"] for row in rows(made, Select("t", limit=limit))] == list(range(1, 2501))
    left = rows(made, Select("t", ("done",), filters_of({"done": False})))
    assert left == [{"done": False}] * 2000
    assert rows(made, Select("t", (), filters_of({"id": {"gt": 2500}}))) == []


def test_every_order_has_every_row_once(sql: Sql, line: MakeLine) -> None:
    """Also with NULLs and equal values, in both directions, as one statement would return them."""
    sql('create table t (id int, "sort by" int, b text not null, primary key (id, b)); grant all on t to service_role')
    dice = random.Random(7)
    for _ in range(60):
        name = dice.choice(["", "a", "B", "é", 'q"'])
        sql(
            "insert into t values (%s, %s, %s) on conflict do nothing",
            dice.randrange(9),
            dice.choice([None, None, 1, 2]),
            name,
        )
    sql("notify pgrst, 'reload schema'")
    made = line()
    by, desc_by = Order("sort by"), Order("sort by", descending=True)
    for order in ((), (by,), (desc_by,), (Order("b"), desc_by), (by, Order("b", descending=True)), (Order("id"), by)):
        terms = [f'"{each.column}"{" desc" if each.descending else ""}' for each in order]
        named = {each.column for each in order}
        terms += [column for column in ("id", "b") if column not in named]
        expected = sql(f'select id, "sort by", b from t order by {", ".join(terms)}')
        assert [tuple(row.values()) for row in rows(made, Select("t", (), (), order, limit=7))] == expected, order
    only = rows(made, Select("t", ("sort by",), (), (desc_by,), limit=7))
    assert [row for row in only if row.keys() != {"sort by"}] == []


def test_arguments_of_select_rows() -> None:
    """Texts with commas or lists; only the last part of a term is a direction."""
    select, key = selection_of("t", "a, b", {"a": None}, "a.desc, b.c, a, b.asc", ["id"])
    assert (select.table, select.columns, key) == ("t", ("a", "b"), ("id",))
    assert select.order == (Order("a", descending=True), Order("b.c"), Order("b"))
    assert selection_of("t", None, None, (), ()) == (Select("t"), ())


def test_rows_that_change_while_they_are_read(sql: Sql, line: MakeLine) -> None:
    """Deleted rows do not shift the pages."""
    sql("create table t (id int primary key); grant all on t to service_role")
    sql("insert into t select generate_series(1, 40); notify pgrst, 'reload schema'")
    pages = reader(line()).pages(Select("t", limit=10))
    found = [row["id"] for row in next(pages)]
    sql("delete from t where id <= 15")
    found += [row["id"] for page in pages for row in page]
    assert found == [*range(1, 11), *range(16, 41)]


def test_values(sql: Sql, line: MakeLine, project: Project) -> None:
    """As JSON has them, but `numeric` exactly, whether or not the key may read the description of tables."""
    sql("""create domain t_price as numeric; create table t (id bigint primary key, price numeric, own t_price,
        share float8, at timestamptz, tags text[], meta jsonb); grant all on t to service_role;
        insert into t values (9007199254740993, 0.1000000000000000055511151231257827021181583404541015625, 5, 0.1,
        '2026-11-27 12:00+00', '{a}', '{"n": 1.5}'), (9007199254740994, 'NaN', null, null, null, null, null);
        notify pgrst, 'reload schema'""")
    try:
        made = line()
        described, hidden = reader(made), reader(made)
        hidden._tables = {}
        exact = Decimal("0.1000000000000000055511151231257827021181583404541015625")
        for one, key in ((described, ()), (hidden, ("id",))):
            first, second = next(one.pages(Select("t"), key))
            assert (first["id"], first["price"], first["own"]) == (2**53 + 1, exact, Decimal(5))
            assert [type(first[name]) for name in ("id", "price", "own", "share")] == [int, Decimal, Decimal, float]
            assert (first["tags"], first["meta"]) == (["a"], {"n": 1.5})
            assert first["at"].startswith("2026-11-27T12:00:00")
            assert second["price"].is_nan()
            assert second["own"] is None
    finally:
        sql("drop table t; drop domain t_price")


def test_a_table_without_a_key(sql: Sql, line: MakeLine) -> None:
    """Columns that identify a row can be named; a NULL in them is found out."""
    sql("create table t (a int, b int); grant all on t to service_role")
    sql("insert into t select n, n % 2 from generate_series(1, 9) n; notify pgrst, 'reload schema'")
    made = line(check=False)
    with pytest.raises(ConfigurationError, match=r"The primary key of table t is not known.* key="):
        rows(made, Select("t"))
    assert [row["a"] for row in rows(made, Select("t", ("a",), (), (Order("b"),), 2), ("a",))] == [
        2,
        4,
        6,
        8,
        1,
        3,
        5,
        7,
        9,
    ]
    sql("insert into t values (null, 1)")
    with pytest.raises(ConfigurationError, match=r"Column 'a' of table t .* has a NULL"):
        rows(made, Select("t", limit=4), ("a",))
    assert len(rows(made, Select("t", (), filters_of({"a": {"not": None}}), limit=4), ("a",))) == 9


def test_columns_without_an_order(sql: Sql, line: MakeLine) -> None:
    """A JSON null is no NULL, but looks like one, so that rows would be missing."""
    sql("create table t (id int primary key, tags text[], meta jsonb); grant select on t to service_role")
    sql("insert into t values (1, '{}', 'null'), (2, '{a}', '1'); notify pgrst, 'reload schema'")
    made = line(check=False)
    for column, kind in (("tags", r"text\[\]"), ("meta", "jsonb")):
        with pytest.raises(
            ConfigurationError, match=f"^Column '{column}' of table t is of type {kind}, in whose order"
        ):
            rows(made, Select("t", (), (), (Order(column),)))


def test_what_cannot_be_read(sql: Sql, line: MakeLine) -> None:
    """Finish reason and remedy."""
    sql("create table t (id int primary key, at date); create table t_closed (id int primary key)")
    sql("grant select on t to service_role; revoke all on t_closed from service_role; notify pgrst, 'reload schema'")
    made = line(check=False)
    for select, reason, remedy in (
        (Select("t_none"), "supabase_no_table", "Correct the name of the table"),
        (Select("t_closed"), "supabase_permission_denied", "Run: GRANT select ON public.t_closed TO service_role;"),
        (Select("t", ("nope",)), "supabase_schema", "It has: id, at."),
        (Select("t", (), filters_of({"at": "someday"})), "supabase_error", "Correct the value"),
    ):
        with pytest.raises(FatalError) as raised:
            rows(made, select)
        assert raised.value.reason == reason
        assert remedy in str(raised.value)


def test_transient_failures(sql: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """Requests are repeated; the last failure is fatal. A page that takes too long is read in parts."""
    sql("create table t (id int primary key); grant all on t to service_role")
    sql("insert into t select generate_series(1, 30); notify pgrst, 'reload schema'")
    made = line(url=proxy.url, check=False)
    timeout = faults.answers(500, {"code": "57014", "message": "canceling statement due to statement timeout"})
    proxy.faults.extend([faults.resets_after, faults.passes, faults.answers(503), timeout, timeout, faults.passes])
    assert [row["id"] for row in rows(made, Select("t", limit=16))] == list(range(1, 31))
    limits = [path.rpartition("&limit=")[2] for _, path, _ in proxy.seen if path.startswith("/rest/v1/t?")]
    assert limits[:5] == ["16", "16", "4", "1", "1"]
    proxy.always = faults.answers(503)
    with pytest.raises(FatalError, match="The server is busy") as raised:
        rows(made, Select("t"))
    assert raised.value.reason == "supabase_unavailable"
