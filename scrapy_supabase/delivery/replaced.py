"""The option `replace` of a child table: at the end of a crawl, children that their item no longer has are deleted.

The crawl stored the parent's row, so it has the id of this run (stamp `run_id`). Children of that row with another id
were not in the item.
"""

from __future__ import annotations

from collections.abc import Iterator

from scrapy_supabase.backends.base import Backend, Select
from scrapy_supabase.backends.filters import differs, equal, in_groups, matches
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.delivery.table_reader import TableReader
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.values import text_of
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec

_PAGE = 1000  # parents per request


def delete_replaced(backend: Backend, policy: OpenPolicy, schema: Schema, spec: TableSpec, run: Run) -> int:
    """Delete the children that the items of `run` no longer have; return their number. Blocks. Raises `ServerError`."""
    unseen, parent = spec.unseen, spec.writing.parent
    if unseen is None or parent is None:
        return 0
    number = 0
    for values in _stored_parents(TableReader(backend, schema, policy=policy), spec, run):
        for some in in_groups(parent.columns, values):
            where = (matches(parent.columns, some), differs(unseen.seen_column, run.id))
            number += policy.run(f"Unseen rows of table {spec.name}", backend.delete, spec.name, where)
    return number


def _stored_parents(reader: TableReader, spec: TableSpec, run: Run) -> Iterator[list[tuple[str, ...]]]:
    """Yield the values by which children refer to the parents that `run` stored, page by page."""
    unseen, parent = spec.unseen, spec.writing.parent
    if unseen is None or parent is None:
        return
    columns = parent.referenced
    select = Select(parent.table, columns, (equal(unseen.parent_column, run.id),), limit=_PAGE)
    # A primary key has an index. Without one: parents with equal values have the same children.
    for page in reader.pages(select, reader.primary_key(parent.table) or columns):
        texts = [tuple(text_of(row[column]) for column in columns) for row in page]
        yield [known for each in texts if len(known := tuple(text for text in each if text is not None)) == len(each)]
