"""Catalog of tables, columns, keys and functions, read in one transaction and cached until it changes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scrapy_supabase.local.gateway import catalog_sql

Name = tuple[str, str]  # schema, name
_INSERT, _UPDATE, _DELETE = 8, 4, 16  # bits of pg_relation_is_updatable
_WHOLE_BODY = ("json", "jsonb", "text", "xml", "bytea")  # types of a single parameter without a name


@dataclass(frozen=True, slots=True)
class Column:
    """Column. `default` is its SQL expression; `type` is the type that JSON is cast to, such as `numeric(10,2)`."""

    name: str
    type: str
    format: str
    nullable: bool
    default: str | None
    comment: str | None
    max_length: int | None
    enum: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Foreign key: columns that refer to columns of a table."""

    columns: tuple[str, ...]
    table: Name
    theirs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Table or view. `represented` is true if a column's domain has casts by which PostgREST formats it."""

    # Ten fields: the facts about a table on which responses depend.
    schema: str
    name: str
    comment: str | None
    columns: Mapping[str, Column]
    insertable: bool
    updatable: bool
    deletable: bool
    represented: bool
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """Parameter of a function; its name may be empty. Arguments are cast to `cast`."""

    name: str
    type: str
    cast: str
    required: bool
    variadic: bool


@dataclass(frozen=True, slots=True)
class Function:
    """Function. `returns` is scalar, composite, void or media; `row` is the table whose rows it returns."""

    schema: str
    name: str
    parameters: tuple[Parameter, ...]
    returns: str
    returns_set: bool
    volatile: bool
    row: Name
    settings: tuple[tuple[str, str], ...]

    @property
    def callable(self) -> bool:
        """Return whether PostgREST can pass the arguments: by name, or as one of a type that takes the whole body."""
        unnamed = [parameter for parameter in self.parameters if not parameter.name]
        return not unnamed or (len(unnamed) == 1 and self.parameters[0].type in _WHOLE_BODY)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Contents of the catalog, by (schema, name). `settings` are those of roles (`alter role … set`).

    `deferrable` is true if any constraint can be checked at the end of a transaction.
    """

    tables: Mapping[Name, Table]
    functions: Mapping[Name, tuple[Function, ...]]
    settings: Mapping[str, tuple[tuple[str, str], ...]]
    deferrable: bool


class Catalog:
    """Cache of the newest snapshot of the exposed `schemas`. `connect` returns a raw-cursor connection to read it."""

    def __init__(self, schemas: tuple[str, ...], connect: Any) -> None:
        self.schemas = schemas
        self._connect = connect
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._timezones: frozenset[str] | None = None

    @property
    def snapshot(self) -> Snapshot:
        """Return the cached snapshot; read it if there is none."""
        return self._snapshot or self.reload()

    def reload(self) -> Snapshot:
        """Read the catalog again."""
        with self._lock, self._connect() as connection:
            self._snapshot = _read(connection, list(self.schemas))
            return self._snapshot

    def changed(self) -> bool:
        """Read the catalog again and return whether it has changed."""
        before = self._snapshot
        return self.reload() != before

    def timezones(self) -> frozenset[str]:
        """Return the names of time zones. They are read when the first request names one, because it takes 0.1 s."""
        if self._timezones is None:
            with self._connect() as connection:
                self._timezones = frozenset(name for (name,) in connection.execute(catalog_sql.TIMEZONES))
        return self._timezones


def _read(connection: Any, schemas: list[str]) -> Snapshot:
    """Read the catalog in one transaction, so that all queries see the same tables."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute("SET LOCAL search_path TO ''")
        tables = {(row[0], row[1]): _table(*row) for row in connection.execute(catalog_sql.TABLES, [schemas])}
        keys: dict[Name, tuple[str, ...]] = {}
        foreign: dict[Name, tuple[ForeignKey, ...]] = {}
        for schema, name, kind, own, their_schema, their_name, theirs in connection.execute(catalog_sql.KEYS):
            place = (schema, name)
            if kind == "p":
                keys[place] = tuple(own)
            else:
                found = ForeignKey(tuple(own), (their_schema, their_name), tuple(theirs))
                foreign[place] = (*foreign.get(place, ()), found)
        for place in tables:
            tables[place] = replace(tables[place], primary_key=keys.get(place, ()), foreign_keys=foreign.get(place, ()))
        sources_of: dict[Name, dict[Name, dict[str, str]]] = {}
        for schema, name, column, of_schema, of_table, of_column in connection.execute(catalog_sql.VIEWS, [schemas]):
            sources_of.setdefault((schema, name), {}).setdefault((of_schema, of_table), {}).setdefault(
                of_column, column
            )
        for place, sources in sources_of.items():
            if place in tables:
                tables[place] = _with_keys(tables[place], sources, keys, foreign)
        functions: dict[Name, tuple[Function, ...]] = {}
        for row in connection.execute(catalog_sql.FUNCTIONS, [schemas]):
            function = _function(*row)
            if function.callable:
                functions[row[0], row[1]] = (*functions.get((row[0], row[1]), ()), function)
        settings: dict[str, tuple[tuple[str, str], ...]] = {}
        for role, name, value in connection.execute(catalog_sql.SETTINGS):
            settings[role] = (*settings.get(role, ()), (name, value))
        deferrable = connection.execute(catalog_sql.DEFERRABLE).fetchone()[0]
    return Snapshot(tables, functions, settings, deferrable)


def _with_keys(
    view: Table,
    sources: Mapping[Name, Mapping[str, str]],
    keys: Mapping[Name, tuple[str, ...]],
    foreign: Mapping[Name, tuple[ForeignKey, ...]],
) -> Table:
    """Return the tables, where views have the keys of their tables whose columns they show."""
    key: list[str] = []
    refers: list[ForeignKey] = []
    for place, view_columns in sources.items():
        own = keys.get(place, ())
        if all(column in view_columns for column in own):
            key.extend(view_columns[column] for column in own)
        refers.extend(
            replace(each, columns=tuple(view_columns[column] for column in each.columns))
            for each in foreign.get(place, ())
            if all(column in view_columns for column in each.columns)
        )
    return replace(view, primary_key=tuple(key), foreign_keys=tuple(refers))


def _table(
    schema: str, name: str, comment: str | None, columns: list[list[Any]], updatable: int, represented: bool
) -> Table:
    known = {each[0]: _column(*each) for each in columns}
    return Table(
        schema,
        name,
        comment,
        known,
        bool(updatable & _INSERT),
        bool(updatable & _UPDATE),
        bool(updatable & _DELETE),
        represented,
    )


def _column(
    name: str,
    kind: str,
    form: str,
    nullable: bool,
    default: str | None,
    comment: str | None,
    max_length: int | None,
    enum: list[str] | None,
) -> Column:
    return Column(name, kind, form, nullable, default, comment, max_length, tuple(enum or ()))


def _function(  # nine parameters: the columns of the catalog's query, in order
    schema: str,
    name: str,
    parameters: list[list[Any]],
    returns_set: bool,
    volatile: bool,
    returns: str,
    row_schema: str,
    row_name: str,
    settings: dict[str, str],
) -> Function:
    made = tuple(Parameter(*each) for each in parameters)
    return Function(schema, name, made, returns, returns_set, volatile, (row_schema, row_name), tuple(settings.items()))
