"""A run that is alive takes over the rows of runs that die, and replaces no newer row."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scrapy_supabase.settings.server import project_host
from tests.fix_crawl import Crawler
from tests.fix_project import Project
from tests.polling import eventually
from tests.test_messages_commands import leave

Sql = Callable[..., list[tuple[Any, ...]]]
Site = Callable[[list[list[dict[str, Any]]]], str]
GRANT = "grant all on t, t_other to service_role"
TABLES = f"create table t (id bigint primary key, n int); create table t_other (id bigint primary key, n int); {GRANT}"


@pytest.mark.parametrize(("over", "table"), [("rest", "t"), ("database", "t"), ("rest", "t_other")])
def test_rows_of_a_run_that_dies_meanwhile(
    crawl: Crawler, sql: Sql, site: Site, project: Project, tmp_path: Path, over: str, table: str
) -> None:
    """If this run has rows of the table, only new keys are stored, and the others stay in the spool."""
    sql(f"{TABLES}; insert into t values (4, 0); notify pgrst, 'reload schema'")
    server: dict[str, Any] = {"SUPABASE_DB_URL": project.db_url, "SUPABASE_URL": None} if over == "database" else {}
    pages = [[{"id": 0, "n": 2}, {"id": 1, "n": 2}], *([] for _ in range(100))]
    process = crawl.start(
        {"pages": 101, "site": site(pages), "takeover_every": 0},
        SUPABASE_TABLE=table,
        BATCH_FLUSH_INTERVAL=0.1,
        DOWNLOAD_DELAY=0.4,
        CONCURRENT_REQUESTS=1,
        **server,
    )
    try:
        assert eventually(lambda: sql(f"select count(*) from {table} where n = 2") == [(2,)], 60), crawl.log_of(process)
        name = project_host("", project.db_url) if over == "database" else project_host(project.url, None)
        leave(tmp_path / "spool", name, *({"id": number, "n": 1} for number in range(1, 6)))
        assert eventually(lambda: sql("select n from t where id = 5") == [(1,)], 60), crawl.log_of(process)
    finally:
        process.send_signal(signal.SIGINT)
        done = crawl.finish(process, balanced=False)
    assert "Another run ended and left 5 chunks" in done.log
    found = sql("select id, n from t where id > 0 order by id")
    if table == "t":
        assert found == [(1, 2), (2, 1), (3, 1), (4, 0), (5, 1)]
        assert done.counts("uploaded", "recovered", "recovered_spooled") == (2, 3, 2), done.log
        assert done.log.count("WARNING: Not uploaded: 1 row for table t in") == 1
        left = [json.loads(line) for path in done.spooled for line in path.read_text().splitlines()[1:]]
        assert left == [{"id": 1, "n": 1}, {"id": 4, "n": 1}]
    else:
        assert found == [(number, 1) for number in range(1, 6)]
        assert done.counts("uploaded", "recovered", "recovered_spooled") == (2, 5, 0), done.log
        assert done.spooled == []
