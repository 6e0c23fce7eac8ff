"""From 10 thousand to a million rows: time a row, and peak memory. The engine with its spool, as `load` has it.

The rows are made while they are uploaded, so that memory is what this package holds.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from benchmarks.common import (
    TABLE,
    Server,
    arguments,
    child,
    interleaved,
    machine,
    markdown,
    server,
    shown,
    work_folder,
    write,
)

WAYS = {"ours_rest": "REST", "ours_database": "database"}


def upload(to: Server, name: str, rows: int, spool: str, memory: dict[str, list[float]]) -> float:
    """Microseconds a row."""
    to.run("drop table if exists bench;" + TABLE)
    job: dict[str, Any] = {"contestant": name, "count": rows, "chunk": 100, "uploads": 4, "generated": True}
    done = child({**job, "spool": spool, "url": to.url, "key": to.key, "db_url": to.db_url})
    ((stored,),) = to.run("select count(*) from bench")
    if stored != rows:
        raise RuntimeError(f"{name}: {stored} of {rows} rows stored")
    memory.setdefault(f"{name}/{rows}", []).append(done["memory"])
    return float(done["seconds"] / rows * 1e6)


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
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
    table = markdown(["over", "rows", "µs a row: median (range)", "peak memory, MB: median (range)"], lines)
    print(table)
    if options.write:
        text = f"{__doc__}\n100 rows a request; {options.repeat} repetitions; {machine()}.\n\n{table}"
        write("growth", "Growth", text, plot, "µs a row (median)")


if __name__ == "__main__":
    main()
