"""A crawl as in a hardened container: a random user id, no home, a read-only root, 8 MB for the spool."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fix_project import Project

SPIDER = """
import scrapy

class Books(scrapy.Spider):
    name = "books"
    custom_settings = {"ADDONS": {"scrapy_supabase.Addon": 300}}

    async def start(self):
        for n in range(3000):
            yield {"id": n, "text": "x" * 1000}
"""
# The root is bound read-only; below it only the spool can be written. Nobody has the id 54321 (OpenShift gives such
# ids, with the group 0). The capability lets it read the environment of the tests, which may be in a closed folder.
CONTAINER = """
set -e
mount --rbind / {root}
mount -t tmpfs -o size=8m,mode=0770,gid=0 none {root}{spool}
mount -o remount,bind,ro {root}
exec chroot {root} setpriv --reuid=54321 --regid=0 --clear-groups \
  --inh-caps=-all,+dac_read_search --ambient-caps=-all,+dac_read_search sh -c {command}
"""


def in_container(folder: Path, command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a shell command with `folder`/spool as the only folder that can be written."""
    root, spool = folder / "root", folder / "spool"
    for made in (root, spool):
        made.mkdir(exist_ok=True)
    script = CONTAINER.format(root=root, spool=spool, command=shlex.quote(command))
    alone = ["unshare", "--mount", "sh", "-c", script]
    return subprocess.run(alone, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a file system and change the root")
@pytest.mark.skipif(shutil.which("unshare") is None or shutil.which("setpriv") is None, reason="needs util-linux")
def test_a_crawl_in_a_hardened_container(sql: Callable[..., Any], project: Project, open_folder: Path) -> None:
    """All rows are stored, and the spool is empty, as far as another user of the volume can see."""
    sql("create table t (id bigint primary key, text text); grant all on t to service_role")
    sql("notify pgrst, 'reload schema'")
    (open_folder / "spider.py").write_text(SPIDER)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/",  # as container runtimes set it; Scrapy does not start without
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.key,
        "SUPABASE_TABLE": "t",
        "SUPABASE_SPOOL_DIR": str(open_folder / "spool"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if in_container(open_folder, "true", environment).returncode:
        pytest.skip("root may not mount here")
    python = shlex.quote(sys.executable)
    crawl = f"{python} -m scrapy runspider {open_folder / 'spider.py'}"
    left = f"find {open_folder / 'spool'} -name '*.jsonl' -not -name runs.jsonl"
    done = in_container(open_folder, f"! touch /tmp/x && {crawl} && {left}", environment)
    assert done.returncode == 0, done.stderr
    assert "'supabase/uploaded_count': 3000" in done.stderr
    assert done.stdout == ""
    assert sql("select count(*) from t") == [(3000,)]
    assert not re.search(r"\[scrapy_supabase\S*\] (?:WARNING|ERROR)", done.stderr), done.stderr
