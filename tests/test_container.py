"""A crawl as in a hardened container: a random user id, no home, a read-only root, 8 MB for the spool."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.container import Container, only_root
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


@only_root
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
        "SUPABASE_SPOOL_DIR": "/spool",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    container = Container(open_folder, environment, volumes={"/spool": "8m"})
    container.skip_if_impossible()
    crawl = f"{shlex.quote(sys.executable)} -m scrapy runspider {open_folder / 'spider.py'}"
    left = "find /spool -name '*.jsonl' -not -name runs.jsonl"
    done = container.run("sh", "-c", f"! touch /tmp/x && {crawl} && {left}")
    assert done.returncode == 0, done.stderr
    assert "'supabase/uploaded_count': 3000" in done.stderr
    assert done.stdout == ""
    assert sql("select count(*) from t") == [(3000,)]
    assert not re.search(r"\[scrapy_supabase\S*\] (?:WARNING|ERROR)", done.stderr), done.stderr
