"""scrapy supabase replay: upload rows that crawls left in the spool; with --rejected, also rejected rows.

Uploads the oldest rows first, as a crawl does. The exit code is 0 only if none
of the selected rows is left; Ctrl-C leaves the rest in the spool.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scrapy_supabase.assembly import find_server, new_schema
from scrapy_supabase.commands.progress import print_summary, progress_bar
from scrapy_supabase.commands.results import table as as_table
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import choose_mode, outdated_rows, pluralize, replay_command, rows_by_table, same_project
from scrapy_supabase.models import Mode
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.script import Upload
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.explicit import config_of_command
from scrapy_supabase.spool.access import exists, readable
from scrapy_supabase.spool.chunk_file import Header
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.later_runs import notes_for_replay
from scrapy_supabase.spool.reject_file import REJECTED
from scrapy_supabase.spool.replay import Found, chunks_in, outdated, rejects_in, requeue_rejects
from scrapy_supabase.spool.run_folders import is_run

WHEN_REFUSED = "No row was uploaded; the spool is unchanged."
WHEN_INTERRUPTED = "Rows that are not uploaded stay in the spool. Run the command again to upload them."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", nargs="?", metavar="PATH", help="spool folder, or the folder of one run in it")
    parser.add_argument(
        "--rejected", action="store_true", help=f"also upload the rows of {REJECTED}, after you fixed them or the table"
    )
    parser.add_argument("--table", metavar="NAME", help="only rows of this table")
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        help="what happens to existing rows: upsert updates them, ignore keeps them, insert rejects the new rows "
        "(default: the crawl's mode)",
    )
    parser.add_argument(
        "--project",
        metavar="NAME",
        help="rows of the project NAME instead of those of the settings' project, if both names mean one database",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the rows that would be uploaded")


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Upload the selected rows and return the exit code."""
    if opts.dry_run:
        config = Config.from_settings(settings, _offline(), tables=False)
        folder, only = _folders(config, opts.path)
        found = _selected(folder, only, opts)
        return _list(found if opts.project is None else _of_project(found, opts.project, folder))
    config = Config.from_settings(settings, tables=False)
    folder, only = _folders(config, opts.path)
    found = _selected(folder, only, opts)
    host = config.server.host
    if opts.project is None:
        mine = [one for one in found if one.header.project == host]
        for project, rows in _rows_by_project(one for one in found if one.header.project != host).items():
            skipped = pluralize(rows, "row")
            print(
                f"Skipped: {skipped} of another project, {project or 'unknown'}; the settings name {host}. "
                f"{same_project(project, folder, *_options(opts))}"
            )
    else:
        mine = _of_project(found, opts.project, folder)
    if alive := sum(one.rows for one in mine if one.alive):
        print(f"Skipped: {pluralize(alive, 'row')} of running crawls.")
    mine = [one for one in mine if not one.alive]
    if not mine:
        print(f"Nothing to upload in {folder}.")
        _mention_rejects(folder, opts)
        return 0
    if opts.mode is None and (old := outdated(mine, notes_for_replay(folder, config.spool.folder), host)):
        raise ConfigurationError(
            f"Nothing was uploaded: {rows_by_table(old)} may be older than the stored rows, because a later run stored "
            f"rows in the same table. {choose_mode(folder / (only or ''), *_options(opts))}"
        )
    return _upload(config, folder, only, opts, sum(one.rows for one in mine if not one.problem))


def _options(opts: argparse.Namespace) -> list[str]:
    """Return the options that select rows, as they are typed."""
    options = ["--rejected"] if opts.rejected else []
    for name in ("table", "project"):
        if (value := getattr(opts, name)) is not None:
            options += [f"--{name}", value]
    return options


def _offline() -> dict[str, str]:
    """Return an environment for a command that needs the spool and no server."""
    spool = os.environ.get("SUPABASE_SPOOL_DIR", "")
    return {"SUPABASE_URL": "local", "SUPABASE_KEY": "-", "SUPABASE_SPOOL_DIR": spool}


def _upload(config: Config, folder: Path, only: str | None, opts: argparse.Namespace, total: int) -> int:
    host = config.server.host
    project = host if opts.project is None else opts.project
    config, stack = find_server(config)
    try:
        config = config_of_command(config)
        run, schema = Run("replay"), new_schema(config)
        spool = DiskSpool(folder, run.folder, schema, {"run": run.id, "spider": "replay", "project": host})
        mode = Mode(opts.mode) if opts.mode else None

        def is_selected(path: Path, header: Header) -> bool:
            return opts.table in (None, header.table) and only in (None, path.parent.name)

        recovered = spool.recover(is_selected, mode=mode, project=project)
        kept: Counter[str] = Counter()
        if opts.rejected:
            requeued = requeue_rejects(
                spool,
                lambda header: header.project == project and opts.table in (None, header.table),
                config.upload.chunk_rows,
            )
            # Rejected rows are usually older; if stored rows are kept, the newest go first.
            both = (recovered, requeued.chunks[::-1]) if mode is Mode.IGNORE else (requeued.chunks, recovered)
            recovered, kept = spool.numbered(*both), requeued.kept
        with (
            progress_bar("replay", total, " rows") as bar,
            Upload(config, run, schema, spool, recovered=recovered, progress=bar.update) as upload,
        ):
            upload.begin()
            upload.finish()
    finally:
        if stack is not None:
            stack.stop()
    for problem, number in (+kept).items():
        print(f"Left in {folder / REJECTED}: {pluralize(number, 'line')} {problem}.", file=sys.stderr)
    result = upload.result
    print_summary(result, folder, upload.examples)
    if spool.outdated:  # by a crawl that started meanwhile
        print(". ".join(outdated_rows(spool.outdated, folder)), file=sys.stderr)
    _mention_rejects(folder, opts)
    return 0 if result and not kept.total() and not spool.outdated else 1


def _folders(config: Config, path: str | None) -> tuple[Path, str | None]:
    """Return the spool's folder, and the name of the run's folder if PATH is one."""
    folder = Path(path) if path else config.spool.folder
    if folder is None:
        raise ConfigurationError(
            "There is no spool: SUPABASE_SPOOL_DIR is None. Name a folder: scrapy supabase replay FOLDER"
        )
    with readable(folder):
        if path and not (exists(folder) and folder.is_dir()):
            raise ConfigurationError(
                f"{path} is not a folder. Name a spool (default: .scrapy/supabase) or a run's folder in it."
            )
        folder = folder.resolve()
        return (folder.parent, folder.name) if is_run(folder) else (folder, None)


def _selected(folder: Path, only: str | None, opts: argparse.Namespace) -> list[Found]:
    found = [one for one in chunks_in(folder) if only in (None, one.path.parent.name)]
    rejects = rejects_in(folder) if opts.rejected else []
    return [one for one in (*found, *rejects) if opts.table in (None, one.header.table)]


def _of_project(found: list[Found], project: str, folder: Path) -> list[Found]:
    """Return the rows of a project. Raises `ConfigurationError` if there are none, with the projects that have some."""
    chosen = [one for one in found if one.header.project == project]
    if chosen:
        return chosen
    there = [f"{name or '(none)'} ({pluralize(rows, 'row')})" for name, rows in _rows_by_project(found).items()]
    raise ConfigurationError(
        f"There are no rows of the project {project!r} in {folder}. Projects with rows there: "
        f"{', '.join(there) or 'none'}."
    )


def _rows_by_project(found: Iterable[Found]) -> Counter[str]:
    rows: Counter[str] = Counter()
    for one in found:
        rows[one.header.project] += one.rows
    return rows


def _list(found: list[Found]) -> int:
    counts: Counter[tuple[str, ...]] = Counter()
    for one in found:
        header = one.header
        state = "unedited" if one.problem else "rejected" if one.code else "running" if one.alive else "left"
        key = ", ".join(header.key)
        kind = (header.opened[:10], header.run[:8], header.spider, header.table, header.mode, key, state, one.code)
        counts[kind] += one.rows
    rows = [[*kind, str(number)] for kind, number in counts.items()]
    print(as_table(["scraped", "run", "spider", "table", "mode", "key", "state", "code", "rows"], rows))
    print(f"({pluralize(sum(counts.values()), 'row')})")
    return 0


def _mention_rejects(folder: Path, opts: argparse.Namespace) -> None:
    number = sum(one.rows for one in rejects_in(folder))
    if number and not opts.rejected:
        rows, again = pluralize(number, "rejected row"), replay_command(folder, "--rejected")
        print(f"In {folder / REJECTED}: {rows}. After fixing the table or the rows, run: {again}")
