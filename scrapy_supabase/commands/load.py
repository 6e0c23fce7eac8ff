"""scrapy supabase load: upload the rows of files, such as feed exports, into a table.

JSON Lines, JSON (an array of objects) and CSV, also compressed (.gz); - is
standard input. Each row goes the way of a scraped item: bad ones are rejected
with their reason, the others are stored. The exit code is 0 only when every
row is in the table.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from scrapy_supabase.assembly import find_server, new_schema, new_spool
from scrapy_supabase.commands.progress import progress_of, said_how_it_went
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Mode, Rejection
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.files import FORMATS, BadLine, RowFile
from scrapy_supabase.script import Upload
from scrapy_supabase.settings.explicit import config_for_table, config_of_command

WHEN_REFUSED = "No row was uploaded."
WHEN_INTERRUPTED = (
    "What was read and not uploaded is in the spool; the rest was not read. Run it again, or: scrapy supabase replay"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", nargs="+", metavar="FILE", help="files of rows, in this order; - is standard input")
    parser.add_argument("--table", metavar="NAME", help="the table (default: SUPABASE_TABLE)")
    parser.add_argument("--format", choices=FORMATS, help="default: by the file's name; jsonl for standard input")
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        help="what happens to rows that are there: replace them (upsert), keep them (ignore), refuse (insert); "
        "default: SUPABASE_MODE, or upsert",
    )
    parser.add_argument(
        "--on-conflict", metavar="COLUMNS", help="columns that make a row unique, with commas (default: primary key)"
    )
    parser.add_argument("--chunk-size", metavar="ROWS", help="rows a request, 1 to 1000 (default: BATCH_CHUNK_SIZE)")
    parser.add_argument("--encoding", default="utf-8-sig", help="of CSV files (default: utf-8)")
    parser.add_argument(
        "--keep-empty", action="store_true", help="store an empty CSV cell as empty text; by default it is NULL"
    )


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Upload; returns the exit code."""
    given = {"mode": opts.mode, "on_conflict": opts.on_conflict, "BATCH_CHUNK_SIZE": opts.chunk_size}
    config = config_for_table(settings, opts.table, given)
    folder = config.spool.folder
    if folder is None:
        raise ConfigurationError(
            "load needs a spool for rows that cannot be uploaded, and SUPABASE_SPOOL_DIR is None. Set it to a folder."
        )
    files = [RowFile(path, opts.format, keep_empty=opts.keep_empty, encoding=opts.encoding) for path in opts.file]
    (spec,) = config.tables.specs.values()
    run, schema = Run("load"), new_schema(config)
    server, stack = find_server(config)
    try:
        spool = new_spool(config, schema, run)
        config = config_of_command(server)
        sizes = [file.size for file in files]
        total = sum(size for size in sizes if size is not None) if None not in sizes else None
        with progress_of("load", total, "B") as bar, Upload(config, run, schema, spool) as upload:
            upload.begin()
            unreadable = None
            for file in files:
                with closing(file):
                    try:
                        upload.build_and_add(_reported(file, upload, spec.name, bar))
                    except ConfigurationError as error:
                        unreadable = error  # what was read before is uploaded all the same
                if unreadable or upload.error:
                    break
            upload.finish()
            bar.set_postfix_str(pluralize(upload.result.uploaded, "row"))
    finally:
        if stack is not None:
            stack.stop()
    result = upload.result
    said_how_it_went(result, folder)
    if unreadable:
        raise unreadable
    return 0 if result else 1


def _reported(file: RowFile, upload: Upload, table: str, bar: Any) -> Any:
    """The rows of a file; lines that are none are rejected on the way."""
    shown = 0
    for number, row in enumerate(file):
        if isinstance(row, BadLine):
            upload.reject(Rejection(table, row.data, "bad_line", f"{row.location}: {row.problem}"))
        else:
            yield row
        if number % 1000 == 0:
            bar.set_postfix_str(pluralize(upload.result.uploaded, "row"), refresh=False)
            bar.update(file.position - shown)
            shown = file.position
    bar.update(file.position - shown)
