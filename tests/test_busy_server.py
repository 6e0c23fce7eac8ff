"""A server that is busy when runs start: real crawls at once, a real limit of connections, a gateway that says 429."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from supabase import create_client

from scrapy_supabase import upload_to_supabase
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_crawl import Crawler
from tests.fix_local import Connection
from tests.fix_project import Project
from tests.polling import eventually
from tests.test_messages_commands import Command, command  # noqa: F401 (a fixture)

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = "create table t (id bigint primary key, title text, n int); grant all on t to service_role"
BUSY = faults.answers(429, {"message": "slow down"})
ROWS = 250
_WAITS = "Checking the tables: try 1 failed"


def crawls_at_once(
    number: int, folder: Path, project: Project, sql: Sql, held: Sequence[Connection] = (), **settings: Any
) -> None:
    """Each begins, and every row is stored exactly once. `held` connections end when half of the crawls wait."""
    crawlers = [Crawler(folder / str(n), project) for n in range(number)]
    running = []
    for n, crawler in enumerate(crawlers):
        crawler.folder.mkdir()
        items = [{"id": n * ROWS + row, "n": n} for row in range(ROWS)]
        running.append(crawler.start({"items": items}, **{"SUPABASE_OPEN_TIMEOUT": None, **settings}))
    if held:
        logs = [partial(crawler.log_of, process) for crawler, process in zip(crawlers, running, strict=True)]
        assert eventually(lambda: 2 * sum(_WAITS in log() for log in logs) >= number, 50), logs[0]()
    for connection in held:
        connection.close()
    ends = [crawler.finish(process) for crawler, process in zip(crawlers, running, strict=True)]
    assert [end.stats["finish_reason"] for end in ends] == ["finished"] * number, [end.log for end in ends]
    assert [end.counts("uploaded", "failed", "spooled") for end in ends] == [(ROWS, 0, 0)] * number
    assert sql("select count(*), count(distinct id) from t") == [(number * ROWS, number * ROWS)]
    waited = sum(_WAITS in end.log for end in ends)
    print(f"{number} crawls, {waited} of them waited at their start")
    assert waited


SIZES = [
    pytest.param(6, 2, id="short"),
    pytest.param(16, 4, id="gateway", marks=[pytest.mark.soak, pytest.mark.timeout(300)]),
]


@pytest.mark.parametrize(("number", "most"), SIZES)
def test_behind_a_gateway_with_a_limit(
    number: int, most: int, sql: Sql, proxy: FaultProxy, project: Project, tmp_path: Path
) -> None:
    """429 above `most` requests at once."""
    sql(TABLE)
    proxy.faults.extend([BUSY] * number)
    proxy.always = faults.above(most, 0.05)
    crawls_at_once(number, tmp_path, project, sql, SUPABASE_URL=proxy.url)


@pytest.mark.parametrize(
    ("number", "most"), [pytest.param(4, 2, id="short"), pytest.param(16, 10, id="database", marks=SIZES[1].marks)]
)
def test_with_few_connections(number: int, most: int, sql: Sql, project: Project, tmp_path: Path) -> None:
    """53300 by the role's own limit."""
    sql(f"""{TABLE}; do $$ begin create role t_fleet login password 'few'; exception when duplicate_object
        then null; end $$; alter role t_fleet connection limit {most};
        grant all on t to t_fleet; grant usage on schema public to t_fleet""")
    url = make_conninfo(project.db_url, user="t_fleet", password="few")
    held = [psycopg.connect(url) for _ in range(most)]
    crawls_at_once(number, tmp_path, project, sql, held, SUPABASE_URL=None, SUPABASE_DB_URL=url)


@pytest.mark.parametrize("mode", ["asyncio", "select", "none"])
def test_control_c_ends_the_wait(crawl: Crawler, sql: Sql, proxy: FaultProxy, mode: str) -> None:
    """At once, in each mode of Scrapy, without an item."""
    sql(TABLE)
    proxy.always = faults.answers(429, {"message": "slow down"}, Retry_After="20")
    process = crawl.start(
        {"items": [{"id": 1}]}, mode=mode, SUPABASE_URL=proxy.url, SUPABASE_OPEN_TIMEOUT=60, BATCH_RETRY_ATTEMPTS=1
    )
    assert eventually(lambda: "waiting up to 60 s (SUPABASE_OPEN_TIMEOUT)" in crawl.log_of(process), 60)
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    done = crawl.finish(process, balanced=False)
    assert time.monotonic() - before < 8, done.log
    assert "Uploading to" not in done.log
    assert not done.all_stats or done.stats.get("supabase/received_count", 0) == 0
    assert len(proxy.seen) <= 2


def test_scripts_and_commands_wait(
    sql: Sql,
    proxy: FaultProxy,
    project: Project,
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`upload_to_supabase`, `load` and `check` go on when the server has room; `check` says that it has none."""
    sql(TABLE)
    monkeypatch.setenv("BATCH_RETRY_DELAY", "0.01")
    proxy.faults.extend([BUSY] * 6)
    assert upload_to_supabase(create_client(proxy.url, project.key), [{"id": 1}], "t").uploaded == 1
    assert not proxy.faults
    proxy.faults.extend([BUSY] * 6)
    said = command("load", "-", text=b'{"id": 2}\n', SUPABASE_URL=proxy.url, SUPABASE_OPEN_TIMEOUT=60)
    assert command.code == 0, said
    assert sql("select count(*) from t") == [(2,)]
    proxy.faults.extend([BUSY] * 6)
    said = command("check", SUPABASE_URL=proxy.url, SUPABASE_OPEN_TIMEOUT=60)
    assert not any("slow down" in line and "busy (REST" in line for line in said), said
    proxy.always = BUSY
    said = command("check", SUPABASE_URL=proxy.url, SUPABASE_OPEN_TIMEOUT=0.2)
    assert any("is busy" in line and "Run the check again later" in line for line in said), said
