"""scrapy supabase ddl: print SQL that creates tables for item classes, or for the rows of a file.

CREATE TABLE, unique index, grants and row-level security, for a migration
file or the SQL editor. Types come from annotations (dataclass, attrs,
pydantic), field metadata (scrapy.Field(type=int, primary_key=True)) or,
with --from, from the values of JSON Lines, JSON or CSV. The SQL includes what
the settings define for the table (key, columns, constants, stamps, mode …).
--snapshots, --runs and --function print the SQL that settings need. --newest prints
a trigger for each TABLE, which keeps older rows from replacing newer ones.
--history prints a history table for each TABLE, and the trigger that fills it.
With --apply, the SQL is also run, on SUPABASE_DB_URL or the local Supabase.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from scrapy.utils.misc import load_object

from scrapy_supabase.backends.merge_sql import function_sql
from scrapy_supabase.commands.apply import NOT_APPLIED, apply_sql
from scrapy_supabase.commands.database import find_database
from scrapy_supabase.commands.history import history_of
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.messages import pluralize, sentence
from scrapy_supabase.rows.file_parts import BadLine
from scrapy_supabase.rows.files import FORMATS, RowFile
from scrapy_supabase.schema.ddl import create_sql, ledger_sql, newest_sql, snapshots_sql, table_of
from scrapy_supabase.schema.history import history_sql
from scrapy_supabase.schema.inference import Inference
from scrapy_supabase.schema.item_fields import ItemField, child_fields, columns_sent, fields_of
from scrapy_supabase.settings.components import spiders_for
from scrapy_supabase.settings.config import schema_name
from scrapy_supabase.settings.explicit import config_for_new_table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "item_class",
        nargs="*",
        metavar="ITEM_CLASS",
        help="import paths of item classes, such as shop.items.Book; with --newest or --history, names of tables",
    )
    parser.add_argument("--from", dest="file", metavar="FILE", help="file of sample rows; - is standard input")
    parser.add_argument("--format", choices=FORMATS, help="format of FILE (default: by its name; jsonl for -)")
    parser.add_argument("--encoding", help="encoding of a CSV file (default: UTF-8, or UTF-16 if it is)")
    parser.add_argument(
        "--table", metavar="NAME", help="name of the table (default: from the settings, else from class or file)"
    )
    parser.add_argument("--key", metavar="COLUMNS", help="columns that make a row unique, separated by commas")
    parser.add_argument(
        "--snapshots", action="store_true", help="print the function that SUPABASE_DAILY_SNAPSHOTS needs"
    )
    parser.add_argument("--runs", metavar="NAME", help="print the ledger of crawls, for SUPABASE_RUNS_TABLE = NAME")
    parser.add_argument(
        "--newest",
        metavar="COLUMN",
        help="print a trigger for each TABLE: an update with an older COLUMN changes nothing",
    )
    parser.add_argument(
        "--history",
        metavar="COLUMNS",
        help="print a history table for each TABLE, to which a trigger adds a row when one of COLUMNS changes",
    )
    parser.add_argument(
        "--function",
        action="store_true",
        help="print the function that update, merge, if_changed and full requests of optional fields use over REST",
    )
    parser.add_argument("--public", action="store_true", help="let everyone with the public key read")
    parser.add_argument(
        "--apply", action="store_true", help="also run the SQL, on SUPABASE_DB_URL or the local Supabase"
    )


def run(settings: Any, opts: argparse.Namespace) -> int:
    """Print the SQL, or apply it, and return the exit code."""
    sql = "\n".join(_sql_for(settings, opts))
    if not opts.apply:
        print(sql, end="")
        return 0
    with find_database(settings, without=NOT_APPLIED, migrate=True) as url:
        apply_sql(url, sql)
    return 0


def _sql_for(settings: Any, opts: argparse.Namespace) -> list[str]:
    """Return the SQL that the options ask for."""
    schema = schema_name(settings)
    for_runs = list(_sql_for_runs(opts, schema))
    if opts.newest is not None:
        if not opts.item_class or opts.file or opts.table or opts.key or opts.public:
            raise ConfigurationError(
                "--newest takes the names of existing tables, without --from, --table, --key or --public, such as: "
                "scrapy supabase ddl --newest scraped_at books"
            )
        return [*(newest_sql(name, opts.newest, schema) for name in opts.item_class), *for_runs]
    if opts.history is not None:
        if not opts.item_class or opts.file or opts.table:
            raise ConfigurationError(
                "--history takes the names of existing tables, without --from or --table, such as: "
                "scrapy supabase ddl --history price,stock books"
            )
        watched, key = _names("--history", opts.history), _key(opts)
        histories = [history_of(settings, name, watched, key, readable=opts.public) for name in opts.item_class]
        return [*map(history_sql, histories), *for_runs]
    if bool(opts.item_class) == bool(opts.file) and (opts.file or not for_runs):
        raise ConfigurationError(
            "Name either item classes, such as shop.items.Book, or a file of rows, such as --from rows.jsonl."
        )
    if len(opts.item_class) > 1 and opts.table:
        raise ConfigurationError("--table names one table: use it with one item class.")
    sources = (
        [_file_source(opts.file, opts.format, opts.encoding)] if opts.file else map(_class_source, opts.item_class)
    )
    return [*(_sql(settings, opts, *source) for source in sources), *for_runs]


def _sql_for_runs(opts: argparse.Namespace, schema: str) -> Iterator[str]:
    """Yield the SQL of `--function`, `--snapshots` and `--runs`."""
    if opts.function:
        yield function_sql(schema, "service_role")
    if opts.snapshots:
        yield snapshots_sql(schema)
    if opts.runs:
        yield ledger_sql(opts.runs, schema)


Source = tuple[type | None, str, str, tuple[ItemField, ...]]  # class, name of the table, SQL comment, fields


def _sql(
    settings: Any,
    opts: argparse.Namespace,
    item_class: type | None,
    name: str,
    source: str,
    fields: Iterable[ItemField],
) -> str:
    key = _key(opts)
    config, spec = config_for_new_table(
        settings, item_class, name, {"table": opts.table, "on_conflict": key}, spiders_for(settings)
    )
    collect = config.upload.unknown_columns.column if config.upload.unknown_columns.policy == "collect" else ""
    if key is not None:
        known = columns_sent(spec, fields)
        unknown = [name for name in key if name not in known]
        if unknown:
            raise ConfigurationError(
                f"--key names {unknown[0]!r}, but the table has no such column. It has: {', '.join(known)}."
            )
        fields = [replace(one, primary_key=False) for one in fields]
    own = item_class is not None and any(base in config.tables.routes for base in item_class.__mro__)
    if item_class is not None and not own and opts.table is None and spec.name != name:
        source = f"{source} The name is that of SUPABASE_TABLE; for a separate table, use --table and SUPABASE_TABLES."
    role = config.server.role
    if role == "postgres":  # the owner of the table needs no grant
        role = "service_role"
    new_table = partial(table_of, schema=config.server.schema, role=role, collect=collect, readable=opts.public)
    fields = tuple(fields)
    texts = [create_sql(new_table(spec, fields, source=source))]
    for child, found, note in child_fields(spec, item_class, fields):
        texts.append(f"-- {note}\n" if found is None else create_sql(new_table(child, found, source=note)))
    return "\n".join(texts)


def _key(opts: argparse.Namespace) -> list[str] | None:
    return _names("--key", opts.key) if opts.key else None


def _names(option: str, text: str) -> list[str]:
    """Return the column names of an option."""
    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise ConfigurationError(
            f"{option} is {text!r}: it must be column names separated by commas, such as {option} url,day."
        )
    return list(dict.fromkeys(names))


def _class_source(path: str) -> Source:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = load_object(path)
    except Exception as error:
        problem = sentence(f"{type(error).__name__}: {error}".splitlines()[0])
        raise ConfigurationError(
            f"{path} cannot be imported: {problem} Name a class by its import path, such as shop.items.Book."
        ) from error
    fields = fields_of(found) if isinstance(found, type) else None
    if fields is None:
        raise ConfigurationError(
            f"{path} is not an item class with declared fields (dataclass, attrs, pydantic, scrapy.Item). For dicts, "
            "infer the columns from rows: --from rows.jsonl"
        )
    if not fields:
        raise ConfigurationError(f"{path} declares no fields. Declare some, or infer them from rows: --from rows.jsonl")
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", found.__name__.removesuffix("Item") or found.__name__)
    return found, "_".join(words).lower() or found.__name__, f"For items of {path}.", fields


def _file_source(path: str, form: str | None, encoding: str | None) -> Source:
    file = RowFile(path, form, encoding=encoding)
    label = "standard input" if path == "-" else path
    rows = Inference(texts=file.format == "csv")
    with closing(file):
        rows.add_all(_rows_of(file))
    if not rows.rows:
        raise ConfigurationError(f"{label} has no rows to infer columns from. Use a file that has rows.")
    name = "rows" if path == "-" else re.sub(r"\W+", "_", Path(path).name.split(".")[0]) or "rows"
    return None, name, f"For {pluralize(rows.rows, 'row')} of {label}.", rows.fields


def _rows_of(file: RowFile) -> Iterator[dict[str, Any]]:
    for row in file:
        if isinstance(row, BadLine):
            raise ConfigurationError(f"{row.location}: {sentence(row.problem)} Fix or delete the line.")
        yield row
