"""The benchmarks in their short form: each runs, says what it measures, and loses no row. Times are not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if "argument" in path.read_text() and path.stem not in ("common", "contestants")
)


def run(script: str, *options: str) -> str:
    """Run one as a person does; what it prints."""
    command = [sys.executable, "-m", f"benchmarks.{script}", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_says_what_it_measures(script: str) -> None:
    """`--help`."""
    assert "--repeat" in run(script, "--help")


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ("rate", ["--rows", "300", "--chunks", "100"], "| scrapy-supabase, database, rows encoded before | 100 rows |"),
        ("bad_rows", ["--rows", "400"], "396 of 396 good ones"),
        ("latency", ["--rows", "200", "--uploads", "2", "--latency", "0.005"], "| scrapy-supabase, REST | 2 |"),
        ("growth", ["--rows", "300"], "| database | 300 |"),
        ("crawl", ["--pages", "5", "--items", "200", "--latency", "0.005"], "p99"),
        ("item", ["--blocks", "2", "--block", "100"], "| items without a download, least |"),
    ],
)
def test_each_runs(script: str, options: list[str], said: str) -> None:
    """Once, with little; a row that did not arrive is an error there."""
    assert said in run(script, "--repeat", "1", *options)
