"""Tables with hundreds of columns with long names: `columns=` is left out where the URL would be too long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from scrapy_supabase.models import Mode
from tests.fault_proxy import Exchange, FaultProxy, answers, passes
from tests.fix_project import MakeLine

Sql = Callable[..., list[tuple[Any, ...]]]

NAMES = [f"Technical attribute {n}" for n in range(1, 321)]
MOST = 8000  # bytes of a request line: what nginx takes, of 8 KiB


def nginx(exchange: Exchange) -> None:
    """What a server in front of the API does with a long request line."""
    too_long = len(exchange.handler.requestline) > MOST
    (answers(414, "<h1>Request-URI Too Large</h1>") if too_long else passes)(exchange)


@pytest.fixture
def wide(sql: Sql, proxy: FaultProxy) -> Sql:
    """A table `t` of 323 columns, behind a server that refuses long request lines."""
    columns = ", ".join(f'"{name}" text' for name in NAMES)
    sql(
        "create table t (id bigint primary key, n int default 7, made int generated always as (n * 2) stored, "
        f"{columns}); grant all on t to service_role; notify pgrst, 'reload schema'"
    )
    proxy.always = nginx
    return sql


def items(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    """Items with a value in each column."""
    return [{"id": number, **dict.fromkeys(NAMES, "v"), **more} for number in numbers]


@pytest.mark.parametrize("mode", [Mode.UPSERT, Mode.INSERT, Mode.IGNORE])
def test_rows_are_stored(wide: Sql, line: MakeLine, proxy: FaultProxy, mode: Mode) -> None:
    """In every mode; what is not sent has its default."""
    made = line(url=proxy.url, mode=mode)
    outcome = made.upload(*items(*range(20)))
    assert (outcome.uploaded, outcome.effort.requests) == (20, 1)
    assert wide(f"select count(*), min(n) from t where \"{NAMES[-1]}\" = 'v'") == [(20, 7)]
    assert all(len(path) < MOST for _, path, _ in proxy.seen)


def test_a_field_that_is_not_stored_stays_out(wide: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """The bytes of a row have all of its fields; without `columns=` the server would look at each of them."""
    made = line(url=proxy.url)
    outcome = made.upload(*items(1, 2, colour="red", made=5))
    assert (outcome.uploaded, outcome.rejections) == (2, ())
    assert wide("select made from t") == [(14,), (14,)]


def test_a_column_that_is_dropped_in_mid_crawl(wide: Sql, line: MakeLine, proxy: FaultProxy) -> None:
    """It is left out of rows that are encoded already."""
    made = line(url=proxy.url)
    wide(f"alter table t drop column \"{NAMES[0]}\"; notify pgrst, 'reload schema'")
    chunk = made.chunk(items(1, 2))
    outcome = made.uploader.upload(chunk)
    assert (outcome.uploaded, outcome.rejections) == (2, ())
    assert wide(f"select count(*) from t where \"{NAMES[-1]}\" = 'v'") == [(2,)]


def test_the_check_at_open_looks_at_all_columns(
    wide: Sql, line: MakeLine, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A request without rows has no other place for names: it is sent in parts."""
    wide(f"alter table t drop column \"{NAMES[-1]}\"; notify pgrst, 'reload schema'")
    proxy.faults.append(answers(403, {"message": "the schema is not for this key"}))  # so that only the probe can tell
    line(url=proxy.url, fields={"t": ["id", *NAMES]})
    assert f"Table t has no column '{NAMES[-1]}'" in caplog.text
    assert all(len(path) < MOST for _, path, _ in proxy.seen)
