"""One row in a hundred is not acceptable: what is stored, and how fast. 20,000 rows, two hundred of them bad.

A chunk is one transaction: who does not search for the bad row loses the ninety-nine good ones with it.
"""

from __future__ import annotations

from functools import partial

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
from benchmarks.rate import NAMES

CONTESTANTS = ("before", "after", "ours_rest", "ours_database")


def run(to: Server, name: str, rows: int, stored: dict[str, int]) -> float:
    """Good rows stored a second."""
    to.run(TABLE)
    job = {"contestant": name, "count": rows, "chunk": 100, "uploads": 4, "bad": 100}
    seconds: float = child({**job, "url": to.url, "key": to.key, "db_url": to.db_url})["seconds"]
    ((stored[name],),) = to.run("select count(*) from bench")
    return rows / seconds


def main() -> None:
    """Measure, print, and write where asked to."""
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=20_000, help="default: 20000")
    options = parser.parse_args()
    stored: dict[str, int] = {}
    with work_folder() as folder, server(folder) as to:
        runs = {name: partial(run, to, name, options.rows, stored) for name in CONTESTANTS}
        found = interleaved(runs, options.repeat)
    good = options.rows - options.rows // 100
    rows = [[NAMES[name], shown(rates), f"{stored[name]:,} of {good:,} good ones"] for name, rates in found.items()]
    table = markdown(["contestant", "rows read a second: median (range)", "stored"], rows)
    print(table)
    if options.write:
        text = f"{__doc__}\n{options.repeat} repetitions; {machine()}.\n\n{table}"
        plot = {"": {NAMES[name]: 100.0 * stored[name] / good for name in found}}
        write("bad_rows", "One bad row in a hundred", text, plot, "good rows stored, per cent")


if __name__ == "__main__":
    main()
