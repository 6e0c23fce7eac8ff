"""The check of a table for daily snapshots when a run opens: can it keep the rows of two runs apart?"""

from __future__ import annotations

from scrapy_supabase.errors import FatalError, ServerError, fatal
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode
from scrapy_supabase.schema.remedies import lacks, snapshot_sql
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec


def check_snapshots(spec: TableSpec, schema: Schema) -> None:
    """Check that the table has the columns of snapshots, in its key, too. Raises `FatalError`."""
    table = spec.name
    _, missing = schema.split(table, SNAPSHOT_STAMPS)
    key = schema.key(table)
    if missing:
        problem = lacks(table, missing)
    elif spec.mode is not Mode.INSERT and key and not set(SNAPSHOT_STAMPS) <= set(key):
        problem = f"the key of table {table} ({', '.join(key)}) lacks {' and '.join(SNAPSHOT_STAMPS)}"
    else:
        return
    raise no_snapshots(schema, table, ServerError(problem, code="PGRST204"))


def no_snapshots(schema: Schema, table: str, error: ServerError) -> FatalError:
    """Return `error` as one that ends the run, with the SQL that prepares the table."""
    remedy = (
        f"SUPABASE_DAILY_SNAPSHOTS needs these columns in the table and in its key. Run: {snapshot_sql(schema, table)}"
    )
    return fatal(error, "supabase_schema", remedy)
