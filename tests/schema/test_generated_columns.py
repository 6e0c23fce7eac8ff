"""Generated and identity columns are not sent; a generated column may be the key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Mode
from scrapy_supabase.schema.schema import UnknownColumns
from tests.fault_proxy import Fault, FaultProxy, answers, passes
from tests.fix_project import MakeLine
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]

pytestmark = pytest.mark.parametrize("line", ["rest", "database"], indirect=True)

GENERATED = "Table t generates column {!r} itself: the items' values for it are not sent."


@pytest.fixture
def pages(sql: Sql) -> Sql:
    """Create table `t`, whose unique column is generated."""
    sql(
        "create table t (url text not null, title text, url_hash text generated always as (md5(url)) stored unique); "
        "grant all on t to service_role; notify pgrst, 'reload schema'"
    )
    return sql


@pytest.mark.parametrize("check", [True, False])
def test_a_generated_column_as_key(pages: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture, check: bool) -> None:
    """Rows are stored once, and a second crawl updates them."""
    for title in ("old", "new"):
        made = line(on_conflict=("url_hash",), check=check, fields={"t": ["url", "title"]})
        outcome = made.upload({"url": "u1", "title": title}, {"url": "u2", "title": title})
        assert (outcome.uploaded, outcome.rejections) == (2, ())
    assert pages("select url, title from t order by url") == [("u1", "new"), ("u2", "new")]
    assert caplog.messages == [] or not check


def test_versions_of_a_generated_key_in_one_chunk(pages: Sql, line: MakeLine) -> None:
    """The server refuses both (21000); they are sent one after the other, and the later one wins."""
    made = line(on_conflict=("url_hash",))
    outcome = made.upload({"url": "u1", "title": "old"}, {"url": "u2", "title": "x"}, {"url": "u1", "title": "new"})
    assert (outcome.uploaded, outcome.rejections) == (3, ())
    assert pages("select title from t order by url") == [("new",), ("x",)]


@pytest.mark.parametrize("check", [True, False])
def test_a_generated_key_that_the_items_have_is_not_sent(
    pages: Sql, line: MakeLine, caplog: pytest.LogCaptureFixture, check: bool
) -> None:
    """One warning; the key is the one that the database generates."""
    made = line(on_conflict=("url_hash",), check=check, fields={"t": ["url", "title", "url_hash"]})
    for title in ("old", "new"):
        assert made.upload({"url": "u1", "title": title, "url_hash": "mine"}).uploaded == 1
    assert pages("select title, url_hash = md5(url) from t") == [("new", True)]
    assert caplog.messages == [GENERATED.format("url_hash")]


@pytest.mark.parametrize("policy", [UnknownColumns(), UnknownColumns("reject"), UnknownColumns("collect", "more")])
@pytest.mark.parametrize("fields", [{}, {"t": ["id", "url"]}])
@pytest.mark.parametrize("check", [True, False])
def test_an_identity_column_that_was_scraped(
    sql: Sql,
    line: MakeLine,
    caplog: pytest.LogCaptureFixture,
    policy: UnknownColumns,
    fields: dict[str, list[str]],
    check: bool,
) -> None:
    """It is not sent, the row is stored, and no message proposes to add the column."""
    sql(
        "create table t (id bigint generated always as identity primary key, url text, more jsonb); grant all on t to "
        "service_role; notify pgrst, 'reload schema'"
    )
    made = line(unknown=policy, fields=fields, check=check)
    for _ in range(2):
        outcome = made.upload({"id": 900_123, "url": "u1"}, {"id": 900_124, "url": "u2"})
        assert (outcome.uploaded, outcome.rejections) == (2, ())
    assert sql("select id, url, more from t order by id") == [
        (1, "u1", None), (2, "u2", None), (3, "u1", None), (4, "u2", None)
    ]  # fmt: skip
    assert caplog.messages.count(GENERATED.format("id")) == 1
    assert "ADD COLUMN" not in caplog.text


def test_an_identity_column_as_key_is_an_error(sql: Sql, line: MakeLine) -> None:
    """Each row would get a new key."""
    sql(
        "create table t (id bigint generated always as identity primary key, url text); grant all on t to service_role;"
        " notify pgrst, 'reload schema'"
    )
    with pytest.raises(FatalError, match=r"a new value for each row.* that are generated from them"):
        line(on_conflict=("id",))
    assert line(on_conflict=("id",), mode=Mode.INSERT).upload({"url": "u"}).uploaded == 1


def test_without_the_details_of_an_answer(
    sql: Sql, line: MakeLine, proxy: FaultProxy, request: pytest.FixtureRequest
) -> None:
    """PostgREST 16 may omit them: identity columns are recognized by type, and a generated key works."""
    if request.node.callspec.params["line"] != "rest":
        pytest.skip("only PostgREST leaves out details")
    sql(
        "create table t (id bigint generated always as identity primary key, url text, url_hash text generated always "
        "as (md5(url)) stored unique); grant all on t to service_role; notify pgrst, 'reload schema'"
    )
    backend = line(check=False).backend
    assert eventually(lambda: "url_hash" in (backend.describe() or {})["t"].columns)

    def minimal(column: str) -> Fault:
        message = f'cannot insert a non-DEFAULT value into column "{column}"'
        return answers(400, {"code": "428C9", "message": message})

    proxy.faults.extend([passes, minimal("id")])
    with pytest.raises(FatalError, match="a new value for each row"):
        line(url=proxy.url, on_conflict=("id",))
    proxy.faults.extend([passes, minimal("url_hash")])
    made = line(url=proxy.url, on_conflict=("url_hash",))
    assert made.upload({"url": "u"}).uploaded == made.upload({"url": "u"}).uploaded == 1
    assert sql("select count(*) from t") == [(1,)]
