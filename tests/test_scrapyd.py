"""A project in Scrapyd, with the example's scrapyd.conf: an egg, a job, a cancelled job, the commands in the egg."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import DEPLOY
from tests.fix_project import Project

pytest.importorskip("scrapyd", reason="scrapyd is not installed")

EGG = {
    "EGG-INFO/PKG-INFO": "Metadata-Version: 1.0\nName: shop\nVersion: 1.0\n",
    "EGG-INFO/entry_points.txt": "[scrapy]\nsettings = shop.settings\n",
    "EGG-INFO/top_level.txt": "shop\n",
    "shop/__init__.py": "",
    "shop/settings.py": """
BOT_NAME = "shop"
SPIDER_MODULES = ["shop.spiders"]
ADDONS = {"scrapy_supabase.Addon": 300}
SUPABASE_TABLE = "t"
""",
    "shop/spiders.py": """
import scrapy

class Books(scrapy.Spider):
    name = "books"
    endless = ""
    custom_settings = {"DOWNLOAD_DELAY": 0.01}

    async def start(self):
        for n in range(100_000 if self.endless else 250):
            if n < 250:
                yield {"id": n + 1, "title": f"Book {n}"}
            else:
                yield scrapy.Request(f"data:,{n + 1}")

    def parse(self, response):
        yield {"id": int(response.text), "title": "Book"}
""",
}
Call = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder in which Scrapyd runs; it has no scrapy.cfg of a project."""
    shipped = (DEPLOY / "scrapyd" / "scrapyd.conf").read_text()
    (tmp_path / "scrapyd.conf").write_text(
        shipped.replace("/var/lib/scrapyd", str(tmp_path)).replace("http_port = 6800", "http_port = 0")
        + "poll_interval = 0.2\n"
    )
    return tmp_path


@pytest.fixture
def environment(project: Project, folder: Path) -> dict[str, str]:
    """That of the Scrapyd process; its jobs inherit it."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SUPABASE_", "SCRAPY"))}
    return {
        **clean,
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.key,
        "SUPABASE_SPOOL_DIR": str(folder / "spool"),
        "PYTHONWARNINGS": "ignore",
    }


@pytest.fixture
def scrapyd(folder: Path, environment: dict[str, str]) -> Iterator[Call]:
    """Call an endpoint of a Scrapyd that has the egg: `scrapyd("listjobs", project="shop")`; POST with `data`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    conf = folder / "scrapyd.conf"
    conf.write_text(conf.read_text().replace("http_port = 0", f"http_port = {port}"))
    with (folder / "scrapyd.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "scrapyd"], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )

    def call(name: str, **data: str) -> dict[str, Any]:
        posts = name in ("schedule", "cancel")
        query = urllib.parse.urlencode(data)
        url = f"http://127.0.0.1:{port}/{name}.json" + ("" if posts else f"?{query}")
        with urllib.request.urlopen(url, query.encode() if posts else None, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        assert found["status"] == "ok", found
        return found

    try:
        until(lambda: answers(call), folder)
        add_egg(f"http://127.0.0.1:{port}/addversion.json")
        yield call
    finally:
        server.kill()  # its jobs are over
        server.wait()


def answers(call: Call) -> bool:
    """Whether Scrapyd is up."""
    with suppress(urllib.error.URLError, ConnectionError):
        call("daemonstatus")
        return True
    return False


def add_egg(url: str) -> None:
    """Upload the project as `scrapyd-deploy` does."""
    egg = io.BytesIO()
    with zipfile.ZipFile(egg, "w") as archive:
        for name, text in EGG.items():
            archive.writestr(name, text)
    parts = [(b'name="project"', b"shop"), (b'name="version"', b"1")]
    parts.append((b'name="egg"; filename="shop.egg"', egg.getvalue()))
    start = b"--b\r\nContent-Disposition: form-data; "
    body = b"".join(start + head + b"\r\n\r\n" + text + b"\r\n" for head, text in parts) + b"--b--\r\n"
    request = urllib.request.Request(url, body, {"Content-Type": "multipart/form-data; boundary=b"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        found = json.load(answer)
    assert found["status"] == "ok", found


def until(holds: Callable[[], Any], folder: Path) -> Any:
    """Wait until something holds, and return it."""
    by = time.monotonic() + 60
    while not (found := holds()):
        assert time.monotonic() < by, [path.read_text() for path in sorted(folder.rglob("*.log"))]
        time.sleep(0.1)
    return found


def in_egg(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `scrapy supabase …` inside the egg, as docs/how-to/deploy.md says."""
    return subprocess.run(
        [sys.executable, "-m", "scrapyd.runner", "supabase", *arguments],
        cwd=folder, env={**environment, "SCRAPY_PROJECT": "shop"}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_jobs_and_commands(sql: Callable[..., Any], scrapyd: Call, folder: Path, environment: dict[str, str]) -> None:
    """A job stores its rows; a cancelled one, too, and it closes in order; check, replay and report work in the egg."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    sql("notify pgrst, 'reload schema'")
    scrapyd("schedule", project="shop", spider="books")
    until(lambda: scrapyd("listjobs", project="shop")["finished"], folder)
    assert sql("select count(*), max(id) from t") == [(250, 250)]

    checked = in_egg(folder, environment, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "✓ table t: exists" in checked.stdout
    assert f"✓ spool: {folder / 'spool'} is writable" in checked.stdout
    replayed = in_egg(folder, environment, "replay", "--dry-run")
    assert (replayed.returncode, replayed.stdout.splitlines()[-1]) == (0, "(0 rows)"), replayed.stderr
    reported = in_egg(folder, environment, "report", "report.html")
    assert reported.returncode == 0, reported.stdout + reported.stderr
    assert "250" in (folder / "report.html").read_text()

    job = scrapyd("schedule", project="shop", spider="books", endless="yes")["jobid"]
    log = folder / "logs" / "shop" / "books" / f"{job}.log"
    until(lambda: sql("select count(*) from t")[0][0] > 250, folder)
    scrapyd("cancel", project="shop", job=job)
    until(lambda: len(scrapyd("listjobs", project="shop")["finished"]) == 2, folder)
    said = log.read_text()
    assert "'finish_reason': 'shutdown'" in said
    (stored,) = sql("select count(*) from t")[0]
    assert stored > 250
    assert f"'supabase/received_count': {stored}" in said
    assert f"'supabase/uploaded_count': {stored}" in said
