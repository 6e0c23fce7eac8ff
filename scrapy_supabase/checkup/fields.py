"""The check of options that name fields of items: does the item class have them?"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from scrapy_supabase.checkup.finding import Finding, error
from scrapy_supabase.rows.stamps import hashed_fields
from scrapy_supabase.schema.paths import root_of
from scrapy_supabase.schema.table_spec import TableSpec


def check_fields(subject: str, spec: TableSpec, items: str, names: Collection[str]) -> Iterator[Finding]:
    """Report fields that a stamp or a reference names and the class `items`, with fields of these names, lacks."""
    for column, stamp in spec.stamps.items():
        for field in hashed_fields(stamp) or ():
            if field not in names and root_of(field) not in names:
                text = f"column {column!r} is {stamp}, but items of {items} have no field {field!r}"
                yield error(subject, text, "Correct the name of the field in the stamp.")
    for column, parent in spec.references.items():
        for field in (*parent.match.values(), *parent.columns.values()):
            if field not in names and root_of(field) not in names:
                text = f"column {column!r} is the id of a parent, but items of {items} have no field {field!r}"
                yield error(subject, text, "Correct the name of the field in references.")
