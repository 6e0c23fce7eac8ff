"""Creation of tables and columns that items need and the database lacks (`SUPABASE_CREATE_TABLES`).

What item classes declare is created when the run opens. The rest, of dicts and of fields without a type, is created
from the rows of the first chunk that needs it, before that chunk is sent.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

import msgspec

from scrapy_supabase.backends.answers import RELOAD_SQL
from scrapy_supabase.backends.base import Backend, Write
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.errors import ConfigurationError, FatalError, ServerError, TransientError, fatal
from scrapy_supabase.models import Chunk, Mode
from scrapy_supabase.schema.ddl import SYSTEM_COLUMNS, is_column_name
from scrapy_supabase.schema.remedies import identifier
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.schema.wanted import WantedTable, sql_of_missing, wanted_tables
from scrapy_supabase.settings.config import Config

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 30.0  # seconds for the REST API to read the tables again
_POLL = 0.1


def new_creator(config: Config, schema: Schema, backend: Backend, policy: OpenPolicy) -> TableCreator:
    """Return the creator that the config asks for."""
    return TableCreator(
        config.create.db_url,
        wanted_tables(config.tables.routes),
        schema,
        backend,
        policy=policy,
        is_own_server=config.server.db_url is not None,
    )


class TableCreator:
    """Creates tables and columns over the connection string `url`. Thread-safe.

    Without `url`, nothing is created: the error about a missing table then has the SQL. `wanted` are the tables of the
    run, by name. `policy` makes the requests. `is_own_server`: rows go over the same connection string, so that an
    outage of one is an outage of the other.
    """

    def __init__(
        self,
        url: str | None,
        wanted: Mapping[str, WantedTable],
        schema: Schema,
        backend: Backend,
        *,
        policy: OpenPolicy,
        is_own_server: bool = False,
    ) -> None:
        self._url = url
        self._wanted = wanted
        self._schema = schema
        self._backend = backend
        self._deadline = policy.deadline
        self._is_own_server = is_own_server
        self._policy = partial(policy.run, "Creating tables")
        self._lock = threading.Lock()
        self._check: Callable[[TableSpec], None] = lambda _: None
        if url is not None:
            for name, one in wanted.items():
                schema.let_create(name, one.columns)

    def prepare(self, check: Callable[[TableSpec], None]) -> None:
        """Create what the item classes declare. `check` is called for each table that is created later. Blocks.

        `schema` must have the tables that the server describes. Raises `ServerError`.
        """
        self._check = check
        if self._url is None:
            return
        later = {name: one.untyped for name, one in self._wanted.items()}
        lacking = {name: one for name, one in self._wanted.items() if self._lacks(one, later[name])}
        if lacking:
            self._change(lacking, later)

    def remedy(self, table: str) -> str:
        """Return the remedy for a missing table that cannot be created for want of a connection; empty if it can."""
        wanted = self._wanted.get(table)
        if self._url is not None or wanted is None:
            return ""
        text = "SUPABASE_CREATE_TABLES needs a connection string to create the table: set SUPABASE_DB_URL."
        if wanted.waits:
            file = f"scrapy supabase ddl --from FILE --table {shlex.quote(table)}"
            return f"{text} Or print its SQL from a file of rows: {file}"
        return f"{text} Or run this SQL, then {RELOAD_SQL}\n{sql_of_missing(wanted, None, self._schema)}"

    def is_pending(self, table: str) -> bool:
        """Return whether a table is created when its first rows come."""
        return self._url is not None and table in self._wanted and self._schema.info(table) is None

    def is_needed(self, chunk: Chunk) -> bool:
        """Return whether the table or a column must be created before `chunk` is sent. Never blocks."""
        table = chunk.table
        if self._url is None or table not in self._wanted:
            return False
        info = self._schema.info(table)
        if info is None:
            return True
        names = _names(chunk)
        if info.columns.keys() >= names:
            return False
        missing = self._schema.creatable(table, names)
        return bool(missing) and (self._needs_all(table) or _has_value(chunk, missing))

    def create(self, chunk: Chunk) -> None:
        """Create what the rows of `chunk` need. Blocks. Raises `FatalError`, and `TransientError` in an outage."""
        table, schema = chunk.table, self._schema
        with self._lock:
            if not self.is_needed(chunk):
                return  # another thread has just done it
            is_new = schema.info(table) is None
            names = schema.creatable(table, _names(chunk))
            self._leave_out(table, [name for name in names if not is_column_name(name)])
            names = schema.creatable(table, names)
            declared = self._wanted[table].with_classes(schema.item_classes(table))
            wanted = declared.for_rows(chunk.rows, names, nulls=self._needs_all(table))
            try:
                self._change({table: wanted}, {})
            except ConfigurationError as error:  # the name of the table
                raise fatal(ServerError(str(error), code="42602"), "supabase_schema", "") from error
            except TransientError as error:
                if self._is_own_server:
                    raise
                raise fatal(error, "supabase_unavailable", "Check SUPABASE_DB_URL.") from error
            for name in schema.creatable(table, names):
                if name in wanted.columns:  # not possible: the table is a view, or the column belongs to the key
                    schema.drop(table, name)
            if is_new:
                self._check(schema.specs[table])

    def _leave_out(self, table: str, names: Iterable[str]) -> None:
        """Leave out fields whose names no column may have."""
        for name in names:
            self._schema.drop(table, name)
        if new := self._schema.first_mention(table, sorted(names)):
            logger.warning(
                "Table %s: fields whose names no column can have are left out: %s. A name has 1 to 63 bytes, and is "
                "none of %s. To store these fields, map them to other columns in SUPABASE_TABLES (columns).",
                table,
                ", ".join(map(repr, new)),
                ", ".join(SYSTEM_COLUMNS),
            )

    def _lacks(self, wanted: WantedTable, later: Collection[str]) -> bool:
        """Return whether a table lacks something that is known before the first item, or may not exist."""
        info = self._schema.info(wanted.spec.name)
        return info is None or bool(sql_of_missing(wanted, info, self._schema, later=later))

    def _needs_all(self, table: str) -> bool:
        """Return whether a column without a value is created, too: the settings would not just leave it out."""
        return self._schema.policy(table) != "drop"

    def _change(self, tables: Mapping[str, WantedTable], later: Mapping[str, Collection[str]]) -> None:
        """Create what the database lacks, and add the tables to the schema. Raises `ServerError`.

        The columns in `later` are left out. A table that waits for its first rows is not created.
        """
        from scrapy_supabase.backends.ddl_session import Tables, change_tables  # psycopg takes 0.1 s

        changed: dict[str, str] = {}

        def sql_of(found: Tables) -> str:
            changed.clear()
            infos = {name: table.info for name, table in found.items()}
            for name, wanted in tables.items():
                info = infos.get(name)
                if wanted.waits if info is None else found[name].view is not None:
                    continue
                left = later.get(name, ())
                if sql := sql_of_missing(wanted, info, self._schema, later=left, parents=infos):
                    changed[name] = sql
                    infos.setdefault(name, wanted.new_info)
            return "\n".join(changed.values())

        try:
            found = self._policy(change_tables, self._url or "", self._schema.database_schema, sql_of)
        except TransientError:
            raise
        except ServerError as error:
            raise self._refused(error, "\n".join(changed.values())) from error
        for name in tables:
            if (table := found.get(name)) is not None:
                self._schema.learn(name, table.info)
                if name in changed:
                    self._wait_until_known(name, tuple(table.types))

    def _refused(self, error: ServerError, sql: str) -> FatalError:
        if isinstance(error, FatalError) and error.reason == "supabase_unauthorized":
            return error
        if error.is_forbidden:
            remedy = (
                "The role of SUPABASE_DB_URL needs the privilege CREATE on schema "
                f"{identifier(self._schema.database_schema)}, and must own a table to add columns to it. Use a role "
                f"that has these rights, or run this SQL yourself:\n{sql}"
            )
            return fatal(error, "supabase_permission_denied", remedy)
        return fatal(error, "supabase_schema", f"Correct the settings or the item class, or run this SQL:\n{sql}")

    def _wait_until_known(self, table: str, columns: tuple[str, ...]) -> None:
        """Wait until the REST API has read the tables again, 30 seconds at most."""
        for _ in range(int(_LONGEST_WAIT / _POLL)):
            try:
                self._backend.write(Write(table, columns, b"[]", Mode.INSERT))
            except ServerError as error:
                if not error.stale_schema or not self._deadline.allows(_POLL):
                    return
                self._deadline.sleep(_POLL)
            else:
                return


def _names(chunk: Chunk) -> set[str]:
    return {name for row in chunk.rows for name in row.columns} if chunk.mixed else set(chunk.columns)


def _has_value(chunk: Chunk, names: Iterable[str]) -> bool:
    """Return whether a row has a value other than null in one of the columns `names`."""
    wanted = set(names)
    for row in chunk.rows:
        if found := wanted.intersection(row.columns):
            values = msgspec.json.decode(row.data)
            if any(values.get(name) is not None for name in found):
                return True
    return False
