"""Shared parts of the benchmarks: command line, server, rows, child processes, tables and plots."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from scrapy_supabase.local import LocalSupabase

T = TypeVar("T")
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "benchmarks"
TABLE = """
create table if not exists bench (
  id bigint primary key, url text, title text, price numeric, stock int, about text
);
grant all on bench to service_role; truncate bench;
"""


OPTIONS = {
    "rows": "rows per run; contestants that are slow get fewer",
    "items": "items per crawl without downloads; contestants that are slow get fewer",
    "pages": "pages per crawl with downloads, 10 items each",
    "chunk": "rows per request",
    "uploads": "concurrent uploads",
    "latency": "round trip to the distant server in seconds",
    "turn": "seconds that one crawl runs while the others are stopped",
    "blocks": "blocks of items per pipeline and crawl",
    "block": "items per block, a multiple of 100",
    "outage": "items per crawl to an unreachable server",
    "only": "contestants to run",
    "kind": "kinds of crawl to run",
}
"""Option → its help text: one name and one meaning in all benchmarks."""


@dataclass(frozen=True)
class Server:
    """Addresses and key of the server that the contestants write to."""

    url: str
    key: str
    db_url: str

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run statements and return the rows of the last.

        Each statement is its own transaction: a transaction of all could deadlock with autovacuum.
        """
        with psycopg.connect(self.db_url, autocommit=True) as connection:
            for statement in filter(str.strip, sql.split(";")):
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Yield the server of `SUPABASE_TEST_URL`, `…_KEY` and `…_DB_URL`, else a local one with its data in `folder`."""
    configured = [os.environ.get(f"SUPABASE_TEST_{name}") for name in ("URL", "KEY", "DB_URL")]
    if all(configured):
        yield Server(*map(str, configured))
        return
    with LocalSupabase(folder / "stack") as stack:
        yield Server(stack.url, stack.service_role_key, stack.db_url)


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Yield a temporary folder that other users can enter, because PostgreSQL may run as one of them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def item(number: int) -> dict[str, Any]:
    """Return a row of about 350 bytes of JSON, with `number` as its id."""
    return {
        "id": number,
        "url": f"https://example.com/p/{number}",
        "title": f"Product {number}",
        "price": 9.99,
        "stock": number % 9,
        "about": "x" * 230,
    }


def environment() -> dict[str, str]:
    """Return the environment for a child process. It may write bytecode, as pip does when it installs a package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def child(job: Mapping[str, Any], module: str = "benchmarks.contestants", python: str = sys.executable) -> Any:
    """Run `python -m module` with `job` as JSON on standard input; return the JSON of its last line of output."""
    done = subprocess.run(
        [python, "-m", module],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment(),
    )
    if done.returncode:
        raise RuntimeError(f"{job}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def interleaved(
    runs: Mapping[str, Callable[[], T]], repeat: int, report: Callable[[str], object] = print
) -> dict[str, list[T]]:
    """Call all `runs` `repeat` times, in alternating order; return the results of each."""
    found: dict[str, list[T]] = {name: [] for name in runs}
    for repetition in range(repeat):
        for name in list(runs) if repetition % 2 == 0 else reversed(list(runs)):
            found[name].append(runs[name]())
        report(f"repetition {repetition + 1} of {repeat}")
    return found


def ratios(found: Mapping[str, Sequence[float]], name: str, to: str) -> list[float]:
    """Return the ratio of `name` to `to` within each repetition: other load on the machine slows down both."""
    return [one / other for one, other in zip(found[name], found[to], strict=True)]


def shown(values: Sequence[float], form: str = ",.0f") -> str:
    """Return median and range as text."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def parse_options(
    doc: str | None, *, repeat: int = 5, choices: Mapping[str, Collection[str]] | None = None, **defaults: Any
) -> argparse.Namespace:
    """Parse a benchmark's command line: `--repeat`, `--write`, and an option for each of `defaults`.

    `defaults` maps names of `OPTIONS` to default values; an option whose default is a list takes several values.
    `choices` maps option names to allowed values.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=repeat, help=f"repetitions (default: {repeat})")
    parser.add_argument("--write", action="store_true", help="write table and plot to docs/benchmarks")
    for name, default in defaults.items():
        values = default if isinstance(default, list) else [default]
        parser.add_argument(
            f"--{name}",
            type=type(values[0]),
            nargs="+" if isinstance(default, list) else None,
            default=default,
            choices=(choices or {}).get(name),
            help=f"{OPTIONS[name]} (default: {' '.join(map(str, values))})",
        )
    return parser.parse_args()


def machine(*packages: str) -> str:
    """Return date, machine and versions as text."""
    versions = []
    for name in ("scrapy-supabase", "scrapy", "psycopg", "supabase", *packages):
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    cpus = os.cpu_count()
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {cpus} cores shared with the server, "
        f"Python {platform.python_version()}, {', '.join(versions)}"
    )


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(name: str, title: str, text: str, plot: Mapping[str, Mapping[str, float]], axis: str) -> None:
    """Write docs/benchmarks/`name`.md and its plot. `plot` maps group → contestant → value."""
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / f"{name}.md").write_text(f"# {title}\n\n{text}\n\n![{title}]({name}.svg)\n")
    _draw(DOCS / f"{name}.svg", plot, axis)


def _draw(path: Path, plot: Mapping[str, Mapping[str, float]], axis: str) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scrapy-supabase"  # the same plot gives the same file
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(name for values in plot.values() for name in values))
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(names) * len(plot) + 1.2), layout="constrained")
    at = 0.0
    ticks: list[tuple[float, str]] = []
    for group, values in plot.items():
        for name, value in values.items():
            bars = axes.barh(at, value, color=f"C{names.index(name) % 10}", height=0.8)
            axes.bar_label(bars, [f"{value:,.0f}" if value >= 100 else f"{value:.3g}"], padding=3, fontsize=8)
            ticks.append((at, f"{name}, {group}" if group else name))
            at += 1
        at += 0.6
    axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks], fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(axis)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
