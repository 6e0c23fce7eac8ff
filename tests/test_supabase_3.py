"""A pre-release of supabase 3, which pyproject.toml excludes: what works with it nevertheless, and what it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fix_crawl import Crawler
from tests.fix_project import Project

Sql = Callable[..., list[tuple[Any, ...]]]
RELEASE = "supabase==3.0.0a1"
SCRIPT = """
import sys
from scrapy_supabase import init_supabase, upload_to_supabase
from scrapy_supabase.errors import ConfigurationError
try:
    client = init_supabase(sys.argv[1], sys.argv[2])
except ConfigurationError as error:
    print(error)
else:
    print(upload_to_supabase(client, [{"id": 9}], "t").uploaded)
"""


@pytest.fixture(scope="module")
def supabase_3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for PYTHONPATH with the pre-release and what it needs."""
    folder = tmp_path_factory.mktemp("supabase3")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", "--target", folder, RELEASE], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{RELEASE} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_crawls_work_and_scripts_get_one_sentence(
    crawl: Crawler, sql: Sql, project: Project, supabase_3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crawl does not import supabase. `init_supabase` says which version it needs, or works again one day."""
    sql("create table t (id bigint primary key, title text); grant all on t to service_role")
    monkeypatch.setenv("PYTHONPATH", str(supabase_3))
    done = crawl({"items": [{"id": number, "title": "x"} for number in range(250)]})
    assert done.counts("uploaded", "failed", "spooled") == (250, 0, 0), done.log
    script = subprocess.run(
        [sys.executable, "-c", SCRIPT, project.url, project.key],
        env=os.environ, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert script.returncode == 0, script.stderr
    assert script.stdout.strip() in (
        "1",
        "supabase 3.0.0a1 is installed, which init_supabase does not support. Run: pip install 'supabase>=2.28,<3'",
    )
