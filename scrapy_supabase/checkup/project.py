"""What is on this side: is the pipeline switched on, is there room for rows that wait, and what waits already."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scrapy_supabase.addon import Addon
from scrapy_supabase.backends.base import Backend, Write
from scrapy_supabase.checkup.finding import Finding, error, ok, warning
from scrapy_supabase.errors import ServerError, TransientError
from scrapy_supabase.messages import outdated_rows, pluralize, replay_command
from scrapy_supabase.middleware import UrlStampMiddleware
from scrapy_supabase.models import Mode
from scrapy_supabase.monitoring.run import LEDGER_COLUMNS, NEXT_VERSION
from scrapy_supabase.pipeline import SupabasePipeline
from scrapy_supabase.settings.components import components
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.tables import SNAPSHOT_VERSION, uses_url_stamp
from scrapy_supabase.spool.recovery import runs_noted
from scrapy_supabase.spool.reject_file import REJECTED
from scrapy_supabase.spool.replay import chunks_in, outdated, rejects_in

_SWITCH_ON = "Add to the settings: ADDONS = {'scrapy_supabase.Addon': 300}"


def check_switched_on(settings: Any) -> Iterator[Finding]:
    """Whether a crawl of the project would use the pipeline at all."""
    addon = any(issubclass(one, Addon) for one in components(settings, "ADDONS"))
    if not addon and not any(issubclass(one, SupabasePipeline) for one in components(settings, "ITEM_PIPELINES")):
        yield error("settings", "the pipeline is in neither ADDONS nor ITEM_PIPELINES: nothing is uploaded", _SWITCH_ON)
        return
    yield ok("settings", f"the pipeline is switched on by {'ADDONS' if addon else 'ITEM_PIPELINES'}")
    middlewares = components(settings, "SPIDER_MIDDLEWARES")
    if uses_url_stamp(settings) and not addon and not any(issubclass(one, UrlStampMiddleware) for one in middlewares):
        yield error(
            "settings",
            "the stamp 'url' needs a spider middleware that is not switched on",
            "Set SPIDER_MIDDLEWARES = {'scrapy_supabase.UrlStampMiddleware': 950}, or use ADDONS.",
        )


def check_spool(config: Config) -> Iterator[Finding]:
    """Whether rows can wait on disk, and what earlier crawls left there."""
    folder = config.spool.folder
    if folder is None:
        yield warning(
            "spool",
            "there is none (SUPABASE_SPOOL_DIR is None): what is not uploaded is lost when the process ends",
            "Set SUPABASE_SPOOL_DIR to a folder, or leave it out.",
        )
        return
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK) or not nearest.is_dir():
        yield error(
            "spool",
            f"{folder} cannot be written",
            "Set SUPABASE_SPOOL_DIR to a folder that can, or give this one to the user the crawl runs as.",
        )
        return
    yield ok("spool", f"{folder} can be written")
    yield from _left(folder)


def _left(folder: Path) -> Iterator[Finding]:
    found = [one for one in chunks_in(folder) if not one.alive]
    old = outdated(found, runs_noted(folder))
    if waiting := sum(one.rows for one in found) - old.total():
        yield warning(
            "spool",
            f"{pluralize(waiting, 'row')} of earlier crawls not uploaded, kept in {folder} for the next crawl",
            f"To upload them now, run: {replay_command(folder)}",
        )
    if old:
        yield warning("spool", *outdated_rows(old, folder))
    if rejected := sum(one.rows for one in rejects_in(folder)):
        yield warning(
            "spool",
            f"{pluralize(rejected, 'row')} of earlier crawls rejected, with the reasons in {folder / REJECTED}",
            f"After fixing the table or the rows, run: {replay_command(folder, '--rejected')}",
        )


def check_run(config: Config, backend: Backend) -> Iterator[Finding]:
    """What a run asks of the database beside its tables: a snapshot's version, the ledger's row. Takes neither."""
    if any(SNAPSHOT_VERSION in spec.stamps.values() for spec in config.tables.specs.values()):
        try:
            backend.call(NEXT_VERSION, {"tables": [], "day": "2000-01-01"})
        except TransientError:
            raise
        except ServerError as failed:
            yield error(
                "snapshots",
                f"the function {NEXT_VERSION}(tables text[], day date) cannot be called: {failed.answer}",
                "For the SQL that makes it, run: scrapy supabase ddl --snapshots",
            )
        else:
            yield ok("snapshots", f"the function {NEXT_VERSION} is there")
    if config.tables.runs_table:
        try:
            backend.write(Write(config.tables.runs_table, LEDGER_COLUMNS, b"[]", Mode.UPSERT, ("run_id",)))
        except TransientError:
            raise
        except ServerError as failed:
            yield error(
                "ledger",
                f"table {config.tables.runs_table} (SUPABASE_RUNS_TABLE) takes no row: {failed.answer}",
                f"For the SQL that makes it, run: scrapy supabase ddl --runs {shlex.quote(config.tables.runs_table)}",
            )
        else:
            yield ok("ledger", f"table {config.tables.runs_table} takes the row of a run")
