"""A server whose schema cache is older than the table: one wait before its answer is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fault_proxy import Fault, FaultProxy, answers, passes
from tests.fix_project import MakeLine

Sql = Callable[..., list[tuple[Any, ...]]]

NO_COLUMN = answers(400, {"code": "PGRST204", "message": "Could not find the 'name' column of 't' in the schema cache"})
OLD_TYPE = answers(400, {"code": "42804", "message": 'column "n" is of type integer but expression is of type text'})


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql("create table t (id bigint primary key, name text, n int); grant all on t to service_role")
    sql("notify pgrst, 'reload schema'")
    return sql


@pytest.mark.parametrize("fault", [NO_COLUMN, OLD_TYPE], ids=["column", "type"])
def test_rows_are_sent_once_more(table: Sql, line: MakeLine, proxy: FaultProxy, fault: Fault) -> None:
    """The cache is up to date by then: no column is dropped, and no row is rejected."""
    made = line(url=proxy.url)
    proxy.faults.append(fault)
    outcome = made.upload({"id": 1, "name": "a", "n": 1})
    assert (outcome.uploaded, outcome.rejections, outcome.effort.requests) == (1, (), 2)
    assert table("select name, n from t") == [("a", 1)]


def test_an_answer_that_stays_is_accepted(table: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """The column is left out from then on, and the next chunk does not wait."""
    made = line(url=proxy.url)
    proxy.faults.extend([NO_COLUMN] * 2)
    assert made.upload({"id": 1, "name": "a"}).effort.requests == 3
    assert made.upload({"id": 2, "name": "b"}).effort.requests == 1
    assert table("select id, name from t order by id") == [(1, None), (2, None)]


def test_the_check_at_open_waits_if_the_document_lacks_a_column(
    table: Sql, line: MakeLine, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A crawl that starts right after a migration."""
    key = {"format": "bigint", "description": "<pk/>"}
    proxy.faults.extend([answers(200, {"definitions": {"t": {"properties": {"id": key}}}}), NO_COLUMN])
    made = line(url=proxy.url, fields={"t": ["id", "name", "n"]})
    assert caplog.messages == []
    made.upload({"id": 1, "name": "a", "n": 2})
    assert table("select name, n from t") == [("a", 2)]


def test_the_check_at_open_waits_without_a_document(
    table: Sql, line: MakeLine, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """The request without rows is sent once more."""
    proxy.faults.extend([answers(403, {"message": "not for this key"}), NO_COLUMN, passes])
    made = line(url=proxy.url, fields={"t": ["id", "name"]})
    assert "no column" not in caplog.text
    made.upload({"id": 1, "name": "a"})
    assert table("select name from t") == [("a",)]


@pytest.mark.parametrize("line", ["rest", "database"], indirect=True)
def test_a_type_that_changes_during_a_crawl(table: Sql, line: MakeLine) -> None:
    """The prepared statements are created anew, too."""
    made = line()
    assert made.upload({"id": 1, "name": "5"}).uploaded == 1
    table("alter table t alter column name type int using name::int; notify pgrst, 'reload schema'")
    outcome = made.upload({"id": 2, "name": "6"})
    assert (outcome.uploaded, outcome.rejections) == (1, ())
    assert table("select name from t order by id") == [(5,), (6,)]


@pytest.mark.parametrize("line", ["database"], indirect=True)
def test_a_column_that_is_created_during_a_crawl(table: Sql, line: MakeLine) -> None:
    """The catalog is read again for a column that it did not have."""
    made = line(check=False)
    assert made.upload({"id": 1}).uploaded == 1
    table("alter table t add column isbn text")
    assert made.upload({"id": 2, "isbn": "i"}).uploaded == 1
    assert table("select isbn from t order by id") == [(None,), ("i",)]
