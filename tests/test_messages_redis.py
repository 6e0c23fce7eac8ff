"""What the scheduler of `contrib.redis` says (tests/contrib/test_redis_leases.py)."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from scrapy import Request, Spider
from scrapy.statscollectors import MemoryStatsCollector
from scrapy.utils.test import get_crawler
from scrapy_redis.dupefilter import RFPDupeFilter
from scrapy_redis.queue import PriorityQueue

from scrapy_supabase.contrib.redis.leases import SORTED, Leases
from scrapy_supabase.contrib.redis.scheduler import LeaseScheduler, _Codec, _kind_of
from scrapy_supabase.contrib.redis.worker import Worker
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.monitoring.stats import RequestStats
from tests.checkup.test_check import Look, look
from tests.fix_redis import SCHEDULER, STOCK, Fleet, RedisServer
from tests.messages import Said, of_log, of_records
from tests.polling import eventually
from tests.test_messages_check import shown
from tests.test_messages_commands import leave

__all__ = ["look"]  # a fixture


class Reversed(PriorityQueue):  # type: ignore[misc] # it has no types
    """A queue with a `pop` of its own."""

    def pop(self, timeout: int = 0) -> Any:
        """Take the last one."""
        return super().pop(timeout)


def test_a_worker(said: Said, redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Outages, silence, leases that go back, a request that cannot be decoded."""
    caplog.set_level(logging.INFO)
    client, now, running = redis_server.client, [100.0], set[Request]()
    codec = _Codec(PriorityQueue(client, Spider("q"), "q"), RFPDupeFilter(client, "q:dupefilter"))
    stats = RequestStats(MemoryStatsCollector(get_crawler()))

    def new_worker() -> Worker:
        leases = Leases(client, "q", SORTED, 30)
        return Worker(leases, codec, lambda: running, stats, 30, lambda: now[0])

    def messages() -> list[str]:
        found = [message.replace(redis_server.socket, "<socket>") for message in of_records(caplog, least=logging.INFO)]
        caplog.clear()
        return [re.sub(r"\(ConnectionError: .*?\)\. The", "(ConnectionError: <reason>). The", one) for one in found]

    worker = new_worker()
    for number in range(3):
        assert worker.enqueue(Request(f"https://a.test/{number}"))
    running.add(worker.next_request() or Request("https://a.test"))
    redis_server.stop()
    assert worker.next_request() is None
    assert worker.enqueue(Request("https://a.test/3"))
    now[0] += 2
    redis_server.start()
    running.add(worker.next_request() or Request("https://a.test"))
    said("Redis goes away, and comes back", messages())
    now[0] += 100
    worker.beat()
    said("A worker was stopped for a while", messages())
    worker.leave()
    said("A crawl is stopped", messages())
    dead = Leases(client, "q", SORTED, 0.01)
    assert dead.take(0, [])[1] is not None
    assert eventually(lambda: dead.others()[0] == 0 and client.zrangebyscore("q:workers", "-inf", "+inf") != [])
    following = new_worker()

    def is_told() -> bool:
        following.beat()
        return bool(of_records(caplog))

    assert eventually(is_told)
    said("A worker was killed", messages())
    client.zadd("q", {b"junk": -100})
    assert following.next_request() is not None
    said("A request cannot be decoded", messages())
    assert client.lrange("q:unreadable", 0, -1) == [b"junk"]
    redis_server.stop()
    following.leave()
    said("Redis is away at the end", messages()[1:])
    redis_server.start()


def test_other_workers(said: Said, fleet: Fleet) -> None:
    """The queue of a fleet is not flushed; a worker waits for the leases of others. It has no spool."""
    other = Leases(fleet.server.client, "pages:requests", SORTED, 60)
    other.push(b"a request", 0)
    assert other.take(0, [])[1] == b"a request"
    worker = fleet.start(SCHEDULER_FLUSH_ON_START=True, SUPABASE_SPOOL_DIR=None)
    assert eventually(lambda: "Waiting for" in worker.log, 20)
    other.acknowledge(["0"])
    said("Other workers are at work", of_log(worker.end()))


def test_check(
    said: Said,
    redis_server: RedisServer,
    look: Look,
    sql: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Findings about Redis, the spool and the options of tables."""
    sql("create table t (id bigint, day date, snapshot_date date, snapshot_version int, run_id text, active boolean)")
    unseen = {"table": "t", "stamps": {"run_id": "run_id"}, "unseen": {"set": {"active": False}}}
    odd: dict[str, Any] = {"SUPABASE_TABLES": {"*": unseen, "tests.crawl.Tag": {"table": "t_b", "snapshots": True}}}

    def found(scheduler: str = SCHEDULER, **settings: Any) -> list[str]:
        settings = {"SCHEDULER": scheduler, "REDIS_URL": redis_server.url, **settings}
        listed = [one for one in look(**settings) if one[1] in ("redis", "settings", "spool") or "fleet" in one[2]]
        return [one.replace(redis_server.socket, "<socket>") for one in shown(listed)]

    said("A fleet that is ready", found())
    running = [leave(tmp_path / "spool", "p", alive=True) for _ in range(2)]
    redis_server.client.config_set("appendonly", "no")
    said("Workers that share a spool, and a Redis that may forget", found())
    for one in running:
        one.close()
    said("Options that a fleet cannot have", found(SUPABASE_SPOOL_DIR=None, **odd))
    redis_server.stop()
    said("No Redis", found(STOCK))
    redis_server.start()
    monkeypatch.setitem(sys.modules, "scrapy_redis", None)
    monkeypatch.delitem(sys.modules, "scrapy_supabase.contrib.redis")
    said("The scheduler without its extra", found())


def test_what_it_cannot_use(
    said: Said, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A Redis that does not answer; a queue of one's own; no scrapy-redis."""
    settings = {"REDIS_URL": "redis://:secret@127.0.0.1:1", "DUPEFILTER_CLASS": "scrapy_redis.dupefilter.RFPDupeFilter"}
    with pytest.raises(ConfigurationError):
        LeaseScheduler.from_crawler(get_crawler(settings_dict=settings))
    said("No Redis at the start", of_records(caplog))
    with pytest.raises(ConfigurationError) as refused:
        _kind_of(Reversed(redis_server.client, Spider("q"), "q"))
    said("A queue with a pop of its own", f"ConfigurationError: {refused.value}")
    monkeypatch.setitem(sys.modules, "scrapy_redis", None)
    monkeypatch.delitem(sys.modules, "scrapy_supabase.contrib.redis")
    with pytest.raises(ImportError) as missing:
        import_module("scrapy_supabase.contrib.redis")
    said("The scheduler without scrapy-redis", f"ImportError: {missing.value}")
