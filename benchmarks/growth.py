"""Time per row and peak memory of uploads of 10,000 to 1,000,000 rows, by the engine and spool that `load` uses.

The rows are generated during the upload, so that the memory measured is this package's.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from benchmarks.common import (
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

WAYS = {"ours_rest": "REST", "ours_database": "database"}


def upload(to: Server, name: str, rows: int, spool: str, memory: dict[str, list[float]]) -> float:
    """Upload `rows` and return microseconds per row; peak memory in MB goes to `memory`."""
    to.run("drop table if exists bench;" + TABLE)
    job: dict[str, Any] = {"contestant": name, "count": rows, "chunk": 100, "uploads": 4, "generated": True}
    done = child({**job, "spool": spool, "url": to.url, "key": to.key, "db_url": to.db_url})
    ((stored,),) = to.run("select count(*) from bench")
    if stored != rows:
        raise RuntimeError(f"{name}: {stored} of {rows} rows stored")
    memory.setdefault(f"{name}/{rows}", []).append(done["memory"])
    return float(done["seconds"] / rows * 1e6)


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, rows=[10_000, 100_000, 1_000_000])
    memory: dict[str, list[float]] = {}
    with work_folder() as folder, server(folder) as to:
        runs = {
            f"{name}/{rows}": partial(upload, to, name, rows, str(folder / "spool"), memory)
            for name in WAYS
            for rows in options.rows
        }
        found = interleaved(runs, options.repeat)
    lines, plot = [], dict[str, dict[str, float]]()
    for run, times in found.items():
        name, _, rows = run.partition("/")
        lines.append([WAYS[name], f"{int(rows):,}", shown(times, ".1f"), shown(memory[run], ".1f")])
        plot.setdefault(f"{int(rows):,} rows", {})[WAYS[name]] = statistics.median(times)
    table = markdown(["over", "rows", "µs per row: median (range)", "peak memory, MB: median (range)"], lines)
    print(table)
    if options.write:
        text = f"{__doc__}\n100 rows per request; {options.repeat} repetitions; {machine()}.\n\n{table}"
        write("growth", "Growth", text, plot, "µs per row (median)")


if __name__ == "__main__":
    main()
