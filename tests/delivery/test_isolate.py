"""The search for bad rows: by the server's message, or else by halving. Each test runs over both backends."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from scrapy_supabase.delivery.isolate import find_suspects
from scrapy_supabase.errors import ServerError
from scrapy_supabase.models import Mode, Row
from tests import fault_proxy as faults
from tests.backends.test_contract import books, pytest_generate_tests
from tests.fault_proxy import FaultProxy
from tests.fix_project import MakeLine

__all__ = ["books", "pytest_generate_tests"]

Sql = Callable[..., list[tuple[Any, ...]]]

GOOD: dict[str, Any] = {"name": "x", "price": 5, "isbn": None, "day": "2026-01-01", "author": 1}
TOLD: dict[str, dict[str, Any]] = {
    "22P02": {"price": "abc"},
    "22003": {"author": 2**63},
    "22008": {"day": "2026-02-30"},
    "22007": {"day": "someday"},
    "23502": {"name": None},
    "23505": {"isbn": "taken"},
    "23514": {"price": -1},
}


@pytest.mark.parametrize("code", TOLD)
def test_a_row_that_the_answer_names_costs_two_requests(books: Sql, line: MakeLine, code: str) -> None:
    """One that fails, one for the others, and at most one more for the row alone."""
    books("insert into t (id, isbn) values (0, 'taken')")
    rows = [{"id": n, **GOOD, **(TOLD[code] if n == 42 else {})} for n in range(1, 101)]
    outcome = line().upload(*rows)
    assert outcome.uploaded == 99
    assert [(r.code, b'"id":42,' in r.data) for r in outcome.rejections] == [(code, True)]
    assert outcome.effort.requests <= 4  # in all: three more than without a bad row


@pytest.mark.parametrize("alone", [True, False])
def test_a_duplicate_that_another_writer_has_just_stored(sql: Sql, line: MakeLine, alone: bool) -> None:
    """An upsert refused by a second unique index is sent once more: then the key is there, and it updates the row."""
    sql("""create table t (id int primary key, isbn text unique); create sequence t_tries owned by t.id;
        create or replace function t_refuse() returns trigger language plpgsql as $$ begin
        if new.id = 3 and nextval('t_tries') = 1 then raise unique_violation using
        message = 'duplicate key value violates unique constraint "t_isbn_key"',
        detail = 'Key (isbn)=(c) already exists.'; end if; return new; end $$;
        create trigger refuse before insert on t for each row execute function t_refuse();
        grant all on t to service_role; grant usage on sequence t_tries to service_role""")
    rows = [{"id": n, "isbn": "abcde"[n - 1]} for n in ([3] if alone else range(1, 6))]
    outcome = line().upload(*rows)
    assert (outcome.uploaded, outcome.rejections, outcome.left) == (len(rows), (), ())
    assert sql("select isbn from t where id = 3") == [("c",)]


@pytest.mark.parametrize("number", [2, 5, 20])
def test_many_bad_rows_of_all_kinds(books: Sql, line: MakeLine, number: int) -> None:
    """At most three more requests for each."""
    books("insert into t (id, isbn) values (0, 'taken')")
    chosen = random.Random(number)
    bad = {n: chosen.choice(list(TOLD)) for n in chosen.sample(range(1, 101), number)}
    rows = [{"id": n, **GOOD, **(TOLD[bad[n]] if n in bad else {})} for n in range(1, 101)]
    outcome = line().upload(*rows)
    assert outcome.uploaded == 100 - number
    assert sorted(r.code for r in outcome.rejections) == sorted(bad.values())
    assert outcome.effort.requests - 1 <= 3 * number


def test_a_bad_row_that_no_message_identifies_is_found_by_halving(books: Sql, line: MakeLine) -> None:
    """A trigger whose message does not identify the row: at most 15 more requests."""
    books("""create or replace function t_guard() returns trigger language plpgsql as $$ begin
        if new.id = 42 then raise exception 'no' using errcode = 'ZZ001'; end if; return new;
        end $$; create trigger guard before insert on t for each row execute function t_guard()""")
    outcome = line().upload(*({"id": n, **GOOD} for n in range(1, 101)))
    assert (outcome.uploaded, [r.code for r in outcome.rejections]) == (99, ["ZZ001"])
    assert outcome.effort.requests - 1 <= 15


def test_a_message_that_names_the_wrong_row_costs_no_row(books: Sql, line: MakeLine) -> None:
    """A trigger that names other rows than the one that it refuses."""
    books("""create or replace function t_guard() returns trigger language plpgsql as $$ begin
        if new.id = 42 then raise exception 'not while % is there: "%"', 'name-7', 'name-9' using errcode = '22P02';
        end if; return new;
        end $$; create trigger guard before insert on t for each row execute function t_guard()""")
    outcome = line().upload(*({"id": n, **GOOD, "name": f"name-{n}"} for n in range(1, 101)))
    assert outcome.uploaded == 99
    assert [b'"id":42,' in r.data for r in outcome.rejections] == [True]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("price", "", 'In column "price".'), ("day", "soon", 'In column "day".'), ("author", "x", 'In column "author".')],
)
def test_the_rejection_names_the_column(books: Sql, line: MakeLine, field: str, value: str, said: str) -> None:
    """`invalid input syntax for type numeric: ""` does not, and a text may have the same value."""
    outcome = line().upload({"id": 1, **GOOD, "name": value, field: value}, {"id": 2, **GOOD})
    (rejection,) = outcome.rejections
    assert said in (rejection.details or "")


def test_nothing_depends_on_details(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """PostgREST 16 with `client-error-verbosity=minimal` sends neither details nor hint."""

    def minimal(exchange: faults.Exchange) -> None:
        import json

        status, headers, body = exchange.forward()
        if status >= 400:
            body = json.dumps({n: v for n, v in json.loads(body).items() if n in ("code", "message")}).encode()
        exchange.reply(status, headers, body)

    made = line(url=proxy.url)
    books("insert into t (id, isbn) values (0, 'taken')")
    proxy.always = minimal
    for code, wrong in TOLD.items():
        rows = [{"id": n, **GOOD, **(wrong if n == 42 else {})} for n in range(1, 101)]
        outcome = made.upload(*rows)
        assert (outcome.uploaded, [r.code for r in outcome.rejections]) == (99, [code])
        assert outcome.effort.requests - 1 <= 15


def test_a_code_of_a_gateway_for_one_row(books: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """A firewall that answers 403 to one row, and not to requests without it: the other rows are stored."""

    def firewall(exchange: faults.Exchange) -> None:
        (faults.answers(403, "<h1>Blocked</h1>") if b"<script>" in exchange.body else faults.passes)(exchange)

    made = line(url=proxy.url)
    proxy.always = firewall
    outcome = made.upload(*({"id": n, **GOOD, "name": "<script>" if n == 42 else "x"} for n in range(1, 101)))
    assert (outcome.uploaded, len(outcome.left), outcome.fatal) == (99, 1, None)
    assert outcome.transient is not None
    assert outcome.transient.reachable  # no outage
    again = made.uploader.upload(outcome.chunk.subset(outcome.left, tries=2))
    assert [(r.code, r.message) for r in again.rejections] == [("http_403", "Blocked")]


def test_a_lock_on_one_row_is_waited_for(books: Sql, line: MakeLine) -> None:
    """A 55P03 for one row: it is retried in two later uploads before it is rejected."""
    books("""insert into t (id, name) values (42, 'old');
        create or replace function t_guard() returns trigger language plpgsql as $$ begin
        if new.id = 42 then raise exception 'locked' using errcode = '55P03'; end if; return new;
        end $$; create trigger guard before insert on t for each row execute function t_guard()""")
    made = line()
    outcome = made.upload(*({"id": n, **GOOD} for n in range(1, 101)))
    assert (outcome.uploaded, len(outcome.left), outcome.rejections) == (99, 1, ())
    again = made.uploader.upload(outcome.chunk.subset(outcome.left, tries=1))
    assert len(again.left) == 1
    last = made.uploader.upload(outcome.chunk.subset(outcome.left, tries=2))
    assert [r.code for r in last.rejections] == ["55P03"]


def test_a_full_disk_keeps_the_rows(books: Sql, line: MakeLine) -> None:
    """A 53100 for every row, although a request without rows passes, is about all rows."""
    books("""create or replace function t_guard() returns trigger language plpgsql as $$ begin
        raise exception 'could not extend file' using errcode = '53100';
        end $$; create trigger guard before insert on t for each row execute function t_guard()""")
    outcome = line().upload(*({"id": n, **GOOD} for n in range(1, 11)))
    assert (outcome.uploaded, len(outcome.left), outcome.rejections) == (0, 10, ())
    assert outcome.fatal is not None
    assert outcome.fatal.reason == "supabase_disk_full"


@pytest.mark.parametrize("code", ["42501", "42P01", "42703", "42P10", "428C9", "25006"])
def test_an_error_of_a_trigger_about_another_table_is_about_the_row(
    books: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture, code: str
) -> None:
    """No GRANT, missing table, dropped column: no fallback to inserts, and no closed crawl."""
    words = {"42501": "permission denied for table audit", "42P01": 'relation "audit" does not exist'}
    books(f"""create or replace function t_guard() returns trigger language plpgsql as $$ begin
        if new.id = 2 then raise exception '{words.get(code, 'column "name" does not exist')}' using errcode = '{code}';
        end if; return new;
        end $$; create trigger guard before insert on t for each row execute function t_guard()""")
    made = line()
    outcome = made.upload(*({"id": n, **GOOD} for n in range(1, 6)))
    assert (outcome.uploaded, [r.code for r in outcome.rejections], outcome.fatal) == (4, [code], None)
    assert made.schema.mode("t") is Mode.UPSERT
    alone = made.upload({"id": 2, **GOOD})
    assert ([r.code for r in alone.rejections], alone.fatal) == ([code], None)
    assert "GRANT" not in caplog.text
    assert books("select count(*) from t where name = 'x'") == [(4,)]


def test_the_failing_row_of_another_table_names_no_row_of_this_one(books: Sql, line: MakeLine) -> None:
    """A trigger's statement is refused. Its row has a value of another row of the chunk: that one is stored."""
    books("""drop table if exists t_log; create table t_log (n int generated always as identity, word text
            check (word <> 'bad')); grant all on t_log to service_role;
        create or replace function t_guard() returns trigger language plpgsql as $$ begin
        insert into t_log (word) values (case new.id when 12 then 'bad' end); return new;
        end $$; create trigger guard before insert on t for each row execute function t_guard()""")
    outcome = line().upload(*({"id": n, **GOOD, "name": "2" if n == 14 else "x"} for n in range(11, 17)))
    assert outcome.uploaded == 5
    assert [(b'"id":12,' in r.data, r.code) for r in outcome.rejections] == [(True, "23514")]


def test_suspects_of_unusual_messages() -> None:
    """Names and values with quotes, commas and brackets; equal rows."""
    rows = [Row("t", ("a b", "c"), str(n), b'{"a b":"x, (%d)","c":"%s"}' % (n, b"same")) for n in range(5)]
    error = ServerError("duplicate", code="23505", details='Key ("a b")=(x, (3)) already exists.')
    assert find_suspects(error, rows, {}).rows == (rows[3],)
    alike = find_suspects(ServerError('invalid input syntax for type x: "same"', code="22P02"), rows, {})
    assert (alike.rows, alike.sure) == (tuple(rows), False)
    assert find_suspects(ServerError("no", code="P0001"), rows, {}).rows == ()
