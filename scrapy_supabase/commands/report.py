"""scrapy supabase report: write an HTML page about the last crawl.

One self-contained file, to be opened in a browser: counts of rows, upload
rate, reasons of rejected rows, and what to do. It also covers crawls that
failed or were killed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import reason
from scrapy_supabase.monitoring.last_run import FILE, read_last_run, write_whole
from scrapy_supabase.settings.spool import spool_folder
from scrapy_supabase.spool.access import exists, readable


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file",
        nargs="?",
        default="report.html",
        metavar="FILE",
        help="file to write (default: report.html); - is standard output",
    )
    parser.add_argument("--spool", metavar="DIR", help="spool of the crawl (default: SUPABASE_SPOOL_DIR)")


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Write the page and return the exit code."""
    folder = _spool(settings, opts.spool)
    found = read_last_run(folder)
    from scrapy_supabase.report import page_of

    try:
        page = page_of(found).encode("utf-8", "replace")
    except Exception as error:
        raise ConfigurationError(
            f"{folder / FILE} is not a valid run record. Delete it: the next crawl writes a new one."
        ) from error
    if opts.file == "-":
        sys.stdout.buffer.write(page)
        return 0
    path = Path(opts.file)
    try:
        write_whole(path, page, str(os.getpid()), private=False)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {reason(error)}. Name another file.") from error
    print(path)
    return 0


def _spool(settings: Any, named: str | None) -> Path:
    if named is not None:
        with readable(Path(named)):
            is_folder = exists(Path(named)) and Path(named).is_dir()
        if not is_folder:
            raise ConfigurationError(f"{named} is not a folder. Name a spool with --spool (default: .scrapy/supabase).")
        return Path(named).absolute()
    folder = spool_folder(settings)
    if folder is None:
        raise ConfigurationError(
            "There is no spool: SUPABASE_SPOOL_DIR is None. Name a folder: scrapy supabase report --spool "
            ".scrapy/supabase"
        )
    return folder
