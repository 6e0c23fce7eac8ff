"""Checks of the project: is the pipeline enabled, is the spool writable, which rows are in it, does the ledger work."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scrapy_supabase.addon import Addon
from scrapy_supabase.backends.base import Backend, Write
from scrapy_supabase.checkup.finding import Finding, error, ok, warning
from scrapy_supabase.errors import ConfigurationError, SchemaDriftError, ServerError, TransientError
from scrapy_supabase.messages import choose_mode, other_project, outdated_rows, pluralize, replay_command
from scrapy_supabase.middleware import SkipStoredMiddleware, UrlStampMiddleware
from scrapy_supabase.models import Mode
from scrapy_supabase.monitoring.ledger import LAST_SEEN, LEDGER_COLUMNS
from scrapy_supabase.monitoring.run import NEXT_VERSION
from scrapy_supabase.pipeline import SupabasePipeline
from scrapy_supabase.settings.components import components
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.skip_stored import skips_stored
from scrapy_supabase.settings.tables import SNAPSHOT_VERSION, uses_url_stamp
from scrapy_supabase.spool.access import nearest_visible, other_owner, owner_remedy
from scrapy_supabase.spool.chunk_file import cannot_read
from scrapy_supabase.spool.reject_file import REJECTED
from scrapy_supabase.spool.replay import chunks_in, outdated, rejects_in
from scrapy_supabase.spool.run_folders import runs_noted

_ENABLE = "Add to the settings: ADDONS = {'scrapy_supabase.Addon': 300}"


def check_enabled(settings: Any) -> Iterator[Finding]:
    """Check that crawls of the project use the pipeline, and the middlewares that the settings need."""
    addon = any(issubclass(one, Addon) for one in components(settings, "ADDONS"))
    if not addon and not any(issubclass(one, SupabasePipeline) for one in components(settings, "ITEM_PIPELINES")):
        yield error("settings", "the pipeline is in neither ADDONS nor ITEM_PIPELINES: nothing is uploaded", _ENABLE)
        return
    yield ok("settings", f"the pipeline is enabled by {'ADDONS' if addon else 'ITEM_PIPELINES'}")
    middlewares = () if addon else components(settings, "SPIDER_MIDDLEWARES")
    for needed, what, middleware, place in (
        (uses_url_stamp(settings), "the stamp 'url'", UrlStampMiddleware, 950),
        (skips_stored(settings), "SUPABASE_SKIP_STORED", SkipStoredMiddleware, 100),
    ):
        if needed and not addon and not any(issubclass(one, middleware) for one in middlewares):
            yield error(
                "settings",
                f"{what} needs a spider middleware that is not enabled",
                f"Set SPIDER_MIDDLEWARES = {{'scrapy_supabase.{middleware.__name__}': {place}}}, or use ADDONS.",
            )


def check_spool(config: Config) -> Iterator[Finding]:
    """Check that the spool is writable, and list the rows that earlier crawls left in it."""
    folder = config.spool.folder
    if folder is None:
        yield warning(
            "spool",
            "there is none (SUPABASE_SPOOL_DIR is None): rows that are not uploaded are lost when the process ends",
            "Set SUPABASE_SPOOL_DIR to a folder, or remove the setting.",
        )
        return
    nearest = nearest_visible(folder)
    if not os.access(nearest, os.W_OK | os.X_OK) or not nearest.is_dir():
        yield error(
            "spool",
            f"{folder} is not writable",
            other_owner(folder, nearest)
            or "Set SUPABASE_SPOOL_DIR to a writable folder, or make this one writable for the user that runs the "
            "crawl.",
        )
        return
    try:
        left = list(_left(folder, config.server.host))
    except ConfigurationError as failed:
        yield error("spool", str(failed), "")
        return
    yield ok("spool", f"{folder} is writable")
    yield from left


def _left(folder: Path, project: str) -> Iterator[Finding]:
    closed: list[Finding] = []

    def note(run: Path, failed: PermissionError) -> None:
        remedy = owner_remedy(run, failed)
        closed.append(warning("spool", cannot_read(run, failed).removesuffix(remedy).rstrip(), remedy))

    dead = [one for one in chunks_in(folder, note) if not one.alive]
    yield from closed
    found = [one for one in dead if one.header.project == project]
    old = outdated(found, runs_noted(folder), project)
    if waiting := sum(one.rows for one in found) - old.total():
        yield warning(
            "spool",
            f"{pluralize(waiting, 'row')} of earlier crawls not uploaded, kept in {folder} for the next crawl",
            f"To upload them now, run: {replay_command(folder)}",
        )
    if old:
        yield warning("spool", *outdated_rows(old, folder))
    for other in sorted({one.header.project for one in dead} - {project}):
        rows = [one.rows for one in dead if one.header.project == other]
        yield warning("spool", *other_project(len(rows), sum(rows), other, project, folder))
    rejects = rejects_in(folder)
    if rejected := sum(one.rows for one in rejects):
        remedy = f"After fixing the table or the rows, run: {replay_command(folder, '--rejected')}"
        if outdated((one for one in rejects if one.header.project == project), runs_noted(folder), project):
            remedy = f"First fix the table or the rows. {choose_mode(folder, '--rejected')}"
        text = f"{pluralize(rejected, 'row')} of earlier crawls rejected, with the reasons in {folder / REJECTED}"
        yield warning("spool", text, remedy)


def check_run(config: Config, backend: Backend) -> Iterator[Finding]:
    """Check the snapshot function and the ledger table, without taking a version or storing a row."""
    if any(SNAPSHOT_VERSION in spec.stamps.values() for spec in config.tables.specs.values()):
        try:
            backend.call(NEXT_VERSION, {"tables": [], "day": "2000-01-01"})
        except TransientError:
            raise
        except ServerError as failed:
            yield error(
                "snapshots",
                f"the function {NEXT_VERSION}(tables text[], day date) cannot be called: {failed.answer}",
                "For the SQL that creates it, run: scrapy supabase ddl --snapshots",
            )
        else:
            yield ok("snapshots", f"the function {NEXT_VERSION} exists")
    if config.tables.runs_table:
        yield _check_ledger(backend, config.tables.runs_table)


def _check_ledger(backend: Backend, table: str) -> Finding:
    """Check that the ledger takes rows of runs. Raises `TransientError`."""
    ddl = f"run: scrapy supabase ddl --runs {shlex.quote(table)}"
    found = ok("ledger", f"table {table} accepts rows of runs")
    columns = LEDGER_COLUMNS
    while True:
        try:
            backend.write(Write(table, columns, b"[]", Mode.UPSERT, ("run_id",)))
        except TransientError:
            raise
        except ServerError as failed:
            if isinstance(failed, SchemaDriftError) and failed.column == LAST_SEEN and LAST_SEEN in columns:
                columns = tuple(column for column in columns if column != LAST_SEEN)
                problem = f"table {table} has no column {LAST_SEEN}: a killed crawl looks like one that runs"
                found = warning("ledger", problem, f"For the SQL that adds it, {ddl}")
                continue
            problem = f"table {table} (SUPABASE_RUNS_TABLE) refuses rows of runs: {failed.answer}"
            return error("ledger", problem, f"For the SQL that creates it, {ddl}")
        return found
