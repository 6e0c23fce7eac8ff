"""Settings. `SUPABASE_URL` and `SUPABASE_KEY` come from the environment; without them, a local Supabase is used."""

import logging
import os
from pathlib import Path

BOT_NAME = "stdlib_docs"
SPIDER_MODULES = ["stdlib_docs.spiders"]
ADDONS = {"scrapy_supabase.Addon": 300}

SUPABASE_URL = os.environ.get("SUPABASE_URL", "local")
if SUPABASE_URL == "local":  # elsewhere, run them yourself
    SUPABASE_MIGRATIONS = Path(__file__).parents[2] / "migrations"

SUPABASE_TABLES = {
    "stdlib_docs.items.Module": "modules",
    "stdlib_docs.items.Symbol": "symbols",
    "stdlib_docs.items.Quote": {
        "table": "quotes",
        "on_conflict": ["author", "text", "collected_at_hour"],  # once an hour, see migrations/005
        "stamps": {"collected_at": "now", "collected_at_hour": "hour"},
        "snapshots": False,
    },
}
SUPABASE_STAMPS = {"collected_at": "now"}
SUPABASE_DAILY_SNAPSHOTS = True  # the rows of every run are kept, see migrations/006
SUPABASE_RUNS_TABLE = "scrapy_runs"  # one row per crawl, see migrations/009

if "REDIS_URL" in os.environ:  # several workers with one queue, for `quotes`: deploy/compose.yaml
    REDIS_URL = os.environ["REDIS_URL"]
    SCHEDULER = "scrapy_supabase.contrib.redis.LeaseScheduler"
    DUPEFILTER_CLASS = "scrapy_redis.dupefilter.RFPDupeFilter"

LOG_LEVEL = "INFO"
ROBOTSTXT_OBEY = False
TELNETCONSOLE_ENABLED = False
REMOTE_CONTROL_ENABLED = False  # it writes to the home folder; a container may have none

# The log has the lines of pipeline and spider, and the stats. Scrapy's lists of its components are left out.
for name in ("addons", "core.engine", "crawler", "middleware", "utils.log"):
    logging.getLogger(f"scrapy.{name}").addFilter(lambda record: record.levelno > logging.INFO)
