"""scrapy supabase load: upload the rows of files, such as feed exports, into a table.

Formats are JSON Lines, JSON (an array of objects) and CSV, also compressed
(.gz); - is standard input. Each row is handled like a scraped item: bad rows
are rejected with their reason, the others are stored. The exit code is 0 only
if every row is in the table.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import Any

from scrapy_supabase.assembly import find_server, new_schema, new_spool
from scrapy_supabase.commands.progress import print_summary, progress_bar
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Mode, Rejection
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.files import FORMATS, BadLine, RowFile
from scrapy_supabase.script import Upload
from scrapy_supabase.settings.explicit import config_for_table, config_of_command

WHEN_REFUSED = "No row was uploaded."
WHEN_INTERRUPTED = (
    "Rows that were read but not uploaded are in the spool; the other rows were not read. Run the command again, or "
    "upload the spooled rows: scrapy supabase replay"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", nargs="+", metavar="FILE", help="files of rows, in this order; - is standard input")
    parser.add_argument("--table", metavar="NAME", help="table to upload into (default: SUPABASE_TABLE)")
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the files (default: by the file's name; jsonl for -)"
    )
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        help="what happens to existing rows: upsert updates them, ignore keeps them, insert rejects the new rows "
        "(default: SUPABASE_MODE)",
    )
    parser.add_argument(
        "--on-conflict",
        metavar="COLUMNS",
        help="columns that make a row unique, separated by commas (default: primary key)",
    )
    parser.add_argument("--chunk-size", metavar="ROWS", help="rows per request, 1 to 1000 (default: BATCH_CHUNK_SIZE)")
    parser.add_argument("--encoding", default="utf-8-sig", help="encoding of CSV files (default: UTF-8)")
    parser.add_argument(
        "--keep-empty", action="store_true", help="store an empty CSV cell as empty text; by default it is NULL"
    )


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Upload the files and return the exit code."""
    explicit = {"mode": opts.mode, "on_conflict": opts.on_conflict, "BATCH_CHUNK_SIZE": opts.chunk_size}
    config = config_for_table(settings, opts.table, explicit)
    folder = config.spool.folder
    if folder is None:
        raise ConfigurationError(
            "load needs a spool for rows that cannot be uploaded, but SUPABASE_SPOOL_DIR is None. Set it to a folder."
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
        with progress_bar("load", total, "B") as bar, Upload(config, run, schema, spool) as upload:
            upload.begin()
            unreadable = None
            for file in files:
                with closing(file):
                    try:
                        upload.build_and_add(_reported(file, upload, spec.name, bar))
                    except ConfigurationError as error:
                        unreadable = error  # rows read before are uploaded
                if unreadable or upload.error:
                    break
            upload.finish()
            bar.set_postfix_str(pluralize(upload.result.uploaded, "row"))
    finally:
        if stack is not None:
            stack.stop()
    result = upload.result
    print_summary(result, folder)
    if unreadable:
        raise unreadable
    return 0 if result else 1


def _reported(file: RowFile, upload: Upload, table: str, bar: Any) -> Any:
    """Yield the rows of a file, reject its bad lines, and advance the progress bar."""
    reported = 0
    for number, row in enumerate(file):
        if isinstance(row, BadLine):
            upload.reject(Rejection(table, row.data, "bad_line", f"{row.location}: {row.problem}"))
        else:
            yield row
        if number % 1000 == 0:
            bar.set_postfix_str(pluralize(upload.result.uploaded, "row"), refresh=False)
            bar.update(file.position - reported)
            reported = file.position
    bar.update(file.position - reported)
