"""Rows per second with a round trip of 50 ms to the server, as to a hosted project, by number of concurrent uploads."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

from psycopg.conninfo import make_conninfo

from benchmarks.common import interleaved, machine, markdown, parse_options, ratios, server, shown, work_folder, write
from benchmarks.delay import far_away
from benchmarks.rate import NAMES, rate

CONTESTANTS = ("supabase_py", "ours_rest", "wire_limit", "ours_database", "bare_statement")


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(__doc__, latency=0.05, uploads=[1, 2, 4, 8], chunk=100, rows=4000)
    with work_folder() as folder, server(folder) as near:
        rest, database = urlsplit(near.url), urlsplit(near.db_url)
        with (
            far_away(rest.hostname or "", rest.port or 80, options.latency) as rest_port,
            far_away(database.hostname or "", database.port or 5432, options.latency) as database_port,
        ):
            far = replace(
                near,
                url=f"http://127.0.0.1:{rest_port}",
                db_url=make_conninfo(near.db_url, host="127.0.0.1", port=database_port),
            )
            runs = {
                f"{name}/{uploads}": partial(rate, far, name, options.chunk, uploads, options.rows)
                for name in CONTESTANTS
                for uploads in (options.uploads if name != "supabase_py" else options.uploads[:1])
            }
            found = interleaved(runs, options.repeat)
    rows, plot = [], dict[str, dict[str, float]]()
    for run, rates in found.items():
        name, _, uploads = run.partition("/")
        limit = f"{'bare_statement' if 'database' in name or 'bare' in name else 'wire_limit'}/{uploads}"
        rows.append([NAMES[name], uploads, shown(rates), f"{statistics.median(ratios(found, run, limit)):.2f}"])
        plot.setdefault(f"{uploads} at once", {})[NAMES[name]] = statistics.median(rates)
    table = markdown(["contestant", "at once", "rows per second: median (range)", "of the limit"], rows)
    print(table)
    if options.write:
        text = (
            f"{__doc__}\n{options.chunk} rows per request; {options.repeat} repetitions; {machine()}. The time "
            f"includes opening the connections: each takes two or more round trips.\n\n{table}"
        )
        write("latency", "Uploads at once, over a distance", text, plot, "rows per second (median)")


if __name__ == "__main__":
    main()
