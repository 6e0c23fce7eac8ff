"""A Redis server of the test's own, on a Unix socket, and crawls that share its queue."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis

from tests import fork_server
from tests.fix_crawl import ROOT
from tests.polling import eventually

SCHEDULER = "scrapy_supabase.contrib.redis.LeaseScheduler"
STOCK = "scrapy_redis.scheduler.Scheduler"


class RedisServer:
    """A `redis-server` that writes each command to its disk."""

    def __init__(self, program: str, folder: Path, options: Sequence[str] = ("--appendonly", "yes")) -> None:
        self.program = program
        self.options = options
        self.folder = folder
        self.socket = str(folder / "redis.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.client: redis.Redis = redis.Redis(unix_socket_path=self.socket)

    @property
    def url(self) -> str:
        """For `REDIS_URL`."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        place = ["--port", "0", "--unixsocket", self.socket, "--dir", str(self.folder)]
        self.process = subprocess.Popen([self.program, *self.options, *place], stdout=subprocess.DEVNULL)
        assert eventually(self.answers)

    def answers(self) -> bool:
        """Whether it does."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """Stop it; what it had is on its disk."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait()

    def leases(self) -> dict[str, int]:
        """Worker → the number of its leases."""
        keys = [key.decode() for key in self.client.scan_iter("*:leases:*")]
        return {key.rpartition(":")[2]: int(self.client.hlen(key)) for key in keys}


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A running server with nothing in it."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt install redis-server)")
    server = RedisServer(program, tmp_path_factory.mktemp("r"))
    server.start()
    yield server
    server.stop()


class Site:
    """Pages by path: `status`, `location`, `html`, or what tests/redis_crawl.py reads; `first` is sent once.

    A page with `hold` is sent when `gate` is set.
    """

    def __init__(self) -> None:
        self.pages: dict[str, dict[str, Any]] = {}
        self.hits: Counter[str] = Counter()
        self.gate = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.strip("/")
                site.hits[path] += 1
                page = site.pages.get(path, {"status": 404})
                if "first" in page and site.hits[path] == 1:
                    page = page["first"]
                if page.get("hold"):
                    site.gate.wait(30)
                body = page.get("html", json.dumps(page)).encode()
                self.send_response(page.get("status", 200))
                if "location" in page:
                    self.send_header("Location", page["location"])
                self.send_header("Content-Type", "text/html" if "html" in page else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()

    def tree(self, pages: int, *, items: int = 10, width: int = 5, **item: Any) -> str:
        """Serve pages that link to `width` others each; return the URL of the first."""
        for page in range(pages):
            links = [f"{self.url}{n}" for n in range(page * width + 1, page * width + width + 1) if n < pages]
            rows = [{"id": page * items + n, "title": f"t{page}", **item} for n in range(items)]
            self.pages[str(page)] = {"items": rows, "links": links}
        return f"{self.url}0"


class Worker:
    """A crawl in a process of its own."""

    def __init__(
        self, folder: Path, job: dict[str, Any], python: str = sys.executable, home: Path | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stats_path = folder / "stats.json"
        self.log_path = folder / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
        if home is not None:
            environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)}
        text = json.dumps({**job, "stats": str(self.stats_path)}).encode()
        with self.log_path.open("wb") as log:
            self.process = fork_server.start(
                "tests.redis_crawl:main", text=text, stdout=log, python=python, cwd=home or ROOT, env=environment
            )

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text()

    @property
    def stats(self) -> dict[str, Any]:
        """The stats of a crawl that ended."""
        stats: dict[str, Any] = json.loads(self.stats_path.read_text())
        return stats

    def counts(self, *names: str) -> tuple[int, ...]:
        """Values of `scheduler/<name>/redis`."""
        return tuple(self.stats.get(f"scheduler/{name}/redis", 0) for name in names)

    def end(self, within: float = 30) -> str:
        """Wait for its end, and return the log."""
        self.process.wait(within)
        return self.log

    def kill(self) -> None:
        """`kill -9`."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Fleet:
    """Starts workers on one queue."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.workers: list[Worker] = []

    def start(
        self,
        spider: str = "Pages",
        *,
        mode: str = "asyncio",
        python: str = sys.executable,
        plan: Any = None,
        home: Path | None = None,
        **settings: Any,
    ) -> Worker:
        """Start a worker: a spider of tests/redis_crawl.py with its plan. Its folder and home is `home`."""
        given = {
            "SCHEDULER": SCHEDULER,
            "DUPEFILTER_CLASS": "scrapy_redis.dupefilter.RFPDupeFilter",
            "REDIS_URL": self.server.url,
            "SUPABASE_LEASE_TIME": 1,
            "ITEM_PIPELINES": {"tests.redis_crawl.Witness": 100},
            "WITNESS": str(self.folder / "witness"),
            **settings,
        }
        job = {"spider": spider, "plan": plan or {}, "mode": mode, "settings": given}
        worker = Worker(self.folder / f"worker{len(self.workers)}", job, python, home)
        self.workers.append(worker)
        return worker

    @property
    def witnessed(self) -> list[dict[str, Any]]:
        """The items that reached the pipelines, with what `tests.redis_crawl.Witness` saw."""
        path = self.folder / "witness"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def fleet(redis_server: RedisServer, tmp_path: Path) -> Iterator[Fleet]:
    """Start workers: `fleet.start("Pages", plan={...}, CONCURRENT_REQUESTS=4)`."""
    made = Fleet(redis_server, tmp_path)
    yield made
    for worker in made.workers:
        if worker.process.poll() is None:
            worker.kill()


@pytest.fixture
def pages() -> Iterator[Site]:
    """A site."""
    site = Site()
    yield site
    site.close()
