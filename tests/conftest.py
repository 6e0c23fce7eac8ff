"""What every test may ask for."""

pytest_plugins = [
    "pytester",
    "tests.fix_local",
    "tests.fix_project",
    "tests.fix_crawl",
    "tests.fix_browser",
    "tests.fix_messages",
    "tests.fix_golden",
    "tests.fix_redis",
]
