"""Every row of the classification table, produced for real: chunk in, outcome and table contents out.

Both backends must pass, the database also behind a PgBouncer in transaction mode. What only HTTP can say is left out
for the database, whose own faults are in tests/backends/test_database.py, and those of PgBouncer in test_pooler.py.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest

from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.delivery.schema_check import SchemaCheck
from scrapy_supabase.errors import FatalError, ItemError
from scrapy_supabase.models import Mode
from scrapy_supabase.schema.schema import UnknownColumns
from scrapy_supabase.schema.table_spec import TableSpec
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_project import MakeLine, Project

Sql = Callable[..., list[tuple[Any, ...]]]


# Not over a pooler: they take seconds or have many cases, and what they are about is the same there.
NOT_POOLED = {
    "test_a_statement_timeout_halves",
    "test_a_lock_at_open_is_no_matter_of_size",
    "test_the_column_that_is_printed_takes_the_value",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test over REST, over a database connection, and over one of a pooler."""
    if "line" in metafunc.fixturenames:
        http = "proxy" in metafunc.fixturenames or metafunc.definition.get_closest_marker("rest_only")
        connections = ["database"] if metafunc.definition.name in NOT_POOLED else ["database", "pooler"]
        metafunc.parametrize("line", ["rest", *([] if http else connections)], indirect=True)


BOOKS = """
create table t (
  id bigint primary key, name text not null default 'none', price numeric(10, 2) check (price >= 0),
  isbn text unique, day date, author bigint, doubled int generated always as (length(name) * 2) stored
);
grant all on t to service_role;
"""


@pytest.fixture
def books(sql: Sql) -> Sql:
    """The table `t`."""
    sql(BOOKS)
    return sql


def items(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    """Items with these ids."""
    return [{"id": number, "name": f"n{number}", **more} for number in numbers]


# Stored


def test_rows_are_stored_and_counted(books: Sql, line: MakeLine) -> None:
    """One request, all rows."""
    outcome = line().upload(*items(1, 2, 3))
    assert (outcome.uploaded, outcome.effort.requests) == (3, 1)
    assert books("select id, name from t order by id") == [(1, "n1"), (2, "n2"), (3, "n3")]


@pytest.mark.parametrize(("mode", "name"), [(Mode.UPSERT, "new"), (Mode.IGNORE, "old"), (Mode.INSERT, "old")])
def test_modes(books: Sql, line: MakeLine, mode: Mode, name: str) -> None:
    """A stored row is updated, kept, or the new one is rejected."""
    books("insert into t (id, name) values (1, 'old')")
    outcome = line(mode=mode).upload({"id": 1, "name": "new"}, {"id": 2, "name": "b"})
    assert books("select name from t order by id") == [(name,), ("b",)]
    rejected = [(r.code, r.data) for r in outcome.rejections]
    assert rejected == ([("23505", b'{"id":1,"name":"new"}')] if mode is Mode.INSERT else [])
    assert outcome.uploaded == 2 - len(rejected)


def test_partial_items_never_null_a_stored_column(books: Sql, line: MakeLine) -> None:
    """Columns that an item lacks keep their stored value."""
    books("insert into t (id, name, price) values (1, 'old', 5)")
    line().upload({"id": 1, "isbn": "i"})
    assert books("select name, price, isbn from t") == [("old", 5, "i")]


def test_another_conflict_target(books: Sql, line: MakeLine) -> None:
    """`on_conflict` names a unique column that is not the key."""
    books("insert into t (id, isbn, name) values (7, 'i-7', 'old')")
    line(on_conflict=("isbn",)).upload({"id": 7, "isbn": "i-7", "name": "new"})
    assert books("select id, name from t") == [(7, "new")]


def test_types_with_limits_and_names_with_spaces(sql: Sql, line: MakeLine) -> None:
    """Values are cast to the columns' own types."""
    sql("""create type t_mood as enum ('sad', 'glad'); create domain t_percent as int check (value between 0 and 100);
        create table t (id uuid primary key, code char(3), bits bit(4), short varchar(3), price numeric(6, 2),
        "odd ""name, too" text[], mood t_mood, share t_percent, raw bytea, span interval, day date, meta jsonb);
        grant all on t to service_role""")
    try:
        item = {
            "id": "0e37df36-f698-11e6-8dd4-cb9ced3df976", "code": "abc", "bits": "1010", "short": "abc", "price": 1.239,
            'odd "name, too': ["a", "b"], "mood": "glad", "share": 7, "raw": b"\x00\xff", "span": "P1D",
            "day": "2026-11-24", "meta": {"a": [1, None]},
        }  # fmt: skip
        outcome = line().upload(item)
        assert (outcome.uploaded, outcome.rejections) == (1, ())
        assert sql('select code, bits::text, price::text, "odd ""name, too", mood::text, share, raw, meta from t') == [
            ("abc", "1010", "1.24", ["a", "b"], "glad", 7, b"\x00\xff", {"a": [1, None]})
        ]
        again = {**item, "id": "0e37df36-f698-11e6-8dd4-cb9ced3df977"}
        made = line()
        for wrong, code in (({"short": "abcd"}, "22001"), ({"mood": "meh"}, "22P02"), ({"share": 101}, "23514")):
            assert [r.code for r in made.upload({**again, **wrong}).rejections] == [code]
    finally:
        sql("drop table t; drop type t_mood; drop domain t_percent")


# Bad rows

BAD: dict[str, dict[str, Any]] = {
    "22P02": {"id": "seven"},
    "22003": {"id": 2**63},
    "22008": {"id": 7, "day": "2026-02-30"},
    "22007": {"id": 7, "day": "someday"},
    "23502": {"id": 7, "name": None},
    "23505": {"id": 7, "isbn": "taken"},
    "23514": {"id": 7, "price": -1},
}


@pytest.mark.parametrize("code", BAD)
def test_a_bad_row_is_rejected_alone(books: Sql, line: MakeLine, code: str) -> None:
    """The good rows of the chunk are stored; the bad one is rejected with the server's words."""
    books("insert into t (id, isbn) values (99, 'taken')")
    bad = BAD[code]
    good = [{**dict.fromkeys(bad), "name": "x", "id": number} for number in range(1, 7)]
    outcome = line().upload(*good[:4], {"name": "x", **bad}, *good[4:])
    assert outcome.uploaded == 6
    assert [r.code for r in outcome.rejections] == [code]
    assert outcome.rejections[0].message
    assert books("select count(*) from t where id < 10") == [(6,)]


def test_a_trigger_that_refuses_is_heard(books: Sql, line: MakeLine) -> None:
    """The rejection has P0001 and the trigger's hint."""
    books("""
        create or replace function t_guard() returns trigger language plpgsql as $$ begin
        if new.name = 'bad' then raise exception 'no % here', new.name using hint = 'be good'; end if; return new;
        end $$; create trigger guard before insert on t for each row execute function t_guard()""")
    outcome = line().upload(*items(1, 2), {"id": 3, "name": "bad"})
    assert [(r.code, r.message, r.hint) for r in outcome.rejections] == [("P0001", "no bad here", "be good")]
    assert outcome.uploaded == 2


def test_rows_that_are_one_key_to_the_server_only(books: Sql, line: MakeLine) -> None:
    """21000: 01 and 1 are one bigint. Sent apart, the later one wins, and nothing is rejected."""
    outcome = line().upload({"id": "01", "name": "first"}, {"id": 1, "name": "second"})
    assert (outcome.uploaded, outcome.rejections) == (2, ())
    assert books("select name from t") == [("second",)]


def test_one_percent_of_bad_rows_costs_few_requests(books: Sql, line: MakeLine) -> None:
    """10,000 rows, 100 bad at random: exactly those are rejected, at fewer than 15 more requests each."""
    import random

    bad = set(random.Random(20261123).sample(range(10_000), 100))
    made = line()
    rejected: set[int] = set()
    requests = uploaded = 0
    for start in range(0, 10_000, 100):
        chunk = [{"id": n, "price": -1 if n in bad else 1} for n in range(start, start + 100)]
        outcome = made.upload(*chunk)
        uploaded += outcome.uploaded
        requests += outcome.effort.requests
        rejected |= {int(r.data.split(b":")[1].split(b",")[0]) for r in outcome.rejections}
    assert rejected == bad
    assert uploaded == 9_900
    assert books("select count(*) from t") == [(9_900,)]
    assert (requests - 100) / len(bad) < 15


def test_a_missing_foreign_key_is_deferred_once(books: Sql, line: MakeLine) -> None:
    """The referenced row may come later: one request, no bisection; the second refusal rejects the row."""
    books("create table t_author (id bigint primary key); alter table t add foreign key (author) references t_author")
    made = line()
    outcome = made.upload({"id": 1, "author": None}, {"id": 2, "author": 5})
    assert (outcome.uploaded, outcome.rejections, outcome.effort.requests) == (0, (), 1)
    assert outcome.deferred == outcome.chunk.rows
    assert made.schema.references("t") == {"t_author"}  # from now on its chunks go first
    again = made.uploader.upload(outcome.chunk.subset(outcome.deferred, last_try=True))
    assert (again.uploaded, [(r.code, r.data) for r in again.rejections]) == (1, [("23503", b'{"id":2,"author":5}')])
    books("insert into t_author values (5)")
    assert made.uploader.upload(again.chunk).uploaded == 2


# Schema drift


def test_unknown_columns_are_dropped_once(books: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture) -> None:
    """The OpenAPI document lists the columns: no request is wasted, and one warning has the SQL."""
    made = line()
    outcome = made.upload({"id": 1, "colour": "red", "size": 2}, {"id": 2, "colour": "blue", "size": 3})
    made.upload({"id": 3, "colour": "red", "size": 2})
    assert (outcome.uploaded, outcome.effort.requests) == (2, 1)
    warnings = [r.getMessage() for r in caplog.records if "colour" in r.getMessage()]
    assert len(warnings) == 1
    assert "ALTER TABLE public.t ADD COLUMN colour text;" in warnings[0]


@pytest.mark.parametrize(
    ("value", "sql_type"),
    [
        (None, "text"),
        ("7", "text"),
        (True, "boolean"),
        (7, "numeric"),
        (7.5, "numeric"),
        (Decimal("7.50"), "numeric"),
        (msgspec.Raw(b"7.50"), "numeric"),
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "timestamp with time zone"),
        (dt.date(2026, 1, 2), "date"),
        (dt.time(3, 4), "time without time zone"),
        (dt.timedelta(hours=3), "interval"),
        (UUID(int=7), "uuid"),
        (b"\x00\xff", "bytea"),
        (["a"], "jsonb"),
        ({"a": 1}, "jsonb"),
        (Mode.UPSERT, "text"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_the_column_that_is_printed_takes_the_value(
    books: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture, value: object, sql_type: str
) -> None:
    """A text column would accept every value, but change most of them."""
    line().upload({"id": 1, "new": value})
    (said,) = [r.getMessage() for r in caplog.records if "'new'" in r.getMessage()]
    assert f"ADD COLUMN new {sql_type};" in said
    books(f"{said.partition('run: ')[2]} notify pgrst, 'reload schema'")
    outcome = line().upload({"id": 2, "new": value})
    assert (outcome.uploaded, outcome.rejections) == (1, ())
    assert books("select new is null from t where id = 2") == [(value is None,)]


def test_unknown_columns_cost_few_requests_where_the_server_does_not_tell(
    books: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture
) -> None:
    """Without it, each refusal names one column; later chunks know them all. One request is for a stale cache."""
    made = line(check=False)
    outcome = made.upload({"id": 1, "colour": "red", "size": 2})
    # A column is left out for the rest of the crawl: a wait for the schema cache, or a request without rows, decides.
    assert (outcome.uploaded, outcome.effort.requests) == (1, 4 if isinstance(made.backend, PostgrestBackend) else 5)
    assert "ADD COLUMN colour text;" in caplog.text
    assert "ADD COLUMN size numeric;" in caplog.text
    assert made.upload({"id": 2, "colour": "red", "size": 2}).effort.requests == 1
    assert len([r for r in caplog.records if "has no column" in r.getMessage()]) == 2


def test_unknown_columns_can_reject_the_row(books: Sql, line: MakeLine) -> None:
    """`SUPABASE_UNKNOWN_COLUMNS = "reject"`."""
    outcome = line(check=False, unknown=UnknownColumns("reject")).upload({"id": 1, "colour": "red"})
    assert [(r.code, r.message) for r in outcome.rejections] == [("unknown_column", "Table t has no column 'colour'")]


@pytest.mark.parametrize("check", [True, False])
def test_unknown_columns_can_go_into_a_jsonb_column(books: Sql, line: MakeLine, check: bool) -> None:
    """Whether known at open or found later, the fields are kept beside the item's own value of that column."""
    books("alter table t add column more jsonb")
    made = line(check=check, unknown=UnknownColumns("collect", "more"))
    made.upload({"id": 1, "colour": "red", "more": {"a": 1}})
    made.upload({"id": 2, "colour": "blue", "size": 3})
    assert books("select more from t order by id") == [({"a": 1, "colour": "red"},), ({"colour": "blue", "size": 3},)]


@pytest.mark.parametrize("check", [True, False])
def test_a_value_of_its_own_in_the_column_for_unknown_fields(sql: Sql, line: MakeLine, check: bool) -> None:
    """It is kept under the name of the column; an object gets the unknown fields."""
    sql("create table t (id bigint primary key, more jsonb); grant all on t to service_role")
    made = line(check=check, unknown=UnknownColumns("collect", "more"))
    values = ("x", [1], {"a": 2}, None)
    outcome = made.upload(*({"id": n, "colour": "red", "more": more} for n, more in enumerate(values)))
    assert outcome.uploaded == 4
    red = {"colour": "red"}
    assert sql("select more from t order by id") == [
        ({**red, "more": "x"},),
        ({**red, "more": [1]},),
        ({**red, "a": 2},),
        (red,),
    ]


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("mode", [Mode.INSERT, Mode.UPSERT])
def test_a_jsonb_column_can_take_whole_items(sql: Sql, line: MakeLine, mode: Mode, check: bool) -> None:
    """No field is a column. An item without any field is still rejected."""
    sql("create table t (id bigint generated always as identity primary key, more jsonb not null)")
    sql("grant all on t to service_role")
    made = line(mode=mode, check=check, unknown=UnknownColumns("collect", "more"))
    for item in ({"name": "Lamp", "tags": ["a"]}, {"title": "Chair", "seller": {"name": "Shop"}}):
        assert made.upload(item).rejections == ()
        assert made.upload(item).rejections == ()
    with pytest.raises(ItemError, match="no field of the item is a column"):
        made.upload({})
    stored = [({"name": "Lamp", "tags": ["a"]},)] * 2 + [({"title": "Chair", "seller": {"name": "Shop"}},)] * 2
    assert sql("select more from t order by id") == stored


def test_a_column_for_unknown_fields_is_missing(books: Sql, line: MakeLine) -> None:
    """The missing column is found at open, or when it is first needed; no field is lost."""
    unknown = UnknownColumns("collect", "more")
    made = line(check=False, unknown=unknown)
    outcome = made.upload({"id": 1, "colour": "red"})
    assert outcome.fatal is not None
    assert "ALTER TABLE public.t ADD COLUMN more jsonb;" in outcome.fatal.remedy
    assert len(outcome.left) == 1
    made.schema.specs["t"] = TableSpec("t")
    check = SchemaCheck(made.backend, made.schema, {}, policy=OpenPolicy(1, 0.01, made.deadline))
    with pytest.raises(FatalError, match="SUPABASE_UNKNOWN_COLUMNS must be drop, reject or a jsonb column"):
        check.check(TableSpec("t"))


@pytest.mark.parametrize("kind", ["jsonb", "json"])
def test_json_as_text_is_stored_as_it_is_and_warned_of(
    sql: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The warning comes once per column, with the first such text; not for other texts or a text column."""
    sql(f"create table t (id bigint primary key, a {kind}, b {kind}, c text); grant all on t to service_role")
    made = line()
    harmless = [{"a": 1}, None, "a text", "[sic]", "{", '"a"', "5"]
    texts = ['{"a": 1}', " [1, 2]", "[]"]
    values = [*harmless, *texts]
    assert made.upload(*({"id": n, "a": value, "c": value} for n, value in enumerate(values))).rejections == ()
    (said,) = (r.getMessage() for r in caplog.records if "a text that contains JSON" in r.getMessage())
    assert said.startswith("Table t: JSON column 'a' gets a text that contains JSON. It is stored as a JSON string")
    made.upload(*({"id": 20 + n, "b": value} for n, value in enumerate(texts)))
    assert len([r for r in caplog.records if "column 'b' gets a text that contains JSON" in r.getMessage()]) == 1
    assert sql("select a from t where id < 20 order by id") == [(value,) for value in values]
    assert sql("select b from t where id >= 20 order by id") == [(value,) for value in texts]


def test_a_generated_column_is_not_sent(books: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture) -> None:
    """428C9: the database generates the value."""
    outcome = line().upload({"id": 1, "name": "abc", "doubled": 0})
    assert outcome.uploaded == 1
    assert books("select doubled from t") == [(6,)]
    assert "Table t generates column 'doubled' itself" in caplog.text


@pytest.mark.parametrize("mode", [Mode.UPSERT, Mode.INSERT, Mode.IGNORE])
def test_a_primary_key_that_the_database_makes(
    sql: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture, mode: Mode
) -> None:
    """`generated always as identity`: items cannot have the key, so rows are inserted, with a warning for upserts."""
    sql(
        "create table t (id bigint generated always as identity primary key, name text); grant all on t to service_role"
    )
    made = line(mode=mode)
    assert made.upload({"name": "a"}, {"name": "b"}).uploaded == 2
    assert made.upload({"name": "a"}).uploaded == 1
    assert sql("select id, name from t order by id") == [(1, "a"), (2, "b"), (3, "a")]
    assert ("set SUPABASE_ON_CONFLICT to columns" in caplog.text) == (mode is not Mode.INSERT)


def test_a_column_dropped_in_mid_crawl(books: Sql, line: MakeLine) -> None:
    """The rows are stored without a column that was dropped after the open."""
    made = line()
    made.upload({"id": 1, "isbn": "a"})
    books("alter table t drop column isbn")
    assert made.upload({"id": 2, "isbn": "b"}).uploaded == 1


# Upsert refused


def test_no_unique_index_falls_back_to_insert(sql: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture) -> None:
    """42P10: found at open, plain inserts, one warning with the SQL."""
    sql("create table t (id bigint, name text); grant all on t to service_role")
    made = line(on_conflict=("id",))
    assert made.upload(*items(1, 2)).uploaded == 2
    assert made.upload(*items(3)).uploaded == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len([w for w in warnings if "CREATE UNIQUE INDEX ON public.t (id);" in w]) == 1


def test_an_index_dropped_in_mid_crawl_falls_back_too(books: Sql, line: MakeLine) -> None:
    """42P10 to a chunk: counted as a fallback, and the next chunk is an insert at once."""
    made = line(on_conflict=("isbn",))
    assert made.upload({"id": 1, "isbn": "a"}).uploaded == 1
    books("alter table t drop constraint t_isbn_key")
    outcome = made.upload({"id": 2, "isbn": "a"})
    assert (outcome.uploaded, outcome.effort.fallbacks) == (1, 1)
    assert made.upload({"id": 3, "isbn": "a"}).effort.requests == 1


def test_without_the_fallback_it_is_fatal(sql: Sql, line: MakeLine) -> None:
    """`SUPABASE_INSERT_FALLBACK = False`."""
    sql("create table t (id bigint, name text); grant all on t to service_role")
    with pytest.raises(FatalError, match="CREATE UNIQUE INDEX") as raised:
        line(on_conflict=("id",), fallback=False)
    assert raised.value.reason == "supabase_no_unique_index"


def test_an_insert_grant_alone_falls_back(
    sql: Sql, line: MakeLine, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """The upsert gets 42501; the insert works."""
    sql("create table t (id bigint primary key, name text); grant insert on t to anon")
    made = line(key=project.anon_key)
    assert made.upload(*items(1)).uploaded == 1
    assert "run: GRANT select, insert, update ON public.t TO service_role;" in caplog.text
    assert "TO anon" not in caplog.text


def test_an_insert_policy_alone_falls_back(
    sql: Sql, line: MakeLine, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Row-level security allows inserts only: the first chunk finds that out, once."""
    sql("""create table t (id bigint primary key, name text); grant insert, select, update on t to anon;
        alter table t enable row level security; create policy ins on t for insert to anon with check (true)""")
    made = line(key=project.anon_key)
    assert made.upload(*items(1, 2)).effort.fallbacks == 1
    assert made.upload(*items(3)).effort.requests == 1
    assert sql("select count(*) from t") == [(3,)]
    assert "CREATE POLICY scrapy_select ON public.t FOR select TO anon" in caplog.text


def test_a_policy_that_refuses_some_rows_rejects_those(sql: Sql, line: MakeLine, project: Project) -> None:
    """The refusal concerns the rows, not the upsert: no fallback."""
    sql("""create table t (id bigint primary key, name text); grant insert, select, update on t to anon;
        alter table t enable row level security;
        create policy mine on t to anon using (true) with check (name <> 'theirs')""")
    made = line(key=project.anon_key)
    outcome = made.upload(*items(1, 2), {"id": 3, "name": "theirs"}, *items(4))
    assert (outcome.uploaded, [r.code for r in outcome.rejections]) == (3, ["42501"])
    assert made.schema.mode("t") is Mode.UPSERT


# Too large


def test_a_chunk_too_large_is_halved_and_the_size_remembered(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """413 for more than two rows; the next chunk is sent in parts that fit."""

    def at_most_two(exchange: faults.Exchange) -> None:
        too_many = exchange.body.count(b'"id"') > 2
        (faults.answers(413, "<h1>too large</h1>") if too_many else faults.passes)(exchange)

    proxy.always = at_most_two
    made = line(url=proxy.url)
    outcome = made.upload(*items(*range(10, 18)))
    assert (outcome.uploaded, outcome.effort.errors["http_413"]) == (8, 2)
    again = made.upload(*items(*range(20, 28)))
    assert (again.uploaded, again.effort.errors, again.effort.requests) == (8, {}, 4)


def test_one_row_too_large_is_rejected(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """One row cannot be halved."""
    made = line(url=proxy.url)
    proxy.faults.append(faults.answers(413, "<h1>too large</h1>"))
    assert [(r.code, r.message) for r in made.upload(*items(1)).rejections] == [("http_413", "too large")]


def test_a_statement_timeout_halves(sql: Sql, line: MakeLine, project: Project) -> None:
    """A real 57014, by the role's statement_timeout and a trigger that takes 0.4 s per row."""
    sql("""create table t (id bigint primary key, name text); grant insert, select, update on t to anon;
        create or replace function t_slow() returns trigger language plpgsql as
        $$ begin perform pg_sleep(0.4); return new; end $$;
        create trigger slow before insert on t for each row execute function t_slow()""")
    outcome = line(key=project.anon_key, timeout=20).upload(*items(*range(12)))
    assert outcome.uploaded == 12
    assert outcome.effort.errors["57014"] >= 1


def test_a_lock_at_open_is_no_matter_of_size(books: Sql, line: MakeLine, project: Project) -> None:
    """57014 for a request without rows: the crawl does not start, and the message names what to check."""
    books("grant all on t to anon")
    with psycopg.connect(project.db_url) as other:
        other.execute("lock table t in access exclusive mode")
        with pytest.raises(FatalError) as raised:
            line(key=project.anon_key, attempts=1, timeout=20)
    assert (raised.value.reason, raised.value.code) == ("supabase_unavailable", "57014")
    assert "may hold a lock on the table" in str(raised.value)


# Fatal


def test_an_unknown_table_is_fatal_at_open(sql: Sql, line: MakeLine) -> None:
    """After one wait for the schema cache."""
    with pytest.raises(FatalError, match=r"Could not find the table 'public\.t_nope'") as raised:
        line("t_nope")
    assert raised.value.reason == "supabase_no_table"


def test_a_table_made_during_the_wait_is_found(sql: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """The first answer is PGRST205, the second finds the table."""
    sql(BOOKS)
    missing = {"code": "PGRST205", "message": "Could not find the table 'public.t' in the schema cache"}
    proxy.faults.extend([faults.passes, faults.answers(404, missing)])
    assert line(url=proxy.url).upload(*items(1)).uploaded == 1


def test_a_missing_grant_is_fatal_and_prints_it(sql: Sql, line: MakeLine) -> None:
    """A first-time user on hosted Supabase meets this."""
    sql("create table t (id bigint primary key)")
    with pytest.raises(FatalError) as raised:
        line()
    assert raised.value.reason == "supabase_permission_denied"
    assert "GRANT select, insert, update ON public.t TO service_role;" in str(raised.value)


def test_a_grant_revoked_in_mid_crawl_keeps_the_rows(books: Sql, line: MakeLine) -> None:
    """The error is fatal: every row of the chunk is left."""
    made = line()
    books("revoke all on t from service_role")
    outcome = made.upload(*items(1, 2))
    assert outcome.fatal is not None
    assert "GRANT select, insert, update" in str(outcome.fatal)
    assert len(outcome.left) == 2


def test_a_policy_that_lets_no_row_in_is_fatal(sql: Sql, line: MakeLine, project: Project) -> None:
    """Row-level security without a policy concerns all rows: they are kept, not rejected."""
    sql("""create table t (id bigint primary key, name text); grant insert, select, update on t to anon;
        alter table t enable row level security""")
    outcome = line(key=project.anon_key).upload(*items(1, 2, 3))
    assert outcome.fatal is not None
    assert outcome.fatal.reason == "supabase_permission_denied"
    assert "CREATE POLICY scrapy_insert ON public.t FOR insert TO anon WITH CHECK (true);" in str(outcome.fatal)
    assert (outcome.rejections, len(outcome.left)) == ((), 3)


@pytest.mark.rest_only
@pytest.mark.parametrize("status", [200, 201])
def test_a_page_is_no_yes(books: Sql, line: MakeLine, proxy: FaultProxy, status: int) -> None:
    """No row counts as uploaded when a captive portal or parked domain answers, at open or during the crawl."""
    made = line(url=proxy.url)
    proxy.always = faults.answers(status, "<html>Welcome to our network</html>")
    outcome = made.upload(*items(1, 2))
    assert (outcome.uploaded, len(outcome.left), outcome.rejections) == (0, 2, ())
    assert outcome.fatal is not None
    assert outcome.fatal.reason == "supabase_not_found"
    with pytest.raises(FatalError, match="the server is no Supabase project"):
        line(url=proxy.url)


@pytest.mark.rest_only
def test_a_key_that_is_repeated_to_us_is_in_no_message(
    books: Sql, line: MakeLine, proxy: FaultProxy, project: Project
) -> None:
    """A proxy or a server may repeat the headers it received."""
    made = line(url=proxy.url)
    proxy.always = faults.answers(401, {"message": f"invalid: Bearer {project.key}"})
    outcome = made.upload(*items(1))
    assert project.key not in str(outcome.fatal)
    assert "invalid: Bearer (the key)" in str(outcome.fatal)
    proxy.always = faults.answers(302, "", Location=f"https://me:{project.key}@elsewhere.example/x?{project.key}")
    outcome = made.upload(*items(1))
    assert "redirects to https://elsewhere.example/x." in str(outcome.fatal)


@pytest.mark.rest_only
def test_a_wrong_key_is_fatal(sql: Sql, line: MakeLine, project: Project) -> None:
    """The message says what to check and does not show the key."""
    sql(BOOKS)
    head, payload, signature = project.key.split(".")
    wrong = f"{head}.{payload}.{signature[::-1]}"
    with pytest.raises(FatalError, match="Check SUPABASE_URL and SUPABASE_KEY") as raised:
        line(key=wrong)
    assert raised.value.reason == "supabase_unauthorized"
    assert wrong not in str(raised.value)


def test_an_unknown_conflict_column_is_fatal_at_open(books: Sql, line: MakeLine) -> None:
    """The message lists the table's columns."""
    with pytest.raises(FatalError, match=r"SUPABASE_ON_CONFLICT must name columns of t\. It has: id, name"):
        line(on_conflict=("nope",))


def test_a_trigger_with_a_fault_of_its_own_is_about_the_row(books: Sql, line: MakeLine) -> None:
    """A 42703 about a column that was not sent must not drop columns endlessly; other rows are stored."""
    books("""create or replace function t_broken() returns trigger language plpgsql as $$ begin
        execute 'select nope from t'; return new; end $$;
        create trigger broken before insert on t for each row execute function t_broken()""")
    outcome = line().upload(*items(1))
    assert ([r.code for r in outcome.rejections], outcome.fatal) == (["42703"], None)


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (540, "<h1>Project paused</h1>", "supabase_paused"),
        (402, {"message": "quota"}, "supabase_payment_required"),
        (405, {"code": "25006", "message": "cannot execute INSERT in a read-only transaction"}, "supabase_read_only"),
        (503, {"code": "53100", "message": "could not extend file: No space left on device"}, "supabase_disk_full"),
        (404, "<h1>Not found</h1>", "supabase_not_found"),
        (404, {"code": "PGRST125", "message": "Invalid path specified in request URL"}, "supabase_not_found"),
        (301, "<h1>Moved</h1>", "supabase_not_found"),
    ],
)
def test_fatal_answers_keep_the_rows(
    books: Sql, line: MakeLine, proxy: FaultProxy, status: int, body: object, reason: str
) -> None:
    """A paused project and similar answers stop the crawl, keep every row and have a remedy."""
    made = line(url=proxy.url)
    proxy.faults.extend([faults.answers(status, body, Location="https://example.com/")] * 2)
    outcome = made.upload(*items(1, 2))
    assert outcome.fatal is not None
    assert (outcome.fatal.reason, len(outcome.left)) == (reason, 2)
    assert outcome.fatal.remedy


# Transient


@pytest.mark.parametrize(
    "fault",
    [
        faults.resets_before,
        faults.answers(429, {"message": "slow down"}),
        faults.answers(500, "<h1>oops</h1>"),
        faults.answers(502, "<h1>Bad gateway</h1>"),
        faults.answers(503, {"code": "PGRST002", "message": "Could not query the database for the schema cache."}),
        faults.answers(503, {"code": "57P01", "message": "terminating connection due to administrator command"}),
        faults.answers(504, {"code": None, "message": "timeout"}),
        faults.answers(520, "<h1>origin error</h1>"),
        faults.answers(500, {"code": "40P01", "message": "deadlock detected"}),
        faults.truncates,
        faults.resets_after,
        faults.answers(504, {"code": 504, "message": "gateway timeout"}, stored=True),
    ],
)
def test_transient_failures_are_tried_again(
    books: Sql, line: MakeLine, proxy: FaultProxy, fault: faults.Fault, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows are stored exactly once; the log has try, reason and wait at DEBUG."""
    caplog.set_level("DEBUG", "scrapy_supabase")
    made = line(url=proxy.url)
    proxy.faults.append(fault)
    outcome = made.upload(*items(1))
    assert (outcome.uploaded, outcome.effort.retries, outcome.effort.requests) == (1, 1, 2)
    assert books("select count(*) from t") == [(1,)]
    assert "(1 row for t): try 1 of 3 failed: " in caplog.text
    assert "Next try in " in caplog.text


@pytest.mark.rest_only
def test_a_server_that_refuses_connections(books: Sql, line: MakeLine, project: Project) -> None:
    """Nothing was sent: not ambiguous; after the last try the rows are left."""
    with FaultProxy(project.url) as proxy:
        made = line(url=proxy.url)
    outcome = made.upload(*items(1))
    assert (outcome.uploaded, len(outcome.left), outcome.effort.requests) == (0, 1, 3)
    # The first try found the kept-alive connection closed; the others found nobody listening.
    assert outcome.effort.errors["ConnectionRefusedError"] == 2
    assert outcome.effort.ambiguous_retries == 0


def test_a_server_that_never_answers(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """The timeout ends the wait."""
    made = line(url=proxy.url, timeout=0.2)
    proxy.faults.append(faults.hangs)
    assert made.upload(*items(1)).uploaded == 1


def test_a_gateway_timeout_halves_a_chunk(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """504 to many rows: fewer at once may work, the same would take as long again."""
    made = line(url=proxy.url)
    proxy.faults.append(faults.answers(504, "<h1>Gateway time-out</h1>"))
    outcome = made.upload(*items(1, 2, 3, 4))
    assert (outcome.uploaded, outcome.effort.splits, outcome.effort.requests) == (4, 1, 3)


def test_retry_after_is_waited_for(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """Never earlier than the server asked for."""
    made = line(url=proxy.url)
    proxy.faults.append(faults.answers(429, {"message": "slow down"}, Retry_After="1"))
    started = time.monotonic()
    assert made.upload(*items(1)).uploaded == 1
    assert time.monotonic() - started >= 1.0


def test_a_retry_after_of_an_hour_is_not_waited_for(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """The rows are safe in the spool; a thread is worth more."""
    made = line(url=proxy.url)
    proxy.faults.append(faults.answers(503, "<h1>maintenance</h1>", Retry_After="3600"))
    outcome = made.upload(*items(1))
    assert (len(outcome.left), outcome.effort.requests) == (1, 1)


def test_internal_errors_are_tried_twice_at_most(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """XX000 is a fault of the server's own."""
    made = line(url=proxy.url, attempts=5)
    proxy.always = faults.answers(500, {"code": "XX000", "message": "internal error"})
    outcome = made.upload(*items(1))
    assert (len(outcome.left), outcome.effort.requests) == (1, 3)  # the third is without rows


def test_the_wait_ends_when_the_crawl_does(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """A wait that would outlast the close is given up, also one that has begun."""
    made = line(url=proxy.url, delay=30)
    proxy.always = faults.answers(503, "<h1>down</h1>")
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(made.upload(*items(1))))
    thread.start()
    made.deadline.limit(0.2)
    thread.join(5)
    assert [len(outcome.left) for outcome in outcomes] == [1]


def test_an_unknown_outcome_is_counted_where_there_is_no_key(
    sql: Sql, line: MakeLine, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The server stores the row and sends no answer: the row is there twice, and one warning has the remedy."""
    sql("create table t (name text); grant all on t to service_role")
    made = line(url=proxy.url, mode=Mode.INSERT)
    proxy.faults.extend([faults.resets_after, faults.passes, faults.resets_after])
    counts = [made.upload({"name": "a"}).effort.ambiguous_retries for _ in range(2)]
    assert counts == [1, 1]
    assert sql("select count(*) from t") == [(4,)]
    assert caplog.text.count("set SUPABASE_ON_CONFLICT to columns that identify a row") == 1


def test_an_unknown_outcome_is_harmless_where_there_is_a_key(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """The upsert is idempotent: not counted."""
    made = line(url=proxy.url)
    proxy.faults.append(faults.resets_after)
    assert made.upload(*items(1)).effort.ambiguous_retries == 0


def test_a_transient_failure_never_falls_back(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """The first try may have been stored: the mode stays."""
    made = line(url=proxy.url)
    proxy.always = faults.resets_after
    outcome = made.upload(*items(1))
    assert (len(outcome.left), outcome.effort.fallbacks, made.schema.mode("t")) == (1, 0, Mode.UPSERT)


@pytest.mark.rest_only
def test_a_project_that_is_down_is_fatal_at_open(sql: Sql, line: MakeLine, project: Project) -> None:
    """After the tries, with the settings to look at."""
    with FaultProxy(project.url) as proxy:
        url = proxy.url
    with pytest.raises(
        FatalError, match="Check that the project is running, and check SUPABASE_URL or SUPABASE_DB_URL"
    ) as raised:
        line(url=url)
    assert raised.value.reason == "supabase_unavailable"


def test_six_writers_in_random_order(sql: Sql, line: MakeLine) -> None:
    """800 keys by six crawls at once: sorted chunks cannot deadlock, and every chunk is stored."""
    import random

    from scrapy_supabase.rows.chunks import Chunker
    from scrapy_supabase.spool.no_spool import NoSpool

    sql("create table t (id bigint primary key, writer int); grant all on t to service_role")
    errors: list[Any] = []
    uploaded: list[int] = []

    def crawl(writer: int) -> None:
        made = line(timeout=30)
        ids = list(range(800))
        random.Random(writer).shuffle(ids)
        chunker = Chunker(
            max_rows=100,
            max_bytes=10**6,
            max_age=0,
            mode=made.schema.mode,
            references=made.schema.references,
            open_file=NoSpool().open,
        )
        for row in made.rows([{"id": n, "writer": writer} for n in ids]):
            for chunk in chunker.add(row):
                outcome = made.uploader.upload(chunk)
                uploaded.append(outcome.uploaded)
                errors.extend(outcome.effort.errors)

    threads = [threading.Thread(target=crawl, args=(writer,)) for writer in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(uploaded) == 4800
