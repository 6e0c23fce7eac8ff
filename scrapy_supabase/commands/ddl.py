"""scrapy supabase ddl: print the SQL of a table for item classes, or for rows of a file.

CREATE TABLE, unique index, grants and row-level security, for a migration
file or the SQL editor. Types come from annotations (dataclass, attrs,
pydantic), field metadata (scrapy.Field(type=int, primary_key=True)) or,
with --from, from the values of JSON Lines, JSON or CSV. What the settings
say of the table (key, columns, stamps, snapshots, mode) is in it. With
--snapshots and --runs, what these settings need in the database. With
--newest, a trigger for each TABLE by which an older row never replaces a
newer one.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from scrapy.utils.misc import load_object

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize, sentence
from scrapy_supabase.rows.files import FORMATS, BadLine, RowFile
from scrapy_supabase.schema.ddl import create_sql, ledger_sql, newest_sql, snapshots_sql, table_of
from scrapy_supabase.schema.inference import Inference
from scrapy_supabase.schema.item_fields import ItemField, columns_sent, fields_of
from scrapy_supabase.settings.explicit import config_for_new_table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "item_class",
        nargs="*",
        metavar="ITEM_CLASS",
        help="import paths, such as shop.items.Book; with --newest, names of tables",
    )
    parser.add_argument("--from", dest="file", metavar="FILE", help="a file of sample rows; - is standard input")
    parser.add_argument("--format", choices=FORMATS, help="of FILE; default: by its name, jsonl for standard input")
    parser.add_argument("--encoding", default="utf-8-sig", help="of CSV (default: UTF-8)")
    parser.add_argument(
        "--table", metavar="NAME", help="the table's name; default: by the settings, else by class or file"
    )
    parser.add_argument("--key", metavar="COLUMNS", help="columns that make a row unique, with commas")
    parser.add_argument("--snapshots", action="store_true", help="the function that SUPABASE_DAILY_SNAPSHOTS needs")
    parser.add_argument("--runs", metavar="NAME", help="the ledger of crawls, for SUPABASE_RUNS_TABLE = NAME")
    parser.add_argument(
        "--newest", metavar="COLUMN", help="a trigger for each TABLE: an update with an older COLUMN changes nothing"
    )
    parser.add_argument("--public", action="store_true", help="everybody who has the public key may read")


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Print; returns the exit code."""
    schema = settings.get("SUPABASE_SCHEMA") or "public"
    of_runs = list(_of_runs(opts, schema))
    if opts.newest is not None:
        if not opts.item_class or opts.file or opts.table or opts.key or opts.public:
            raise ConfigurationError(
                "--newest goes with the names of tables that are there, such as: "
                "scrapy supabase ddl --newest scraped_at books"
            )
        triggers = [newest_sql(name, opts.newest, schema) for name in opts.item_class]
        print("\n".join([*triggers, *of_runs]), end="")
        return 0
    if bool(opts.item_class) == bool(opts.file) and (opts.file or not of_runs):
        raise ConfigurationError(
            "Name either item classes, such as shop.items.Book, or a file of rows, such as --from rows.jsonl."
        )
    if len(opts.item_class) > 1 and opts.table:
        raise ConfigurationError("--table names one table: name one item class with it.")
    sources = [_of_file(opts.file, opts.format, opts.encoding)] if opts.file else map(_of_class, opts.item_class)
    printed = [_sql(settings, opts, *source) for source in sources]
    print("\n".join([*printed, *of_runs]), end="")
    return 0


def _of_runs(opts: argparse.Namespace, schema: str) -> Iterator[str]:
    """What runs need beside the tables of items."""
    if opts.snapshots:
        yield snapshots_sql(schema)
    if opts.runs:
        yield ledger_sql(opts.runs, schema)


Source = tuple[type | None, str, str, tuple[ItemField, ...]]  # class, name of the table, where from, fields


def _sql(
    settings: Any,
    opts: argparse.Namespace,
    item_class: type | None,
    name: str,
    source: str,
    fields: Iterable[ItemField],
) -> str:
    key = [part.strip() for part in opts.key.split(",")] if opts.key else None
    if key is not None and not all(key):
        raise ConfigurationError(
            f"--key is {opts.key!r}: it must be column names with commas between, such as --key url,day."
        )
    config, spec = config_for_new_table(settings, item_class, name, {"table": opts.table, "on_conflict": key})
    collect = config.upload.unknown_columns.column if config.upload.unknown_columns.policy == "collect" else ""
    if key is not None:
        known = columns_sent(spec, fields)
        unknown = [name for name in key if name not in known]
        if unknown:
            raise ConfigurationError(
                f"--key names {unknown[0]!r}, which is no column of the table. It has: {', '.join(known)}."
            )
        fields = [replace(one, primary_key=False) for one in fields]
    own = item_class is not None and any(base in config.tables.routes for base in item_class.__mro__)
    if item_class is not None and not own and opts.table is None and spec.name != name:
        source = (
            f"{source} The name is that of SUPABASE_TABLE; for a table of its own, use --table and SUPABASE_TABLES."
        )
    role = config.server.role
    if role == "postgres":  # who makes the table may do all with it
        role = "service_role"
    table = table_of(
        spec, fields, schema=config.server.schema, role=role, collect=collect, readable=opts.public, source=source
    )
    return create_sql(table)


def _of_class(path: str) -> Source:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = load_object(path)
    except Exception as error:
        what = sentence(f"{type(error).__name__}: {error}".splitlines()[0])
        raise ConfigurationError(
            f"{path} cannot be imported: {what} Name a class by its import path, such as shop.items.Book."
        ) from error
    fields = fields_of(found) if isinstance(found, type) else None
    if fields is None:
        raise ConfigurationError(
            f"{path} is no item class that declares its fields (dataclass, attrs, pydantic, scrapy.Item). For dicts, "
            "infer the columns from rows: --from rows.jsonl"
        )
    if not fields:
        raise ConfigurationError(f"{path} declares no field. Declare some, or infer them from rows: --from rows.jsonl")
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", found.__name__.removesuffix("Item") or found.__name__)
    return found, "_".join(words).lower() or found.__name__, f"For items of {path}.", fields


def _of_file(path: str, form: str | None, encoding: str) -> Source:
    file = RowFile(path, form, encoding=encoding, uploads=False)
    shown = "standard input" if path == "-" else path
    rows = Inference(texts=file.format == "csv")
    with closing(file):
        rows.add_all(_good(file))
    if not rows.rows:
        raise ConfigurationError(f"{shown} has no row to infer columns from. Name a file that has some.")
    name = "rows" if path == "-" else re.sub(r"\W+", "_", Path(path).name.split(".")[0]) or "rows"
    return None, name, f"For {pluralize(rows.rows, 'row')} of {shown}.", rows.fields


def _good(file: RowFile) -> Iterator[dict[str, Any]]:
    for row in file:
        if isinstance(row, BadLine):
            raise ConfigurationError(f"{row.location}: {sentence(row.problem)} Fix or delete the line.")
        yield row
