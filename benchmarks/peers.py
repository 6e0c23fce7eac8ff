"""Items per second, CPU time and share of rows stored, by pipeline, in a crawl of 20,000 items without downloads.

Each peer is configured as its documentation recommends. Peers are installed from PyPI into their own environment
(`.venv-peers`), together with this package, so that all run on the same Scrapy.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.common import (
    ROOT,
    TABLE,
    Server,
    child,
    interleaved,
    machine,
    markdown,
    parse_options,
    server,
    shown,
    work_folder,
    write,
)

PYTHON = ROOT / ".venv-peers" / "bin" / "python"
NAMES = {
    "nothing": "no pipeline (the crawl itself)",
    "feed": "Scrapy's FEEDS, JSON Lines on disk",
    "row_by_row": "hand-written pipeline, one insert per item",
    "chunks": "hand-written pipeline, chunks of 100, checked once",
    "rest": "scrapy-supabase, REST",
    "database": "scrapy-supabase, database",
    "ingest": "scrapy-ingest",
    "ayuge": "ayugespidertools, AyuFtyPostgresPipeline",
}
FEWER = {"row_by_row": 2000, "ayuge": 5000}  # the slow ones get fewer items


def settings(to: Server, name: str, folder: str) -> dict[str, Any]:
    """Return the Scrapy settings of one contestant."""
    at = urlsplit(to.db_url)
    ours = {
        "ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300},
        "SUPABASE_TABLE": "bench",
        "SUPABASE_SPOOL_DIR": f"{folder}/spool",
    }
    every: dict[str, dict[str, Any]] = {
        "nothing": {},
        "feed": {"FEEDS": {f"{folder}/items.jsonl": {"format": "jsonlines", "overwrite": True}}},
        "row_by_row": {"ITEM_PIPELINES": {"benchmarks.peers_crawl.RowByRow": 300}},
        "chunks": {"ITEM_PIPELINES": {"benchmarks.peers_crawl.Chunks": 300}},
        "rest": {**ours, "SUPABASE_URL": to.url, "SUPABASE_KEY": to.key},
        "database": {**ours, "SUPABASE_DB_URL": to.db_url},
        "ingest": {"ITEM_PIPELINES": {"scrapy_ingest.pipelines.IngestPipeline": 300}, "DB_URL": to.db_url},
        "ayuge": {
            "ITEM_PIPELINES": {"ayugespidertools.pipelines.AyuFtyPostgresPipeline": 300},
            "VIT_DIR": folder,
            "LOGURU_ENABLED": False,
        },
    }
    if name == "ayuge":
        Path(folder, ".conf").write_text(
            f"[postgresql]\nhost={at.hostname}\nport={at.port}\nuser={at.username}\npassword={at.password}\n"
            "database=postgres\ncharset=UTF8\n"
        )
    return every[name]


def crawl(to: Server, name: str, items: int, folder: str, notes: dict[str, dict[str, list[float]]]) -> float:
    """Crawl once and return items per second; CPU µs per item and the share of rows stored go to `notes`."""
    to.run(TABLE + "drop table if exists ingest_items, ingest_jobs, ingest_requests, ingest_logs cascade")
    job = {
        "name": name,
        "items": items,
        "settings": settings(to, name, folder),
        "server": {"url": to.url, "key": to.key},
    }
    done = child(job, "benchmarks.peers_crawl", str(PYTHON))
    if name == "ingest":
        ((rows,),) = to.run("select count(*) from ingest_items")
    elif name == "feed":
        rows = len(Path(folder, "items.jsonl").read_text().splitlines())
    else:
        ((rows,),) = to.run("select count(*) from bench")
    noted = notes.setdefault(name, {"cpu": [], "share": []})
    noted["cpu"].append(done["cpu"] / items * 1e6)
    noted["share"].append(rows / items)
    return float(items / done["seconds"])


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, choices={"only": NAMES}, items=20_000, only=list(NAMES))
    if not PYTHON.exists():
        raise SystemExit("The peers are not installed. Run: make .venv-peers/.installed")
    notes: dict[str, dict[str, list[float]]] = {}
    with work_folder() as folder, server(folder) as to:
        runs = {
            name: partial(crawl, to, name, min(FEWER.get(name, options.items), options.items), str(folder), notes)
            for name in options.only
        }
        found = interleaved(runs, options.repeat)
    rows = [
        [
            NAMES[name],
            shown(rates),
            shown(notes[name]["cpu"]),
            "" if name == "nothing" else f"{100 * statistics.median(notes[name]['share']):.0f} %",
        ]
        for name, rates in found.items()
    ]
    table = markdown(["contestant", "items per second", "CPU of the crawl, µs per item", "arrived"], rows)
    print(table)
    if options.write:
        text = f"{__doc__}\n{options.repeat} repetitions; median (range); {machine()}.\n\n{table}"
        plot = {"": {NAMES[name]: statistics.median(rates) for name, rates in found.items()}}
        write("peers", "A crawl, by pipeline", text, plot, "items per second (median)")


if __name__ == "__main__":
    main()
