"""Reading rows: conditions, order and limits mean the same over both backends, whatever names and values contain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from scrapy_supabase.backends.base import Order, Select, Write
from scrapy_supabase.backends.filters import differs, matches, to_query
from scrapy_supabase.errors import ConfigurationError, FatalError, SchemaDriftError, ServerError, TooLargeError
from scrapy_supabase.models import Mode
from scrapy_supabase.rows.where import filters_of
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_project import Line, MakeLine, Project

Sql = Callable[..., list[tuple[Any, ...]]]

ODD = ("a b.c", "order", "and", 'q"t\\', "x,(y)", "Größe", "select", "a->>b", "c::text")
VALUES = (
    *("", " ", "a,b", "a.b", "(a)", '"', '"a"', "\\", '\\"', "it's", "*", "%", "null", "NULL", "not.eq.a", "{a}", "[]"),
    *("a&b=c;d", "a+b", "100%25", "eq.x", "line\nbreak\ttab", "Größe €", "😀", "1", "-0.0", "true", "$1", "x" * 500),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test over REST, over a database connection, and over one of a pooler."""
    if "line" in metafunc.fixturenames:
        http = "proxy" in metafunc.fixturenames
        metafunc.parametrize("line", ["rest"] if http else ["rest", "database", "pooler"], indirect=True)


def ids(line: Line, where: Mapping[str, Any], **more: Any) -> list[int]:
    """The ids of the selected rows."""
    select = Select("t", ("id",), filters_of(where), (Order("id"),), **more)
    return [row["id"] for row in msgspec.json.decode(line.backend.select(select))]


def test_names_and_values_are_never_read_as_syntax(sql: Sql, line: MakeLine) -> None:
    """Each value finds its own row only, by itself and in a list, in columns with any name."""
    columns = ", ".join('"' + name.replace('"', '""') + '" text' for name in ODD)
    sql(f"create table t (id int primary key, {columns}); grant all on t to service_role")
    sql("notify pgrst, 'reload schema'")
    values = ", ".join(["%s"] * len(ODD))
    for number, value in enumerate(VALUES):
        sql(f"insert into t values ({number}, {values})", *[value] * len(ODD))
    sql("insert into t (id) values (1000)")
    made = line()
    for name in ODD:
        assert ids(made, {name: list(VALUES)}) == list(range(len(VALUES)))
        assert ids(made, {name: {"not": list(VALUES)}}) == [1000]
        assert ids(made, {name: [None, VALUES[0]]}) == [0, 1000]
    for number, value in enumerate(VALUES):
        where = dict.fromkeys(ODD, value)
        assert ids(made, where) == [number], value
        assert ids(made, {name: [value] for name in ODD}) == [number], value
    others = ids(made, {"and": {"not": VALUES[2]}})
    assert others == [number for number in (*range(len(VALUES)), 1000) if number != 2]
    everything = msgspec.json.decode(made.backend.select(Select("t", ODD, filters_of({"id": 1}))))
    assert everything == [dict.fromkeys(ODD, VALUES[1])]


def test_values_of_each_type(sql: Sql, line: MakeLine) -> None:
    """The column's type decides what a value means."""
    sql("""create type t_mood as enum ('sad', 'glad');
        create table t (id bigint primary key, price numeric(10, 2), done bool, at timestamptz, day date, key uuid,
        mood t_mood, share float8, meta jsonb, raw bytea, code char(4), tags text[]);
        grant all on t to service_role; notify pgrst, 'reload schema'""")
    try:
        sql("""insert into t values (1, 12.50, true, '2026-11-27 12:00+00', '2026-11-27',
            '0e37df36-f698-11e6-8dd4-cb9ced3df976', 'glad', 0.1, '{"a": [1, null]}', '\\x00ff', 'ab', '{x}'),
            (9007199254740993, null, null, null, null, null, null, null, null, null, null, null)""")
        made = line()
        found: list[dict[str, Any]] = [
            {"price": 12.5}, {"price": Decimal("12.500")}, {"done": True}, {"done": [True]}, {"mood": ["glad", "sad"]},
            {"at": datetime(2026, 11, 27, 12, tzinfo=UTC)}, {"day": date(2026, 11, 27)}, {"share": 0.1},
            {"key": UUID("0e37df36-f698-11e6-8dd4-cb9ced3df976")}, {"raw": b"\x00\xff"}, {"meta": '{"a":[1,null]}'},
            {"code": "ab"}, {"tags": "{x}"}, {"price": {"gt": 12, "lte": "12.50"}}, {"price": {"not": None}},
            {"done": {"not": False}, "price": {"not": None}}, {"at": {"gte": "2026-11-27"}, "share": {"lt": 1}},
        ]  # fmt: skip
        for where in found:
            assert ids(made, where) == [1], where
        assert ids(made, {"id": 2**53 + 1}) == [2**53 + 1]
        assert ids(made, {"price": None}) == [2**53 + 1]
        assert ids(made, {"price": {"not": 12.5}}) == [2**53 + 1]
        assert ids(made, {"price": {"not": [None, 3]}}) == [1]
        assert ids(made, {"id": []}) == ids(made, {"price": {"lt": 0}}) == []
        assert ids(made, {"id": {"not": []}}) == ids(made, {}) == [1, 2**53 + 1]
        for where in ({"id": "seven"}, {"mood": "meh"}, {"day": [date(2026, 1, 1), "someday"]}):
            with pytest.raises(ServerError, match="invalid input"):
                ids(made, where)
    finally:
        sql("drop table t; drop type t_mood")


def test_combinations_of_columns(sql: Sql, line: MakeLine) -> None:
    """For natural keys of several columns, and for rows that another run stored."""
    sql("create table t (id int primary key, shop text, sku text); grant all on t to service_role")
    sql("insert into t values (1, 'a', 'x'), (2, 'a', 'y'), (3, 'b', 'x'), (4, null, 'x')")
    sql("notify pgrst, 'reload schema'")
    made = line()

    def select(*where: Any) -> list[int]:
        found = made.backend.select(Select("t", ("id",), where, (Order("id"),)))
        return [row["id"] for row in msgspec.json.decode(found)]

    assert select(matches(("shop", "sku"), [("a", "x"), ("b", "x"), ("b", "y"), (None, "x")])) == [1, 3, 4]
    assert select(matches(("sku",), [("y",), ("z",)])) == [2]
    assert select(differs("shop", "a"), *filters_of({"sku": "x"})) == [3, 4]


def test_order_and_limits(sql: Sql, line: MakeLine, project: Project) -> None:
    """NULLs are the greatest values. Over REST, the server's limit of 1,000 rows holds."""
    sql('create table t (id int primary key, "sort by" int); grant all on t to service_role')
    sql("insert into t select n, nullif(n % 3, 0) from generate_series(1, 1200) n; notify pgrst, 'reload schema'")
    made = line()

    def rows(*order: Order, limit: int) -> list[tuple[Any, ...]]:
        found = made.backend.select(Select("t", (), (), order, limit))
        return [tuple(row.values()) for row in msgspec.json.decode(found)]

    assert rows(Order("sort by"), Order("id", descending=True), limit=2) == [(1198, 1), (1195, 1)]
    assert rows(Order("sort by", descending=True), Order("id"), limit=2) == [(3, None), (6, None)]
    assert len(rows(Order("id"), limit=5000)) == (1000 if "Postgrest" in repr(made.backend) else 1200)


def test_refusals(sql: Sql, line: MakeLine) -> None:
    """They are classified as those of writes."""
    sql("create table t (id int primary key); create table t_closed (id int primary key)")
    sql("grant select on t to service_role; revoke all on t_closed from service_role; notify pgrst, 'reload schema'")
    select = line(check=False).backend.select
    with pytest.raises(FatalError) as raised:
        select(Select("t_none"))
    assert raised.value.reason == "supabase_no_table"
    with pytest.raises(FatalError) as raised:
        select(Select("t_closed"))
    assert raised.value.reason == "supabase_permission_denied"
    for wrong in (
        Select("t", ("nope",)),
        Select("t", (), filters_of({"nope": 1})),
        Select("t", (), (), (Order("nope"),)),
    ):
        with pytest.raises(SchemaDriftError, match="nope"):
            select(wrong)


def test_only_rows_count_as_an_answer(sql: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """Not a web page, nor an object."""
    sql("create table t (id int primary key); grant select on t to service_role; notify pgrst, 'reload schema'")
    select = line(url=proxy.url, check=False).backend.select
    for body in ("<h1>Parked</h1>", "{}"):
        proxy.faults.append(faults.answers(200, body))
        with pytest.raises(ServerError):
            select(Select("t"))
    assert select(Select("t")) == b"[]"
    proxy.faults.append(cuts_off)
    with pytest.raises(TooLargeError, match="too long"):
        select(Select("t"))


def cuts_off(exchange: faults.Exchange) -> None:
    """The answer ends in the middle of a row, as one of more than 64 MB does when it is read."""
    exchange.reply(200, [("Content-Type", "application/json")], b'[{"id":1},{"i')


def test_conditions_are_in_one_parameter() -> None:
    """PostgREST ignores a plain parameter with a dot in its name when it deletes rows, and would delete all of them."""
    assert to_query(filters_of({"a.b": 1, "c": None})) == "and=%28%22a.b%22.eq.%221%22%2C%22c%22.is.null%29"
    assert to_query(()) == ""


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("done", "where is 'done': it must be a dict that maps columns to a value"),
        ({"": 1}, "it must be a dict that maps columns"),
        ({"a": {}}, "it must be a dict with keys of lt, lte, gt, gte, not"),
        ({"a": {"like": "x"}}, "it must be a dict with keys of lt, lte, gt, gte, not"),
        ({"a": {"lt": None}}, r"where\['a'\]\['lt'\] is None: it must be one value"),
        ({"a": {"lt": [1]}}, "it must be one value"),
        ({"a": [[1]]}, r"where\['a'\] is \[1\]: it must be a text"),
        ({"a": object()}, "it must be a text, number"),
    ],
)
def test_wrong_conditions(where: Any, problem: str) -> None:
    """The message has the place and what is allowed."""
    with pytest.raises(ConfigurationError, match=problem):
        filters_of(where)


def test_columns_named_like_an_alias(sql: Sql, line: MakeLine) -> None:
    """Rows that are read or just written come as objects, whatever their columns are called."""
    names = ("written", "pgrst_source", "source")
    columns = ", ".join(f"{name} text" for name in names)
    sql(f"create table t ({columns}, primary key (written)); grant all on t to service_role")
    sql("notify pgrst, 'reload schema'")
    backend = line().backend
    row = {"written": "a", "source": "c"}
    write = Write("t", tuple(sorted(row)), msgspec.json.encode([row]), Mode.IGNORE, ("written",))
    assert msgspec.json.decode(backend.insert_new(write, ("written",))) == [{"written": "a"}]
    assert msgspec.json.decode(backend.select(Select("t", tuple(row)))) == [row]
