"""What the benchmarks share: the server, the rows, runs in processes of their own, tables, plots."""

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
from collections.abc import Callable, Iterator, Mapping, Sequence
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


@dataclass(frozen=True)
class Server:
    """Where the contestants write to."""

    url: str
    key: str
    db_url: str

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run statements, each a transaction: together they can deadlock with autovacuum. The rows of the last."""
        with psycopg.connect(self.db_url, autocommit=True) as connection:
            for statement in filter(str.strip, sql.split(";")):
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """The server of `SUPABASE_TEST_URL`, `…_KEY` and `…_DB_URL`, else a local one that keeps its data in `folder`."""
    named = [os.environ.get(f"SUPABASE_TEST_{name}") for name in ("URL", "KEY", "DB_URL")]
    if all(named):
        yield Server(*map(str, named))
        return
    with LocalSupabase(folder / "stack") as stack:
        yield Server(stack.url, stack.service_role_key, stack.db_url)


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder that a server running as another user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def item(number: int) -> dict[str, Any]:
    """A row of 350 bytes."""
    return {
        "id": number,
        "url": f"https://example.com/p/{number}",
        "title": f"Product {number}",
        "price": 9.99,
        "stock": number % 9,
        "about": "x" * 230,
    }


def environment() -> dict[str, str]:
    """That of a run. A package installed by pip is compiled once; an editable one must be allowed to be."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def child(job: Mapping[str, Any], module: str = "benchmarks.contestants", python: str = sys.executable) -> Any:
    """Run `python -m module` with `job` on its standard input; the JSON of its last line."""
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
    runs: Mapping[str, Callable[[], T]], repeat: int, say: Callable[[str], object] = print
) -> dict[str, list[T]]:
    """Run each of `runs` once, then each a second time in the opposite order, and so on; the results of each."""
    found: dict[str, list[T]] = {name: [] for name in runs}
    for repetition in range(repeat):
        for name in list(runs) if repetition % 2 == 0 else reversed(list(runs)):
            found[name].append(runs[name]())
        say(f"repetition {repetition + 1} of {repeat}")
    return found


def ratios(found: Mapping[str, Sequence[float]], name: str, to: str) -> list[float]:
    """The ratio within each repetition: what disturbs one disturbs the other."""
    return [one / other for one, other in zip(found[name], found[to], strict=True)]


def shown(values: Sequence[float], form: str = ",.0f") -> str:
    """Median and range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def arguments(doc: str | None, *, repeat: int = 5) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=repeat, help=f"repetitions (default: {repeat})")
    parser.add_argument("--write", action="store_true", help="write table and plot to docs/benchmarks")
    return parser


def machine(*packages: str) -> str:
    """Machine, versions and date."""
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
    """A Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(name: str, title: str, text: str, plot: Mapping[str, Mapping[str, float]], axis: str) -> None:
    """Write docs/benchmarks/`name`.md, and a plot: group → contestant → value."""
    DOCS.mkdir(parents=True, exist_ok=True)
    (DOCS / f"{name}.md").write_text(f"# {title}\n\n{text}\n\n![{title}]({name}.svg)\n")
    _draw(DOCS / f"{name}.svg", plot, axis)


def _draw(path: Path, plot: Mapping[str, Mapping[str, float]], axis: str) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "scrapy-supabase"  # the same picture is the same file
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
