"""Rows per second: common hand-written pipelines, this package over REST and database connections, and the limits.

Rows of 350 bytes go into a table with a primary key. Each run is a process of its own; the contestants take turns.
"""

from __future__ import annotations

import statistics
from functools import partial

from benchmarks.common import (
    TABLE,
    Server,
    child,
    interleaved,
    machine,
    markdown,
    parse_options,
    ratios,
    server,
    shown,
    work_folder,
    write,
)

ROWS = {"row_by_row": 1500, "before": 5000, "after": 10_000, "supabase_py": 20_000}
NAMES = {
    "row_by_row": "one insert per item (supabase-py)",
    "before": 'chunks of 50, checked each ("before")',
    "after": 'chunks of 100, checked once ("after")',
    "supabase_py": "supabase-py upsert, one thread",
    "ours_rest": "scrapy-supabase, REST",
    "ours_rest_encoded": "scrapy-supabase, REST, rows encoded before",
    "wire_limit": "wire limit: bodies made before, http.client",
    "ours_database": "scrapy-supabase, database",
    "ours_database_encoded": "scrapy-supabase, database, rows encoded before",
    "bare_statement": "the statement in a psycopg loop, bodies made before",
    "copy_then_upsert": "COPY, temporary table, upsert, lines made before",
    "copy": "COPY (no conflicts), lines made before",
    "copy_of_json": "COPY (no conflicts) of JSON rows",
}
SIZED = [name for name in NAMES if name not in ("row_by_row", "before", "after")]


def rate(to: Server, name: str, chunk: int, uploads: int, rows: int) -> float:
    """Upload `rows` once and return rows per second. Raises `RuntimeError` unless all are stored."""
    to.run(TABLE)
    job = {"contestant": name, "count": rows, "chunk": chunk, "uploads": uploads}
    seconds: float = child({**job, "url": to.url, "key": to.key, "db_url": to.db_url})["seconds"]
    ((stored,),) = to.run("select count(*) from bench")
    if stored != rows:
        raise RuntimeError(f"{name}: {stored} of {rows} rows stored")
    return rows / seconds


def main() -> None:
    """Measure and print; with `--write`, update the docs."""
    options = parse_options(
        __doc__,
        choices={"only": NAMES},
        chunk=[10, 100, 500, 1000],
        uploads=4,
        rows=60_000,
        only=list(NAMES),
    )
    with work_folder() as folder, server(folder) as to:
        runs = {}
        for name in options.only:
            for chunk in options.chunk if name in SIZED else [0]:
                rows = min(ROWS.get(name, options.rows), 1000 * chunk or options.rows)
                runs[f"{name}/{chunk}"] = partial(rate, to, name, chunk, options.uploads, rows)
        found = interleaved(runs, options.repeat)
    shown_rates: list[list[str]] = []
    plot: dict[str, dict[str, float]] = {}
    for run, rates in found.items():
        name, _, chunk = run.partition("/")
        where = f"{chunk} rows" if int(chunk) else ""
        limit = "bare_statement" if "database" in name or "copy" in name else "wire_limit"
        to_limit = f"{statistics.median(ratios(found, run, key)):.2f}" if (key := f"{limit}/{chunk}") in found else ""
        shown_rates.append([NAMES[name], where, shown(rates), to_limit])
        plot.setdefault(where, {})[NAMES[name]] = statistics.median(rates)
    table = markdown(["contestant", "per request", "rows per second: median (range)", "of the limit"], shown_rates)
    compared = [
        ("ours_rest/100", "row_by_row/0"),
        ("ours_rest/100", "before/0"),
        ("ours_rest/100", "after/0"),
        *((f"ours_rest/{n}", f"supabase_py/{n}") for n in options.chunk),
        *((f"ours_rest_encoded/{n}", f"wire_limit/{n}") for n in options.chunk),
        *((f"ours_database_encoded/{n}", f"bare_statement/{n}") for n in options.chunk),
        *((f"ours_database_encoded/{n}", f"copy_then_upsert/{n}") for n in options.chunk),
        *((f"ours_database/{n}", f"copy_then_upsert/{n}") for n in options.chunk),
        *((f"ours_database/{n}", f"ours_rest/{n}") for n in options.chunk),
        *((f"ours_database_encoded/{n}", f"ours_rest_encoded/{n}") for n in options.chunk),
    ]
    lines = [
        [f"{NAMES[one.partition('/')[0]]}, {one.partition('/')[2]}", NAMES[other.partition("/")[0]],
         shown(ratios(found, one, other), ".2f")]
        for one, other in compared
        if one in found and other in found
    ]  # fmt: skip
    second = markdown(["", "compared with", "ratio: median (range)"], lines)
    print(table, second, sep="\n\n")
    if options.write:
        text = (
            f"{__doc__}\n{options.uploads} concurrent uploads if the contestant supports them; {options.repeat} "
            f"repetitions; {machine()}.\n\n{table}\n\nRatios within a repetition:\n\n{second}"
        )
        write("rate", "Upload rate", text, plot, "rows per second (median)")


if __name__ == "__main__":
    main()
