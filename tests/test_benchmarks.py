"""Short runs of the benchmarks: each prints its table and stores every row. Times are not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "parse_options" in path.read_text() and path.stem != "common"
)


def run(script: str, *options: str) -> str:
    """Run a benchmark from the command line; return its output."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_has_the_shared_options(script: str) -> None:
    """`--help` lists the options that all have."""
    shown = run(script, "--help")
    assert "--repeat" in shown
    assert "--write" in shown


def test_command_lines_are_parsed_in_one_place() -> None:
    """Only benchmarks/common.py builds a parser."""
    assert [path.stem for path in (ROOT / "benchmarks").glob("*.py") if "ArgumentParser" in path.read_text()] == [
        "common"
    ]


@pytest.mark.parametrize(
    ("script", "options", "printed"),
    [
        ("ways", ["--rows", "300", "--chunk", "100"], "| statement, database | 100 rows | stored rows |"),
        ("rate", ["--rows", "300", "--chunk", "100"], "| scrapy-supabase, database, rows encoded before | 100 rows |"),
        ("bad_rows", ["--rows", "400", "--items", "300", "--latency", "0.005"], "396 of 396 good ones"),
        ("latency", ["--rows", "200", "--uploads", "2", "--latency", "0.005"], "| scrapy-supabase, REST | 2 |"),
        ("growth", ["--rows", "300"], "| database | 300 |"),
        ("children", ["--items", "20"], "| items with children | database | with foreign key |"),
        ("crawl", ["--kind", "torrent", "--items", "200", "--latency", "0.005"], "p99"),
        ("load", ["--rows", "300", "--chunk", "100", "--only", "limit"], "of the limit"),
        ("skip_stored", ["--rows", "300"], "| database | with a query |"),
        ("gateway", ["--rows", "400", "--chunk", "100"], "| gateway |"),
        ("spool", ["--items", "200", "--outage", "100"], "| 100 |"),
        ("item", ["--blocks", "2", "--block", "100"], "| items without a download, least |"),
    ],
)
def test_every_benchmark_runs(script: str, options: list[str], printed: str) -> None:
    """Run one repetition with few rows; the benchmarks fail if a row is missing."""
    assert printed in run(script, "--repeat", "1", *options)
