"""Real crawls, each in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import pytest

from tests import fork_server
from tests.fix_project import Project
from tests.fork_server import Forked

ROOT = Path(__file__).parents[1]
OLDEST = ROOT / ".venv-oldest" / "bin" / "python"


@dataclass(frozen=True)
class Crawl:
    """A crawl that is over."""

    log: str
    all_stats: list[dict[str, Any]]
    folder: Path
    returncode: int

    @property
    def stats(self) -> dict[str, Any]:
        """The stats of the only spider."""
        (stats,) = self.all_stats
        return stats

    def counts(self, *names: str) -> tuple[int, ...]:
        """Values of `supabase/<name>_count`."""
        return tuple(self.stats.get(f"supabase/{name}_count", 0) for name in names)

    @property
    def rejected(self) -> list[dict[str, Any]]:
        """The lines of the reject file."""
        path = self.folder / "spool" / "rejected.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def spooled(self) -> list[Path]:
        """Chunk files that are left."""
        return sorted((self.folder / "spool").glob("*/*.jsonl"))


@dataclass(frozen=True)
class Crawler:
    """Starts crawls in `folder` that upload to `project`."""

    folder: Path
    project: Project
    outputs: dict[int, tuple[IO[str], threading.Thread | None]] = field(default_factory=dict)  # pid → its log

    def start(
        self,
        *spiders: dict[str, Any],
        mode: str = "asyncio",
        python: str = sys.executable,
        addon: bool = False,
        file_size: int | None = None,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> Forked:
        """Start a crawl. Settings that are None are left out; those that are "@none" are None.

        Its files cannot become longer than `file_size` bytes, except its log. Its folder at the start and its home are
        `cwd`.
        """
        enabled = (
            {"ADDONS": {"scrapy_supabase.Addon": 300}}
            if addon
            else {"ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300}}
        )
        given = {
            **enabled,
            "SUPABASE_URL": self.project.url,
            "SUPABASE_KEY": self.project.key,
            "SUPABASE_TABLE": "t",
            "SUPABASE_SPOOL_DIR": str(self.folder / "spool"),
            "BATCH_RETRY_DELAY": 0.02,
            "SUPABASE_OPEN_TIMEOUT": 0,
            **settings,
        }
        job = {
            "settings": {n: None if v == "@none" else v for n, v in given.items() if v is not None},
            "spiders": list(spiders),
            "mode": mode,
            "stats": str(self.folder / "stats.json"),
            "file_size": file_size,
            "cwd": str(cwd) if cwd else None,
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
        env |= {**({"HOME": str(cwd)} if cwd else {}), **(environment or {})}
        # A file: a pipe that nobody reads yet would hold the crawl up.
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`finish` closes it)
        pipe = os.pipe() if file_size else None
        with os.fdopen(pipe[1], "w") if pipe else nullcontext(log) as output:
            text = json.dumps(job).encode()
            process = fork_server.start("tests.crawl:main", text=text, stdout=output, python=python, env=env)
        copier = threading.Thread(target=_copy, args=(pipe[0], log.fileno()), daemon=True) if pipe else None
        if copier:
            copier.start()
        self.outputs[process.pid] = (log, copier)
        return process

    def log_of(self, process: Forked) -> str:
        """What a crawl has said so far."""
        log, _ = self.outputs[process.pid]
        return os.pread(log.fileno(), 2**30, 0).decode()

    def finish(self, process: Forked, *, balanced: bool = True) -> Crawl:
        """Wait for a crawl; its counts must add up."""
        code = process.wait()
        output, copier = self.outputs.pop(process.pid)
        if copier:
            copier.join()
        with output:
            output.seek(0)
            log = output.read()
        path = self.folder / "stats.json"
        stats = json.loads(path.read_text()) if path.exists() else []
        path.unlink(missing_ok=True)
        crawl = Crawl(log, stats, self.folder, code)
        assert stats or not balanced, log
        for each in stats if balanced else []:
            check_balance(each, log)
        assert self.project.key not in log
        return crawl

    def __call__(self, *spiders: dict[str, Any], **options: Any) -> Crawl:
        """Run a crawl to its end."""
        return self.finish(self.start(*spiders, **options))


def _copy(reader: int, to: int) -> None:
    while data := os.read(reader, 1 << 16):
        os.pwrite(to, data, os.fstat(to).st_size)
    os.close(reader)


def check_balance(stats: dict[str, Any], log: str = "") -> None:
    """`received = uploaded + superseded + failed + not_found + spooled`, in all and for each table."""
    tables = {key.removeprefix("supabase/received_count") for key in stats if key.startswith("supabase/received_count")}
    for table in tables:
        received, *parts = (
            stats.get(f"supabase/{name}_count{table}", 0)
            for name in ("received", "uploaded", "superseded", "failed", "not_found", "spooled")
        )
        assert received == sum(parts), (table, stats, log)


@pytest.fixture
def crawl(project: Project, tmp_path: Path) -> Crawler:
    """Run crawls: `crawl({"items": [...]}, mode="select", SUPABASE_MODE="insert")`."""
    return Crawler(tmp_path, project)


@pytest.fixture
def site() -> Iterator[Callable[[list[list[dict[str, Any]]]], str]]:
    """Serve pages of items: `site([[…items of page 0…], …])` → its URL."""
    with sites() as serve:
        yield serve


@contextmanager
def sites() -> Iterator[Callable[[list[list[dict[str, Any]]]], str]]:
    """What the fixture `site` gives, without pytest."""
    servers: list[ThreadingHTTPServer] = []

    def serve(pages: list[list[dict[str, Any]]]) -> str:
        bodies = [json.dumps(page).encode() for page in pages]

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                number = self.path.strip("/")
                body = bodies[int(number)] if number.isdigit() else b""
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()
