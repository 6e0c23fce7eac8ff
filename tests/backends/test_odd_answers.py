"""Answers that look like others: errors that come as a success, and a 406 that a gateway has written anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scrapy_supabase.backends.base import Write
from scrapy_supabase.errors import FatalError, TrialStoredError
from scrapy_supabase.models import Mode
from tests.fault_proxy import FaultProxy, answers, passes
from tests.fix_project import MakeLine

Sql = Callable[..., list[tuple[Any, ...]]]

TABLE = "create table t (id bigint primary key, name text); grant all on t to service_role;"
RAISES = """
create or replace function t_raises() returns trigger language plpgsql as
$$ begin if new.name = 'bad' then raise sqlstate '{}' using message = '{}'; end if; return new; end $$;
create trigger raises before insert on t for each row execute function t_raises()
"""
TRIAL = Write("t", ("name",), b'[{"id":1},{"id":2}]', Mode.INSERT)


@pytest.mark.parametrize("code", ["PT200", "PT201", "PT404", "PT422", "PT501"])
def test_an_error_that_is_raised_with_a_status(sql: Sql, line: MakeLine, code: str) -> None:
    """PT200 comes with status 200, and nothing was stored: that row is rejected, the others are stored."""
    sql(TABLE + RAISES.format(code, "no"))
    outcome = line().upload({"id": 1, "name": "a"}, {"id": 2, "name": "bad"}, {"id": 3, "name": "c"})
    assert [r.code for r in outcome.rejections] == [code]
    assert outcome.uploaded == 2
    assert sql("select id from t order by id") == [(1,), (3,)]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("42501", "permission denied for table audit"),
        ("42501", "permission denied for schema private"),
        ("42P01", 'relation "audit" does not exist'),
        ("42703", 'record "new" has no field "isbn"'),
        ("42804", "returned record type does not match expected record type"),
        ("22023", 'role "nobody" is not a recipe'),
    ],
)
@pytest.mark.parametrize("line", ["rest", "database"], indirect=True)
def test_what_a_trigger_meets_elsewhere(sql: Sql, line: MakeLine, code: str, message: str) -> None:
    """About that row: no GRANT, no missing table, no dropped column."""
    sql(TABLE + RAISES.format(code, message))
    outcome = line().upload({"id": 1, "name": "a"}, {"id": 2, "name": "bad"}, {"id": 3, "name": "c"})
    assert outcome.fatal is None
    assert [(r.code, r.message) for r in outcome.rejections] == [(code, message)]
    assert outcome.uploaded == 2


def test_a_dry_run_takes_any_406(sql: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """A gateway may put a page in place of PGRST116."""
    sql(TABLE)
    backend = line(url=proxy.url).backend
    backend.dry_run(Write("t", ("id", "name"), TRIAL.body, Mode.INSERT))
    proxy.faults.append(answers(406, "<h1>Not Acceptable</h1>"))
    backend.dry_run(TRIAL)
    proxy.faults.append(answers(406, {"code": "PGRST106", "message": "Invalid schema: shop"}))
    with pytest.raises(FatalError):
        backend.dry_run(TRIAL)
    proxy.faults.append(answers(201, None))
    with pytest.raises(TrialStoredError):
        backend.dry_run(TRIAL)
    assert proxy.always is passes
    assert sql("select count(*) from t") == [(0,)]


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_page_from_another_server_is_named_as_such(sql: Sql, line: MakeLine, proxy: FaultProxy, status: int) -> None:
    """A web server that does not know POST answers 405 or 501. At open, and during a crawl, the URL is the problem."""
    sql(TABLE)
    made = line(url=proxy.url)
    proxy.always = answers(status, "<html><h1>Not Allowed</h1></html>")
    with pytest.raises(FatalError, match=f"http_{status}: the server is no Supabase project") as raised:
        line(url=proxy.url)
    assert raised.value.reason == "supabase_not_found"
    outcome = made.upload({"id": 1, "name": "a"})
    assert outcome.fatal is not None
    assert outcome.fatal.reason == "supabase_not_found"
    assert len(outcome.left) == 1


def test_a_firewall_that_refuses_one_row_with_a_page(sql: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """The crawl goes on, because the same request without rows passes; that row is tried again later."""
    sql(TABLE)
    page = answers(405, "<html><h1>Blocked</h1></html>")
    proxy.always = lambda exchange: (page if b"<script>" in exchange.body else passes)(exchange)
    made = line(url=proxy.url)
    outcome = made.upload({"id": 1, "name": "a"}, {"id": 2, "name": "<script>"}, {"id": 3, "name": "c"})
    assert (outcome.fatal, outcome.uploaded) == (None, 2)
    assert [b"<script>" in row.data for row in outcome.left] == [True]
