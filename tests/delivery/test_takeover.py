"""A run that is alive takes over the rows of runs that die, and replaces no newer row."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from scrapy_supabase.delivery.executor import Executor
from scrapy_supabase.delivery.takeover import Takeover
from scrapy_supabase.models import Mode, Row
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.crawl_observer import CrawlObserver
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.server import project_host
from scrapy_supabase.spool.disk import DiskSpool
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
        counts = done.counts("uploaded", "recovered", "recovered_spooled", "recovered_outdated")
        assert counts == (2, 3, 0, 2), done.log
        assert "Rows of earlier runs: 3 uploaded, 0 rejected, 0 superseded by a newer row of the same key, 2 left" in (
            done.log
        )
        assert done.log.count("WARNING: Not uploaded: 1 row for table t in") == 1
        left = [json.loads(line) for path in done.spooled for line in path.read_text().splitlines()[1:]]
        assert left == [{"id": 1, "n": 1}, {"id": 4, "n": 1}]
    else:
        assert found == [(number, 1) for number in range(1, 6)]
        assert done.counts("uploaded", "recovered", "recovered_spooled") == (2, 5, 0), done.log
        assert done.spooled == []


class Now:
    """An executor whose jobs end at once."""

    def run(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Run a job."""
        then(job())


def test_chunks_that_stay_as_a_whole_are_counted(tmp_path: Path) -> None:
    """Once, though the folder is there at each look."""
    schema = Schema({"t": TableSpec("t", Mode.UPDATE, ("id",))})

    def spool(run: str) -> DiskSpool:
        made = DiskSpool(tmp_path, run, schema, {"run": run, "project": "p"})
        for number in range(2):
            made.open(Row("t", ("id",), str(number), b"")).append(b'{"id":%d}' % number)
        return made

    alive, dead, counters, now = spool("b"), spool("a"), Counters(), [0.0]
    takeover = Takeover(alive, cast(Executor, Now()), cast(CrawlObserver, counters), lambda: now[0])
    for count in (0, 2, 2):
        assert takeover.tick() == ()
        assert counters.tables["t"]["recovered_outdated"] == count
        now[0] += 60
        if not count:
            dead.close()
    alive.close()
