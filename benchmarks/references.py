"""CPU of a crawl whose rows get the ids of their parents, compared with one whose items have the ids already.

Items are yielded by `start()`, without downloads; each refers to one of 10,000 parents. The crawls run side by side, in
turns, each into its own tables. CPU seconds are those of the crawl's process; requests and rows are checked.
"""

from __future__ import annotations

import inspect
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Server,
    environment,
    item,
    machine,
    markdown,
    parse_options,
    ratios,
    server,
    shown,
    work_folder,
    write,
)
from benchmarks.crawl import CRAWL, measured, take_turns

PARENTS = 10_000
NAMES = {"id": "the items have the id", "found": "the parents are there", "made": "the parents are made"}
TABLES = """
drop table if exists {0}_items; drop table if exists {0}_parents;
create table {0}_parents (id bigint generated always as identity primary key, name text unique);
create table {0}_items (
  id bigint primary key, url text, title text, price numeric, stock int, about text, parent_id bigint not null
);
grant all on {0}_parents, {0}_items to service_role; notify pgrst, 'reload schema'
"""
# Copied, not imported: see benchmarks/crawl.py.
ITEM = "from typing import Any\n" + inspect.getsource(item).replace("def item(", "def plain(")
WITH_ID = f"def item(n): return {{**plain(n), 'parent_id': n % {PARENTS} + 1}}\n"
WITH_NAME = f"def item(n): return {{**plain(n), 'parent': f'Parent {{n % {PARENTS}}}'}}\n"


def start(to: Server, name: str, over: str, rows: int, folder: Path) -> subprocess.Popen[str]:
    """Start a crawl in its own process."""
    to.run(TABLES.format(name))
    if name != "made":
        to.run(f"insert into {name}_parents (name) select 'Parent ' || i from generate_series(0, {PARENTS - 1}) i")
    references = {"parent_id": {"table": f"{name}_parents", "match": {"name": "parent"}, "create": name == "made"}}
    options = {} if name == "id" else {"references": references}
    settings = {
        "ITEM_PIPELINES": {"scrapy_supabase.SupabasePipeline": 300},
        "SUPABASE_URL": to.url,
        "SUPABASE_KEY": to.key,
        "SUPABASE_TABLES": {"*": {"table": f"{name}_items", **options}},
        "SUPABASE_SPOOL_DIR": str(folder / name),
        **({"SUPABASE_DB_URL": to.db_url} if over == "database" else {}),
    }
    code = ITEM + (WITH_ID if name == "id" else WITH_NAME) + CRAWL
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment()
    )
    assert process.stdin
    process.stdin.write(json.dumps({"kind": "torrent", "count": rows, "site": "", "settings": settings}))
    process.stdin.close()
    process.stdin = None
    return process


def compare(to: Server, over: str, rows: int, turn: float, folder: Path) -> dict[str, dict[str, Any]]:
    """Run the crawls side by side and return their measurements. Raises `RuntimeError` unless all rows are right."""
    processes = {name: start(to, name, over, rows, folder) for name in NAMES}
    take_turns(processes.values(), turn)
    found = {name: measured(process) for name, process in processes.items()}
    for name in NAMES:
        right = f"select count(*) from {name}_items i join {name}_parents p on p.id = i.parent_id"
        where = f"p.name = 'Parent ' || i.id % {PARENTS}"
        ((number,),) = to.run(f"{right} where {where}")
        if number != rows:
            raise RuntimeError(f"{name}: {number} of {rows} rows have the right parent")
    return found


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, repeat=3, items=100_000, turn=0.1)
    rows, plot = [], dict[str, dict[str, float]]()
    with work_folder() as folder, server(folder) as to:
        for over in ("REST", "database"):
            runs = []
            for repetition in range(options.repeat):
                runs.append(compare(to, over, options.items, options.turn, folder))
                print(f"{over}: repetition {repetition + 1} of {options.repeat}", flush=True)
            cpu = {name: [run[name]["cpu"] for run in runs] for name in NAMES}
            for name, words in NAMES.items():
                each = ratios(cpu, name, "id")
                plot.setdefault(over, {})[words] = statistics.median(each)
                requests = statistics.median(run[name]["stats"]["supabase/request_count"] for run in runs)
                seconds = shown(cpu[name], ".1f")
                rows.append([f"{over}, {words}", seconds, shown(each, ".2f"), f"{requests:,.0f}"])
    table = markdown(["crawl", "CPU seconds", "ratio to items with the id", "requests"], rows)
    print(table)
    if options.write:
        text = f"{__doc__}\n\n{table}\n\n{options.items:,} items. {machine()}"
        write("references", "The id of a parent", text, plot, "CPU of the crawl, ratio to items with the id")


if __name__ == "__main__":
    main()
