"""scrapy supabase load: upload the rows of files, such as feed exports, into a table.

Formats are JSON Lines, JSON (an array of objects), CSV and TSV, also compressed
(.gz); - is standard input. Each row is handled like a scraped item: bad rows
are rejected with their reason, the others are stored. The exit code is 0 only
if every row is in the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import msgspec

from scrapy_supabase.assembly import find_server, new_schema, new_spool
from scrapy_supabase.commands.progress import print_summary, progress_bar
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Mode, Rejection, Row
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.file_parts import BadLine, FileError, FileRow, Lines
from scrapy_supabase.rows.files import FORMATS, RowFile
from scrapy_supabase.rows.json_lines import LinesPath, lines_path
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.script import Upload
from scrapy_supabase.settings.explicit import config_for_table, config_of_command

_SHOW_SECONDS = 0.1
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
    parser.add_argument(
        "--encoding", help="encoding of CSV files (default: UTF-8, or UTF-16 if a file starts like that)"
    )
    parser.add_argument(
        "--delimiter", metavar="CHARACTER", help="delimiter of CSV files, or tab (default: recognised by the header)"
    )
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
    how = {"keep_empty": opts.keep_empty, "encoding": opts.encoding, "delimiter": opts.delimiter}
    files = [RowFile(path, opts.format, **how) for path in opts.file]
    spec = next(iter(config.tables.specs.values()))  # the others are child tables
    run, schema = Run("load"), new_schema(config)
    server, stack = find_server(config)
    try:
        spool = new_spool(config, schema, run, appends=all(file.format != "csv" for file in files))
        config = config_of_command(server)
        sizes = [file.size for file in files]
        total = sum(size for size in sizes if size is not None) if None not in sizes else None
        with progress_bar("load", total, "B") as bar, Upload(config, run, schema, spool) as upload:
            upload.begin()
            unreadable = None
            rows = FileUpload(upload, schema, spec.name, bar)
            for file in files:
                with closing(file):
                    try:
                        rows.add(file)
                    except FileError as error:
                        unreadable = error  # rows read before are uploaded
                if unreadable or upload.error:
                    break
            upload.finish()
            bar.set_postfix_str(pluralize(upload.result.uploaded, "row"))
    finally:
        if stack is not None:
            stack.stop()
    result = upload.result
    print_summary(result, folder, upload.examples)
    if unreadable:
        raise ConfigurationError(f"{unreadable.problem} {_stored(result.uploaded)} {unreadable.remedy}".rstrip())
    return 0 if result else 1


def _stored(rows: int) -> str:
    """Return the sentence about what was uploaded before a file could not be read on."""
    return f"Uploaded before that: {pluralize(rows, 'row')}." if rows else WHEN_REFUSED


class FileUpload:
    """Uploads the rows of files into a table, and rejects their bad lines. `bar` shows the progress."""

    def __init__(self, upload: Upload, schema: Schema, table: str, bar: Any) -> None:
        self._upload = upload
        self._schema = schema
        self._table = table
        self._bar = bar
        self._take: LinesPath | None = None

    def add(self, file: RowFile) -> None:
        """Add the rows of a file. Stops early after a fatal error."""
        shown, due = 0, 0.0
        for part in file.parts():
            if isinstance(part, Lines):
                self._add_lines(part)
            elif isinstance(part, BadLine):
                self._reject(part)
            else:
                self._add_row(part.values, part.source, part.number)
            if self._upload.error is not None:
                return
            if time.monotonic() > due:  # to ask for the position is a system call
                position, due = file.position, time.monotonic() + _SHOW_SECONDS
                self._show(position - shown)
                shown = position
        self._show(file.position - shown)

    def _add_lines(self, part: Lines) -> None:
        """Add lines as they are if possible. The others, and the first line of each chunk, are decoded."""
        at, end = 0, len(part.lines)
        while at < end and self._upload.error is None:
            taken = self._take(part.lines, at, part.source, part.number + at) if self._take is not None else 0
            at += taken
            if not taken:
                self._add_line(part, at)
                at += 1

    def _add_line(self, part: Lines, at: int) -> None:
        self._take = None
        row = part.row(at)
        if isinstance(row, BadLine):
            self._reject(row)
        elif row is not None and self._add_row(row, part.source, part.number + at):
            chunk = self._upload.open_chunk()
            if chunk is not None:
                self._take = lines_path(self._upload.builder, self._schema, row, chunk)

    def _add_row(self, values: dict[str, Any], source: str, number: int) -> bool:
        """Add a row; return False if it was rejected."""
        if (families := self._upload.families) is not None:
            return self._upload.add_family(_located(families.rows_of(values), source, number))
        row = self._upload.build(values, f"{source} {number}")
        if row is not None:
            self._upload.add(FileRow(row.table, row.columns, row.key, row.data, source, number))
        return row is not None

    def _reject(self, row: BadLine) -> None:
        table, message = self._table, f"{row.location}: {row.problem}"
        self._upload.reject((Rejection(table, row.data, "bad_line", message, location=row.location),))

    def _show(self, read: int) -> None:
        self._bar.set_postfix_str(pluralize(self._upload.result.uploaded, "row"), refresh=False)
        self._bar.update(read)


def _located(rows: Iterable[Row | Rejection], source: str, number: int) -> Iterator[Row | Rejection]:
    """Yield the rows and rejections of a line with its location."""
    for one in rows:
        if isinstance(one, Rejection):
            yield msgspec.structs.replace(one, location=f"{source} {number}")
        else:
            yield FileRow(one.table, one.columns, one.key, one.data, source, number)
