"""What the Spidermon monitors say of stats as crawls leave them (tests/monitoring/test_monitors.py)."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scrapy.settings import Settings
from spidermon.data import Data

from scrapy_supabase.contrib.spidermon import SupabaseMonitor, SupabaseMonitorSuite
from tests.messages import Said

LONG_AGO = datetime.now(UTC) - timedelta(hours=1)
STATS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("The pipeline was not there", {}),
    ("The crawl was closed", {"finish_reason": "supabase_no_table", "supabase/received_count": 0}),
    (
        "Rows were rejected",
        {
            "supabase/received_count": 200,
            "supabase/received_count/books": 200,
            "supabase/failed_count": 3,
            "supabase/failed_count/books": 2,
            "supabase/failed_count/shops": 1,
        },
    ),
    (
        "One row, which was rejected",
        {"supabase/received_count": 1, "supabase/failed_count": 1, "supabase/failed_count/books": 1},
    ),
    (
        "Rows are left",
        {
            "supabase/received_count": 5,
            "supabase/spooled_count": 5,
            "supabase/spooled_count/books": 5,
        },
    ),
    (
        "One row is left, and waits since an hour",
        {
            "supabase/received_count": 1,
            "supabase/received_count/books": 1,
            "supabase/spooled_count": 1,
            "supabase/spooled_count/books": 1,
            "supabase/waiting_since": LONG_AGO,
        },
    ),
)


def failures(stats: Mapping[str, Any], spool: Path | None) -> list[str]:
    """What the monitors say of these stats."""
    settings = Settings(
        {
            "SUPABASE_URL": "https://abc.supabase.co",
            "SUPABASE_KEY": "sb_secret_x",
            "SUPABASE_TABLE": "books",
            "SUPABASE_SPOOL_DIR": spool and str(spool),
        }
    )
    data = Data({"stats": dict(stats), "crawler": SimpleNamespace(settings=settings)})
    found = []
    for kind in SupabaseMonitorSuite.monitors:
        assert issubclass(kind, SupabaseMonitor)
        (method,) = (name for name in vars(kind) if name.startswith("test_"))
        monitor = kind(methodName=method)
        monitor.data = data
        try:
            monitor.setUp()
            getattr(monitor, method)()
        except AssertionError as failed:
            found.append(f"AssertionError: {failed}")
    return found


@pytest.mark.parametrize(("how", "stats"), STATS, ids=[how for how, _ in STATS])
def test_monitors(said: Said, tmp_path: Path, how: str, stats: dict[str, Any]) -> None:
    """How many rows, of which table, where they are, what to type; with a spool and without one."""
    messages = [*failures(stats, tmp_path / "my spool"), *failures(stats, None)]
    said(how, [re.sub(r"(?<=for )\d+ s", "<seconds> s", message) for message in messages])


def test_all_is_well(tmp_path: Path) -> None:
    """Nothing is said."""
    assert failures({"supabase/received_count": 5, "supabase/uploaded_count": 5}, tmp_path) == []


def test_spidermon_is_not_installed(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    monkeypatch.setitem(sys.modules, "spidermon", None)
    monkeypatch.delitem(sys.modules, "scrapy_supabase.contrib.spidermon")
    with pytest.raises(ImportError) as raised:
        import_module("scrapy_supabase.contrib.spidermon")
    said("Monitors without Spidermon", f"ImportError: {raised.value}")
