"""Makes the screenshots in docs/images: reports of real crawls on the local stack, through a server that misbehaves.

`make screenshots` runs it. It takes a minute; Chromium must be on PATH.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg

from scrapy_supabase.local import LocalSupabase
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_browser import Browser
from tests.fix_crawl import sites

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
TABLES = """
create table authors (id bigint primary key, name text unique);
create table books (
  id bigint primary key, title text, price numeric constraint price_is_positive check (price > 0), pages int
);
"""
GRANTS = "grant all on authors, books to service_role"
DOWN = faults.answers(503, "<h1>Service unavailable</h1>")
PAGES = 2600


def main() -> None:
    """Crawl, and look at the reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", metavar="DIR", help="also keep the HTML pages there")
    keep = parser.parse_args().keep
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, Browser() as browser:
        folder = Path(name)
        folder.chmod(0o755)  # as root, PostgreSQL runs as `nobody`
        with LocalSupabase(folder / "stack") as stack, psycopg.connect(stack.db_url, autocommit=True) as connection:
            connection.execute(TABLES.encode())
            refused = crawl(folder / "refused", stack, pages=2)
            connection.execute(GRANTS.encode())
            good = crawl(folder / "good", stack, pages=PAGES)
        browser.shoot(good, IMAGES / "report-light.png", height=1500)
        browser.shoot(good, IMAGES / "report-dark.png", height=1500, dark=True)
        browser.shoot(good, IMAGES / "report-phone.png", width=390, height=1500)
        browser.shoot(refused, IMAGES / "report-closed.png", height=620)
        for report in (good, refused) if keep else ():
            (Path(keep) / f"{report.parent.name}.html").write_bytes(report.read_bytes())


def crawl(folder: Path, stack: LocalSupabase, pages: int) -> Path:
    """Crawl in `folder`; returns the report."""
    folder.mkdir()
    chance = random.Random(7)
    with FaultProxy(stack.url) as proxy, sites() as serve:
        plan = {"name": "books", "pages": pages, "site": serve([page(number, chance) for number in range(pages)])}
        settings: dict[str, Any] = {
            "ADDONS": {"scrapy_supabase.Addon": 300},
            "SUPABASE_URL": proxy.url,
            "SUPABASE_KEY": stack.service_role_key,
            "SUPABASE_TABLES": {"tests.crawl.Author": "authors", "*": "books"},
            "SUPABASE_SPOOL_DIR": ".scrapy/supabase",
            "SUPABASE_REPORT": "report.html",
            "BATCH_RETRY_DELAY": 0.2,
            "DOWNLOAD_DELAY": 0.009,
            "LOG_LEVEL": "WARNING",
        }
        job = {"settings": settings, "spiders": [plan], "mode": "asyncio", "stats": str(folder / "stats.json")}
        if pages == PAGES:
            proxy.always = Way(chance)
        subprocess.run(
            [sys.executable, "-m", "tests.crawl"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            input=json.dumps(job).encode(),
            check=True,
        )
    return folder / "report.html"


def page(number: int, chance: random.Random) -> list[dict[str, Any]]:
    """What the spider finds on a page: an author, and twenty books; few of them are not as the table wants them."""
    first = 20 * number
    books = [
        {"id": first + n, "title": f"Book {first + n}", "price": round(chance.uniform(4, 40), 2), "pages": 10 * n + 90}
        for n in range(20)
    ]
    if chance.random() < 0.008:
        books[3]["price"] = -1
    if chance.random() < 0.003:
        books[7]["pages"] = "about 300"
    author = {"_class": "Author", "id": number, "name": f"Author {number if chance.random() > 0.004 else 0}"}
    return [author, *books]


class Way:
    """Answers take as long as they do on a real way; few fail; once the server is unreachable for a while."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._began = time.monotonic()

    def __call__(self, exchange: faults.Exchange) -> None:
        """What happens to one request."""
        chance = self._chance
        if 14 < time.monotonic() - self._began < 18.5 or chance.random() < 0.02:
            DOWN(exchange)
        else:
            faults.delays(min(chance.lognormvariate(-3.1, 0.5), 1.5))(exchange)


if __name__ == "__main__":
    main()
