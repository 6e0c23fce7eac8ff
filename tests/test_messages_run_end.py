"""What is said about unseen rows and about the function that is called after a crawl."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from scrapy_supabase.delivery.run_end import EndedRun, check_function, steps_of
from scrapy_supabase.delivery.unseen import check_unseen
from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Parent, Rejection, WriteOptions
from scrapy_supabase.monitoring.crawl_log import CrawlLog
from scrapy_supabase.monitoring.crawl_observer import CrawlObserver
from scrapy_supabase.monitoring.last_run import LastRun
from scrapy_supabase.monitoring.record import Record
from scrapy_supabase.monitoring.stats import lost_pages
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec, Unseen
from scrapy_supabase.settings.monitors import AFTER_CRAWL, MonitorsConfig
from tests import fault_proxy as faults
from tests.checkup.test_check import Look, look
from tests.delivery.test_run_end import FUNCTION, TABLE, config, ended, run_steps, settings
from tests.fault_proxy import FaultProxy
from tests.fix_project import MakeLine, Project
from tests.messages import Said, of_records
from tests.test_messages_check import shown

__all__ = ["config", "ended", "look"]  # fixtures
Sql = Callable[..., list[tuple[Any, ...]]]
Make = Callable[..., EndedRun]
LOST = {
    "spider_exceptions/count": 2,
    "downloader/exception_type_count/builtins.ValueError": 3,
    "httperror/response_ignored_status_count/429": 1,
    "supabase/skipped_count": 4,
    "scheduler/dequeued": 8,
    "scheduler/enqueued/redis": 5,
}
DOWN = faults.answers(503, "<h1>down</h1>")


@pytest.fixture
def rows(sql: Sql, caplog: pytest.LogCaptureFixture) -> Sql:
    """Ten rows, of which the run `new` has not stored one."""
    caplog.set_level(logging.INFO, "scrapy_supabase")
    sql(f"{TABLE}{FUNCTION}; create table t_child (id int references t); notify pgrst, 'reload schema'")
    run = "case n when 0 then 'old' else 'new' end"
    sql(f"insert into t select n, 'x', 'test0', {run}, true from generate_series(0, 9) n")
    return sql


def end(over: EndedRun, caplog: pytest.LogCaptureFixture, *lost: str) -> list[str]:
    """End the run `new`; what is logged from INFO on."""
    over.run.id = "new"
    caplog.clear()
    run_steps(steps_of(over, lost))
    return of_records(caplog, least=logging.INFO)


def unseen(over: EndedRun, **options: Any) -> EndedRun:
    """Replace the option of the table."""
    spec = TableSpec("t", unseen=Unseen("run_id", where={"source": "test0"}, **options))
    (route,) = over.config.tables.routes
    over.config.tables.routes[route] = spec  # type: ignore[index]
    return over


def replaced(over: EndedRun) -> EndedRun:
    """Make the table a child table with the option `replace`."""
    writing = WriteOptions(parent=Parent("t_parent", ("id",), ("id",)))
    spec = TableSpec("t", unseen=Unseen("run_id", parent_column="run_id"), writing=writing)
    over.schema.specs["t_parent"] = TableSpec("t_parent")
    (route,) = over.config.tables.routes
    over.config.tables.routes[route] = spec  # type: ignore[index]
    return over


def test_unseen_rows(said: Said, ended: Make, rows: Sql, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Marked, deleted, or not: the counts and the reasons."""
    over = ended(project.url)
    said("Rows that are marked", end(over, caplog))
    over = ended(project.url, uploaded=0, reason="shutdown")
    over.counters.refused(Rejection("t", b"{}", "x", "y"))
    over.schema.unstamped.add("t")
    said("A crawl that is not complete", end(over, caplog, "2 pages not fetched (retry/max_reached)"))
    over = ended(project.url)
    over.schema.fall_back("t")
    observer = CrawlObserver(
        over.counters, Record("", "", over.run.started, "", {}, over.counters), lambda _: None, is_crawl=False
    )
    observer.on_item_error()
    logging.getLogger("scrapy.core.engine").error("Error while reading start items and requests: no more jobs")
    lost = [*lost_pages(LOST), *observer.lost]
    said("A crawl that has lost pages and items, with Scrapy's stats", end(over, caplog, *lost))
    rows("update t set active = true, gone_at = null; update t set run_id = 'old' where id < 5")
    said("Too many unseen rows", end(ended(project.url), caplog))
    rows("insert into t_child values (0)")
    family = replaced(ended(project.url))
    rows(
        "create table t_parent (id int primary key, run_id text); grant select on t_parent to service_role; "
        "insert into t_parent select id, 'new' from t; notify pgrst, 'reload schema'"
    )
    family.schema.families.unlisted["t"] = 2
    said("Items that do not tell which children they have", end(family, caplog))
    family.schema.families.unlisted.clear()
    said("Children that others refer to are not replaced", end(family, caplog))
    over = unseen(ended(project.url), at_most=1.0)
    said("Rows that others refer to are not deleted", end(over, caplog))
    rows("delete from t_child")
    said("Rows that are deleted", end(over, caplog))


def test_failures_at_the_end(
    said: Said, ended: Make, rows: Sql, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """No answer, a busy server, a statement that takes too long, a function that raises."""
    proxy.always = DOWN
    said("The server is down at the end of a crawl", end(ended(proxy.url), caplog))
    proxy.always = faults.passes
    canceled = faults.answers(500, {"code": "57014", "message": "canceling statement"})
    proxy.faults.extend([faults.passes, faults.passes, canceled])
    rows("create or replace function t_after(run_id text, reason text, counts json) returns void language plpgsql as "
         "$$ begin raise exception 'no job'; end $$")  # fmt: skip
    said("A statement that takes too long, and a function that raises", end(ended(proxy.url), caplog))
    proxy.faults.extend([faults.passes] * 2 + [faults.resets_after] * 3 + [faults.hangs])
    said("No answer at the end of a crawl", end(ended(proxy.url), caplog))
    caplog.clear()
    for step in steps_of(ended(proxy.url), []):
        step.timed_out(10.0)
    said("The end takes too long", of_records(caplog))


def test_the_exit_code(said: Said, ended: Make, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Of a crawl whose end has failed."""
    over = ended(project.url)
    config = replace(over.config, monitors=MonitorsConfig(fail_on=frozenset({AFTER_CRAWL})))
    observer = CrawlObserver(over.counters, Record("", "", over.run.started, "", {}, over.counters), lambda _: None)
    assert CrawlLog(logging.getLogger("scrapy_supabase"), observer, None, config).counts_as_failed(True)
    said("The end of a crawl has failed, with SUPABASE_FAIL_ON", of_records(caplog))


def test_options_that_do_not_fit_the_table(said: Said, line: MakeLine, sql: Sql) -> None:
    """Found when a crawl opens. The SQL in the message is right."""
    sql("create table t (id int, run_id text, active boolean); grant select, insert on t to service_role")
    made, found = line(check=False), []
    cases: list[tuple[tuple[str, ...], dict[str, Any], dict[str, Any]]] = [
        ((), {}, {"active": False}),
        (("id",), {}, {"active": False}),
        (("id",), {"id": "x"}, {"active": False}),
        (("id",), {}, {"gone": True, "why": "unseen"}),
    ]
    for key, where, constants in cases:
        spec = TableSpec("t", on_conflict=key, unseen=Unseen("run_id", constants=constants, where=where))
        schema = Schema({"t": spec})
        if "why" in constants:
            for name, info in (made.backend.describe() or {}).items():
                schema.learn(name, info)
        with pytest.raises(FatalError) as failed:
            check_unseen(spec, schema, made.backend, lambda call, *arguments: call(*arguments))
        found.append(f"{failed.value.reason}: {failed.value}")
        if "GRANT" in str(failed.value):
            sql(str(failed.value).partition("run: ")[2])
    said("Options that do not fit the table", found)


def test_a_missing_function(said: Said, project: Project, ended: Make, caplog: pytest.LogCaptureFixture) -> None:
    """When a crawl opens."""
    check_function("t_none", ended(project.url).backend)
    said("The function for the end of crawls is missing", of_records(caplog))


def test_check(said: Said, look: Look, rows: Sql, project: Project, tmp_path: Path) -> None:
    """How many rows may be marked, those that the last crawl did not store, and whether the function is there."""
    given = {**settings(project), "spiders": ["test0"]}
    del given["SUPABASE_TABLE"]

    def findings(**more: Any) -> list[str]:
        about = shown(look(**given, **more), "table t", "after crawl")
        return [one for one in about if "unseen" in one or "function" in one]

    said("check: rows that may be marked", findings(SUPABASE_AFTER_CRAWL="t_after"))
    said("check: no function", findings(SUPABASE_AFTER_CRAWL="t_none"))
    spool = tmp_path / "spool"
    spool.mkdir(exist_ok=True)
    last = LastRun(run="new", spider="test0", project="", spool=None, started="", written="", reason="finished")
    (spool / "last-run.json").write_bytes(msgspec.json.encode(last))
    said("check: rows that the last crawl did not store", findings())
    rows("update t set run_id = 'old' where id < 5")
    last.reason = None
    (spool / "last-run.json").write_bytes(msgspec.json.encode(last))
    said("check: too many rows that the last crawl did not store", findings())
