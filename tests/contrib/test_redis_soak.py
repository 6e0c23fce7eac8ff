"""A fleet whose workers are killed stores every row; the same with the scheduler of scrapy-redis does not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.fix_project import Project
from tests.fix_redis import SCHEDULER, STOCK, Fleet, Site, Worker
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
ITEMS = 10


def run(
    fleet: Fleet, site: Site, project: Project, *, scheduler: str, pages: int, kills: int, delay: float
) -> list[Worker]:
    """Crawl `pages` pages with three workers, and kill one of them `kills` times; return the workers that ended.

    The worker that follows a killed one has its spool folder, as a container has the volume of the one before it.
    """

    def start(slot: int) -> None:
        workers[slot] = fleet.start(
            plan={"start": [first]},
            SCHEDULER=scheduler,
            SCHEDULER_PERSIST=True,
            SUPABASE_LEASE_TIME=2,
            DOWNLOAD_DELAY=delay,
            ITEM_PIPELINES={"scrapy_supabase.SupabasePipeline": 300},
            SUPABASE_URL=project.url,
            SUPABASE_KEY=project.key,
            SUPABASE_TABLE="t",
            SUPABASE_SPOOL_DIR=str(fleet.folder / f"spool{slot}"),
        )

    workers: dict[int, Worker] = {}
    first = site.tree(pages, items=ITEMS)
    start(0)
    assert eventually(lambda: len(site.hits) > 15, 30)  # else the others of the stock scheduler would find nothing
    start(1)
    start(2)

    def alive() -> list[int]:
        return [slot for slot, worker in workers.items() if worker.process.poll() is None]

    def at_work() -> list[int]:
        return [slot for slot in alive() if "Uploading to" in workers[slot].log]

    for number in range(kills):
        enough = pages * (number + 1) // (kills + 1)
        assert eventually(lambda: not alive() or bool(len(site.hits) >= enough and at_work()), 60)  # noqa: B023
        if not alive():
            break
        slot = random.choice(at_work())
        workers[slot].kill()
        start(slot)
    for worker in workers.values():
        worker.end(120)
    return list(workers.values())


def missing(sql: Sql, pages: int) -> int:
    """How many rows of the site are not in the table as the site had them; no others are there."""
    wanted = {(page * ITEMS + number, f"t{page}") for page in range(pages) for number in range(ITEMS)}
    found = set(sql("select id, title from t"))
    assert found <= wanted
    return len(wanted - found)


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql("create table t (id bigint primary key, title text, url text); grant all on t to service_role")
    return sql


SIZES = [
    pytest.param(100, 3, 0.05, id="short"),
    pytest.param(3000, 30, 0.05, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
]


@pytest.mark.parametrize(("pages", "kills", "delay"), SIZES)
def test_workers_are_killed_and_every_row_is_stored(
    fleet: Fleet, pages: int, kills: int, delay: float, project: Project, table: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row by row; nothing is leased or queued at the end."""
    site = Site()
    ended = run(fleet, site, project, scheduler=SCHEDULER, pages=pages, kills=kills, delay=delay)
    site.close()
    lost = missing(table, pages)
    killed = len(fleet.workers) - len(ended)
    if kills > 3:
        with capsys.disabled():
            print(report("LeaseScheduler", lost, pages, killed, site))
    assert killed == kills
    assert lost == 0, [worker.log for worker in fleet.workers]
    # A worker that was killed before its first request is named until a later crawl looks.
    assert set(fleet.server.client.keys()) - {b"pages:requests:workers"} == {b"pages:dupefilter"}
    assert {worker.stats["finish_reason"] for worker in ended} == {"finished"}
    assert sum(worker.counts("given_back")[0] for worker in ended) > 0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_stock_scheduler_loses_rows(
    fleet: Fleet, project: Project, table: Sql, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is printed: docs/how-to/scrapy-redis.md has it."""
    site = Site()
    ended = run(fleet, site, project, scheduler=STOCK, pages=3000, kills=30, delay=0.05)
    site.close()
    lost = missing(table, 3000)
    with capsys.disabled():
        print(report("scrapy_redis.scheduler.Scheduler", lost, 3000, len(fleet.workers) - len(ended), site))
    assert lost > 0


def report(name: str, lost: int, pages: int, kills: int, site: Site) -> str:
    """One line."""
    total, again = pages * ITEMS, sum(site.hits.values()) - len(site.hits)
    return f"\n{name}: {kills} kills, {total - lost:,} of {total:,} rows, {again} of {pages:,} pages fetched again"
