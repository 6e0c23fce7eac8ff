"""The child tables of a run, and those of earlier runs whose rows it uploads: which table's rows theirs belong to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from scrapy_supabase.models import Parent
from scrapy_supabase.schema.table_spec import TableSpec


class Families:
    """Which tables are child tables of which: those of `specs`, and more. Thread-safe.

    `unlisted`: child table with the option `replace` → the number of items that do not tell which children they have.
    """

    def __init__(self, specs: Iterable[TableSpec] = ()) -> None:
        self._parents: dict[str, frozenset[str]] = {}
        self._referenced: dict[str, frozenset[tuple[str, ...]]] = {}
        self._lock = threading.Lock()
        self.unlisted: Counter[str] = Counter()
        for spec in specs:
            if spec.writing.parent is not None:
                self.add(spec.name, spec.writing.parent)

    def add(self, table: str, parent: Parent) -> None:
        """Record that `table` is a child table."""
        with self._lock:
            self._parents[table] = self.parents(table) | {parent.table}
            self._referenced[parent.table] = self.referenced(parent.table) | {parent.referenced}

    def parents(self, table: str) -> frozenset[str]:
        """Return the tables of which `table` is a child table."""
        return self._parents.get(table, frozenset())

    def generation(self, table: str) -> int:
        """Return 0 for a table that is no child table, 1 for its child tables, 2 for theirs, and so on."""
        number, tables, seen = 0, self.parents(table), {table}
        while tables := tables - seen:  # tables of earlier runs may be their own ancestors
            number, seen = number + 1, seen | tables
            tables = frozenset().union(*map(self.parents, tables))
        return number

    def referenced(self, table: str) -> frozenset[tuple[str, ...]]:
        """Return the columns whose values rows of child tables have, too; one tuple for each child table."""
        return self._referenced.get(table, frozenset())
