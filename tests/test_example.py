"""The example project, as `make demo` runs it, with few pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from scrapy_supabase.local.place import default_folder

ROOT = Path(__file__).parents[1]


def scrapy(folder: Path, *arguments: str) -> str:
    """Run a command of the project; what it prints, log included."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUPABASE_")}
    done = subprocess.run(
        [sys.executable, "-m", "scrapy", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_two_crawls_make_two_snapshots(open_folder: Path) -> None:
    """No row is failed or doubled, and the ledger has both."""
    root = open_folder / "clone"
    for name in ("example_project", "migrations"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns(".scrapy", "__pycache__"))
    folder = root / "example_project"
    for _ in range(2):
        log = scrapy(folder, "crawl", "stdlib", "-s", "CLOSESPIDER_PAGECOUNT=12")
        assert "Traceback" not in log, log
        assert int(re.findall(r"'supabase/uploaded_count': (\d+)", log)[0]) > 50, log
        assert not re.search(r"'supabase/(failed|spooled)_count': [1-9]", log), log
        assert "Enabled " not in log, "Scrapy's lists of its components are no part of the demo"
        modules = re.findall(r"'supabase/uploaded_count/modules': (\d+)", log)[0]
        summary = scrapy(folder, "supabase", "sql", "--csv", "select snapshots, modules from daily_summary")
        assert summary.splitlines()[-1].split(",")[1] == modules, summary
    table = scrapy(
        folder, "supabase", "sql",
        "select snapshot_version as v, 'rows=' || count(*) || '/' || count(distinct (module, name)) from symbols"
        " group by 1 order by 1",
    )  # fmt: skip
    found = re.findall(r"rows=(\d+)/(\d+)", table)
    assert len(found) == 2, table
    assert all(rows == distinct for rows, distinct in found), table
    ledger = scrapy(folder, "supabase", "sql", "select spider || ':' || finish_reason from scrapy_runs")
    assert ledger.count("stdlib:closespider_pagecount") == 2, ledger


def test_a_local_supabase_of_root_is_where_its_server_can_go(tmp_path: Path) -> None:
    """PostgreSQL does not run as root: below a folder closed to others, the data is elsewhere, one place a project."""
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    first, second = (default_folder(closed / name) for name in ("a", "b"))
    if os.geteuid() == 0:
        assert first.parent == second.parent == Path("/var/tmp/scrapy-supabase-root")
        assert first != second
    else:
        assert first.is_relative_to(closed)
