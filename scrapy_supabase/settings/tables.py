"""The settings of tables: which items go to which table. Their options are read in `table_options.py`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object

from scrapy_supabase.messages import sentence
from scrapy_supabase.rows.values import text_of
from scrapy_supabase.schema.routes import Routes, Switch, specs_by_class
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.child_tables import check_parents, child_entries, spec_with_children
from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.table_options import SPIDER, TABLE_KEYS, Options, common_options
from scrapy_supabase.settings.table_switch import find_chooser
from scrapy_supabase.settings.write_options import WRITE_KEYS

SNAPSHOT_VERSION = "snapshot_version"
_SWITCH_KEYS = ("by", "tables")


class TablesConfig(msgspec.Struct, frozen=True):
    """The tables of each item class (None: any other), and what a crawl's end needs.

    `runs_table` is the ledger's table, which gets one row per run. `after_crawl` is a function of the database.
    """

    routes: Routes = msgspec.field(default_factory=dict)
    runs_table: str | None = None
    after_crawl: str | None = None

    @property
    def specs(self) -> dict[str, TableSpec]:
        """Table name → its spec."""
        return {spec.name: spec for _, spec in specs_by_class(self.routes)}


def read_tables(reader: Reader, *, routes: bool = True, spiders: Sequence[str] = ()) -> TablesConfig:
    """Read the settings of tables; with `routes=False`, only that of the ledger. For `spiders` see `read_routes`."""
    return TablesConfig(
        routes=read_routes(reader, spiders) if routes else {},
        runs_table=reader.text("SUPABASE_RUNS_TABLE", "") if reader.raw("SUPABASE_RUNS_TABLE") else None,
        after_crawl=reader.text("SUPABASE_AFTER_CRAWL", "") if reader.raw("SUPABASE_AFTER_CRAWL") else None,
    )


def entries_of(tables: Any) -> Iterator[Any]:
    """Yield the values of `SUPABASE_TABLES` that name one table, child tables included, without validating them."""
    for value in tables.values() if isinstance(tables, Mapping) else ():
        nested = value.get("tables") if isinstance(value, Mapping) else None
        for entry in nested.values() if isinstance(nested, Mapping) else (value,):
            yield entry
            yield from child_entries(entry)


def uses_url_stamp(settings: BaseSettings) -> bool:
    """Return whether any stamp is `url`, without validating the settings."""
    reader = Reader(settings, os.environ)
    of_tables = [one.get("stamps") for one in entries_of(reader.raw("SUPABASE_TABLES")) if isinstance(one, Mapping)]
    return any(
        "url" in stamps.values()
        for stamps in [reader.raw("SUPABASE_STAMPS"), *of_tables]
        if isinstance(stamps, Mapping)
    )


def uses_spider_name(settings: BaseSettings) -> bool:
    """Return whether the name of any table has the spider's name in it, without validating the settings."""
    reader = Reader(settings, os.environ)
    entries = [reader.raw("SUPABASE_TABLE"), *entries_of(reader.raw("SUPABASE_TABLES"))]
    return any(SPIDER in str(one.get("table") if isinstance(one, Mapping) else one) for one in entries)


def read_routes(reader: Reader, spiders: Sequence[str] = ()) -> Routes:
    """Return item class (None: any other) → its table or tables.

    `spiders` are the names that `{spider}` stands for: one in a crawl, all of the project for `check` and `ddl`.
    """
    common = common_options(reader)
    routes: dict[type | None, TableSpec | Switch] = {}
    if (table := reader.raw("SUPABASE_TABLE")) is not None:
        routes[None] = _for_spiders(Options(reader, "", {"table": table}, common), spiders)
    tables = reader.raw("SUPABASE_TABLES", {})
    if not isinstance(tables, Mapping):
        tables = reader.wrong(
            "SUPABASE_TABLES", tables, "a dict that maps item classes, their import paths or '*' to tables", {}
        )

    def spec_of(name: str, value: Any) -> TableSpec | Switch | None:
        own = {"table": value} if isinstance(value, str) else value
        return _for_spiders(Options(reader, name, own, common), spiders) if _has_known_keys(reader, name, own) else None

    for target, value in tables.items():
        name = f"SUPABASE_TABLES[{target if isinstance(target, str) else getattr(target, '__qualname__', target)!r}]"
        is_switch = isinstance(value, Mapping) and not value.keys().isdisjoint(_SWITCH_KEYS)
        route = _switch(reader, name, value, spec_of) if is_switch else spec_of(name, value)
        if route is not None:
            routes[_item_class(reader, name, target)] = route
    if not routes and not reader.raw("SUPABASE_TABLES"):
        reader.problems.append(
            "SUPABASE_TABLE is missing. Set it to the name of the table for the items, or set SUPABASE_TABLES."
        )
    _check_same_table(reader, routes)
    check_parents(reader, routes)
    return routes


def _has_known_keys(reader: Reader, name: str, own: Any) -> bool:
    if not isinstance(own, Mapping):
        reader.wrong(name, own, f"a table name, or a dict with the keys {', '.join(TABLE_KEYS)}", None)
        return False
    unknown = [key for key in own if key not in TABLE_KEYS]
    if unknown:
        reader.unknown_option(name, unknown[0], TABLE_KEYS)
    return not unknown


def _for_spiders(options: Options, spiders: Sequence[str]) -> TableSpec | Switch:
    """Return the table for the spider, or one table for each of several spiders."""
    names = [options.get("table"), *(child.get("table") for child in child_entries(options.own))]
    name = next((name for name in names if isinstance(name, str) and SPIDER in name), None)
    if name is None or len(spiders) == 1:
        return spec_with_children(options, spiders[0] if spiders else None)
    if not spiders:
        options.reader.problems.append(
            f"{options.path('table')} is {name!r}, and no spider is known whose name belongs there. Name a spider, or "
            "a table without {spider}."
        )
    tables = {spider: spec_with_children(options, spider) for spider in spiders}
    return Switch(SPIDER, tables, setting=options.path("table"))


def _switch(
    reader: Reader, name: str, value: Mapping[str, Any], spec_of: Callable[[str, Any], TableSpec | Switch | None]
) -> Switch | None:
    """Return the tables of `{"by": …, "tables": …}`."""
    if unknown := [key for key in value if key not in _SWITCH_KEYS]:
        problem = f"{name} has no option {unknown[0]!r} beside 'by' and 'tables'. Set it for each table in 'tables'."
        reader.problems.append(problem)
    by, choose = find_chooser(reader, f"{name}['by']", value.get("by"))
    tables = value.get("tables")
    if not isinstance(tables, Mapping) or not tables:
        return reader.wrong(f"{name}['tables']", tables, "a dict that maps values to tables", None)
    found: dict[str, TableSpec] = {}
    for key, one in tables.items():
        route = spec_of(f"{name}['tables'][{key!r}]", one)
        if isinstance(route, Switch):  # the tables of several spiders: each is checked, none is chosen by
            found.update({f"{key} {spider}": spec for spider, spec in route.tables.items()})
        elif route is not None:
            found[text_of(key) or ""] = route
    if choose is None and by:
        found = {key: msgspec.structs.replace(spec, routed_by=by) for key, spec in found.items()}
    others = found.pop("*", None)
    return Switch(by, found, others, choose, name)


def _item_class(reader: Reader, name: str, target: Any) -> type | None:
    if target == "*":
        return None
    try:
        found = load_object(target) if isinstance(target, str) else target
    except (ImportError, NameError, ValueError) as error:
        found = None
        reader.problems.append(
            f"{name}: the class cannot be imported: {sentence(error)} Use its import path, such as shop.items.Book."
        )
    if found is not None and not isinstance(found, type):
        reader.wrong(name, found, "an item class, its import path, or '*'", None)
    return found if isinstance(found, type) else type("Unknown", (), {})


def _check_same_table(reader: Reader, routes: Routes) -> None:
    first: dict[str, TableSpec] = {}
    for _, spec in specs_by_class(routes):
        other = first.setdefault(spec.name, spec)
        if _rules(spec) != _rules(other):
            names = ("mode", "on_conflict", "json_column", "references", "unseen", *WRITE_KEYS, "parent")
            different = f"{', '.join(names[:-1])} or {names[-1]}"
            reader.problems.append(
                f"SUPABASE_TABLES names table {spec.name!r} twice, with different {different}: use the same."
            )


def _rules(spec: TableSpec) -> tuple[object, ...]:
    """Return what all rows of a table must have in common: they share chunks."""
    writing = msgspec.structs.replace(spec.writing, ignored=())
    return spec.mode, spec.on_conflict, spec.json_column, spec.unseen, writing
