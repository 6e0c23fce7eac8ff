"""`contrib.redis.LeaseScheduler`: a request is leased until all that came of it is kept (on a real Redis)."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections import Counter
from functools import partial
from typing import Any

import pytest
from scrapy import Spider
from scrapy.utils.misc import load_object
from scrapy_redis.dupefilter import RFPDupeFilter
from scrapy_redis.queue import FifoQueue, LifoQueue, PriorityQueue

from scrapy_supabase.contrib.redis import LeaseScheduler
from scrapy_supabase.contrib.redis.leases import Leases
from tests.fix_crawl import OLDEST, ROOT
from tests.fix_redis import SCHEDULER, Fleet, RedisServer, Site
from tests.polling import eventually as within

eventually = partial(within, within=30)  # a process starts in seconds on a busy machine
MODES = [("none", sys.executable), ("select", str(OLDEST))]  # the other tests here crawl with asyncio


def no_leases(server: RedisServer, name: str = "pages") -> bool:
    """Whether nothing is leased, queued or registered any more."""
    found = {key.decode() for key in server.client.scan_iter("*")}
    return found <= {f"{name}:dupefilter"}


@pytest.mark.parametrize(("mode", "python"), MODES)
def test_every_end_of_a_request_is_acknowledged_and_none_before_its_items_are_taken(
    fleet: Fleet, pages: Site, mode: str, python: str
) -> None:
    """Retry, redirect, errback, exceptions, dropped items, ignored requests: no lease is left, no item comes late."""
    url = pages.url
    pages.pages = {
        "0": {
            "items": [{"id": 1}, {"id": 2, "drop": True}, {"id": 3, "fail": True}],
            "links": [
                *(
                    f"{url}{path}"
                    for path in ("flaky", "moved", "failing", "down", "missing", "ignore", "same", "same")
                ),
                {"url": f"{url}down?errback", "errback": True},
                {"url": f"{url}ignore?errback", "errback": True},
                {"url": f"{url}same", "dont_filter": True},
                {"url": "nothing://at/all"},
                {"url": f"{url}{'x' * 3000}"},  # filtered by UrlLengthMiddleware
            ],
        },
        "flaky": {"first": {"status": 503}, "items": [{"id": 10}], "links": [f"{url}later"]},
        "moved": {"status": 302, "location": f"{url}target"},
        "target": {"items": [{"id": 20}]},
        "failing": {"items": [{"id": 30}], "links": [f"{url}later2"], "fail": True},
        "down": {"status": 503},
        "down?errback": {"status": 503},
        "same": {"items": [{"id": 40}]},
        "later": {"items": [{"id": 50}]},
        "later2": {"items": [{"id": 60}]},
    }
    worker = fleet.start(
        plan={"start": [f"{url}0"]},
        mode=mode,
        python=python,
        DOWNLOADER_MIDDLEWARES={"tests.redis_crawl.Ignoring": 100},
        SCHEDULER_PERSIST=True,
    )
    log = worker.end()
    found = fleet.witnessed
    assert Counter(item["id"] for item in found) == {
        1: 1,
        2: 1,
        3: 1,
        10: 1,
        20: 1,
        30: 1,
        40: 2,
        50: 1,
        60: 1,
        -1: 2,
    }, log
    assert [item for item in found if not item["leased"]] == []
    leased, acknowledged, given_back, enqueued = worker.counts("dequeued", "acknowledged", "given_back", "enqueued")
    assert leased == acknowledged == enqueued > 15
    assert given_back == 0
    assert no_leases(fleet.server)
    assert worker.stats["finish_reason"] == "finished"
    assert worker.stats["retry/max_reached"] == 2


def test_ctrl_c_keeps_the_queue_and_a_second_one_gives_back_after_the_lease_time(fleet: Fleet, pages: Site) -> None:
    """Though SCHEDULER_PERSIST is not set; each page of the site is stored in the end."""
    start = pages.tree(24, items=2)
    first = fleet.start(plan={"start": [start]}, DOWNLOAD_DELAY=0.05, CONCURRENT_REQUESTS=4)
    assert eventually(lambda: len(fleet.witnessed) > 10)
    first.process.send_signal(signal.SIGINT)
    first.end()
    assert first.stats["finish_reason"] == "shutdown"
    assert fleet.server.leases() == {}
    assert fleet.server.client.zcard("pages:requests") > 0
    second = fleet.start(mode="none", DOWNLOAD_DELAY=0.3, CONCURRENT_REQUESTS=4)
    assert eventually(lambda: sum(fleet.server.leases().values()) == 4)
    second.process.send_signal(signal.SIGINT)
    assert eventually(lambda: "shutting down gracefully" in second.log)
    second.process.send_signal(signal.SIGINT)
    second.end()
    assert sum(fleet.server.leases().values()) > 0
    last = fleet.start()
    log = last.end()
    assert {item["id"] for item in fleet.witnessed} == set(range(48)), log
    assert last.counts("given_back")[0] > 0
    assert fleet.server.client.keys() == []


def test_a_worker_that_hangs_loses_its_leases_and_does_no_harm_when_it_goes_on(fleet: Fleet, pages: Site) -> None:
    """SIGSTOP: another worker, which has waited for these leases, fetches the pages; they come twice at most."""
    for number in range(3):
        links = [f"{pages.url}{number + 3}"]
        pages.pages[str(number)] = {"items": [{"id": number}], "links": links, "hold": True}
        pages.pages[str(number + 3)] = {"items": [{"id": number + 3}]}
    hung = fleet.start(plan={"start": [f"{pages.url}{number}" for number in range(3)]}, SUPABASE_LEASE_TIME=3)
    assert eventually(lambda: sum(fleet.server.leases().values()) == 3)
    other = fleet.start(SUPABASE_LEASE_TIME=3)
    assert eventually(lambda: "The queue is empty. Waiting for 3 leased requests of other workers." in other.log)
    hung.process.send_signal(signal.SIGSTOP)
    pages.gate.set()
    log = other.end()
    assert {item["id"] for item in fleet.witnessed} == set(range(6))
    assert other.counts("given_back", "dequeued", "acknowledged") == (3, 6, 6)
    assert "Back in the queue: 3 requests of workers that sent no heartbeat for 3 s (SUPABASE_LEASE_TIME)." in log
    hung.process.send_signal(signal.SIGCONT)
    assert "This worker sent no heartbeat for" in hung.end()
    assert Counter(item["id"] for item in fleet.witnessed)[0] == 2
    assert max(Counter(item["id"] for item in fleet.witnessed).values()) == 2
    leased, acknowledged = hung.counts("dequeued", "acknowledged")
    assert acknowledged == leased - 3
    assert fleet.server.client.keys() == []


def test_redis_goes_away_and_comes_back(fleet: Fleet, pages: Site) -> None:
    """For longer than the lease time: the crawl goes on where it was; what pages yielded meanwhile is kept."""
    start = pages.tree(40, items=2, quick=True)
    worker = fleet.start(plan={"start": [start]}, DOWNLOAD_DELAY=0.05, CONCURRENT_REQUESTS=8)
    assert eventually(lambda: len(fleet.witnessed) > 10)
    fleet.server.stop()
    assert eventually(lambda: "Redis does not answer" in worker.log)
    threading.Event().wait(1.5)
    assert worker.process.poll() is None
    fleet.server.start()
    log = worker.end()
    assert log.count("Redis does not answer") == log.count("Redis answers again.") == 1
    assert {item["id"] for item in fleet.witnessed} == set(range(80)), log
    assert "Traceback" not in log
    leased, acknowledged = worker.counts("dequeued", "acknowledged")
    # Redis may have carried out the call whose answer was lost: those of its eight requests are acknowledged twice.
    assert leased - 8 <= acknowledged <= leased
    assert fleet.server.client.keys() == []


def test_start_urls_are_not_lost_by_a_kill(fleet: Fleet, pages: Site) -> None:
    """Those that were taken and are not yet in the queue go back; a bad one costs only itself.

    The killed worker takes them at its start (Scrapy 2.14), the other one when it is idle (the newest).
    """
    urls = [json.dumps({"url": f"{pages.url}{n}"}) for n in range(6)]
    for n in range(6):
        pages.pages[str(n)] = {"items": [{"id": n}]}
    fleet.server.client.rpush("starts", *urls[:4], "bad", *urls[4:])
    killed = fleet.start("StartUrls", plan={"die_at": urls[2]}, python=str(OLDEST))
    assert killed.process.wait(20) == -signal.SIGKILL
    assert fleet.server.client.exists("starts") == 0
    last = fleet.start("StartUrls", MAX_IDLE_TIME_BEFORE_CLOSE=2)
    log = last.end()
    assert {item["id"] for item in fleet.witnessed} == set(range(6)), log
    assert log.count("ValueError: Missing scheme in request url: bad") == 1
    assert no_leases(fleet.server, "starts"), list(fleet.server.client.scan_iter("*"))


KINDS = [("sorted", PriorityQueue), ("right", FifoQueue), ("left", LifoQueue)]


@pytest.mark.parametrize(("kind", "queue"), KINDS)
def test_leases_go_back_in_their_order(redis_server: RedisServer, kind: str, queue: Any) -> None:
    """More than one call gives back, with priorities; what is acknowledged does not; a call may come twice."""
    client = redis_server.client
    requests = queue(client, Spider("q"), "q")
    dead, alive = Leases(client, "q", kind, 0.05), Leases(client, "q", kind, 30)
    for number in range(2500):
        assert dead.push(b"%04d" % number, number // 100, ("seen", str(number)))
        assert not dead.push(b"%04d" % number, number // 100, ("seen", str(number)))
    order = [dead.take(0, [])[1], *(dead.take(number, [])[1] for number in range(2400))][1:]
    assert len(set(order)) == 2400
    assert dead.take(2400, [str(number) for number in range(10)])[0] == 10
    assert eventually(lambda: alive.others() == (0, 2391))
    assert [alive.beat(give_back=True) for _ in range(4)] == [1000, 1000, 391, 0]
    assert alive.others() == (0, 0)
    assert len(requests) == 2490
    assert [alive.take(number, [])[1] for number in range(2390)] == order[10:]
    assert dead.acknowledge(["20"]) == 0
    assert (alive.give_back(), alive.leave(), len(requests)) == (1000, 1390, 2490)


@pytest.mark.parametrize("kind", ["list", "set", "zset"])
def test_start_urls_go_back_where_they_came_from(redis_server: RedisServer, kind: str) -> None:
    """Whatever kind of collection they were in; a call whose answer was lost returns the same."""
    client = redis_server.client
    add = {"list": lambda n: client.rpush("s", n), "set": lambda n: client.sadd("s", n)}
    for number in range(5):
        add.get(kind, lambda n: client.zadd("s", {n: -n}))(number)
    leases = Leases(client, "q", "sorted", 30)
    taken = leases.take_start_urls("s", ["start-0", "start-1", "start-2"])
    assert leases.take_start_urls("s", ["start-0", "start-1", "start-2"]) == taken
    assert len(taken) == 3
    assert taken == [b"0", b"1", b"2"] or kind == "set"
    assert leases.acknowledge(["start-0"]) == 1
    assert leases.leave() == 2
    again = leases.take_start_urls("s", [f"start-{number}" for number in range(3, 10)])
    assert set(again) == {b"0", b"1", b"2", b"3", b"4"} - {taken[0]}
    assert again == [b"1", b"2", b"3", b"4"] or kind == "set"


def test_the_settings_of_the_page() -> None:
    """What docs/how-to/scrapy-redis.md enables is what the tests here run."""
    page = (ROOT / "docs" / "how-to" / "scrapy-redis.md").read_text()
    found: dict[str, Any] = {}
    exec(page.partition("# settings.py\n")[2].partition("```")[0], found)
    assert load_object(found["SCHEDULER"]) is LeaseScheduler
    assert load_object(found["DUPEFILTER_CLASS"]) is RFPDupeFilter
    assert found["SCHEDULER"] == SCHEDULER
