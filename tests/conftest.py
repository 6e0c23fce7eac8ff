"""What every test may ask for, and which tests may run at the same time."""

from __future__ import annotations

import pytest

pytest_plugins = [
    "pytester",
    "tests.fix_local",
    "tests.fix_project",
    "tests.fix_crawl",
    "tests.fix_browser",
    "tests.fix_messages",
    "tests.fix_golden",
    "tests.fix_redis",
    "tests.fix_bouncer",
]

# Long files whose tests share nothing: they run on whichever process is free. The tests of any other file run one after
# the other on one process (`--dist loadgroup`).
SPREAD = {
    *("test_benchmarks", "test_children", "test_crawl", "test_docs_code", "test_recovery", "test_replay"),
    *("test_contract", "test_worst_day", "test_write_options", "test_messages_crawl", "test_mixed"),
}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests by file."""
    for item in items:
        if item.path.stem not in SPREAD:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
