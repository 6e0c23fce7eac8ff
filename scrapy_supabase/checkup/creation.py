"""What a crawl would create in the database (`SUPABASE_CREATE_TABLES`)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from scrapy_supabase.backends.base import Backend, Write
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.checkup.finding import Finding, error, ok, warning
from scrapy_supabase.checkup.recorder import Recorder
from scrapy_supabase.delivery.parents_check import ParentsCheck
from scrapy_supabase.errors import FatalError, ServerError, TransientError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Mode
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.schema.wanted import sql_of_missing, wanted_tables
from scrapy_supabase.settings.config import Config


class CreationCheck:
    """Reports the tables and columns that a crawl creates. Stores nothing.

    `schema` has been read from the server. Columns that a crawl adds are then no finding of the other checks. `policy`
    makes the requests about parents.
    """

    def __init__(self, config: Config, backend: Backend, schema: Schema, policy: OpenPolicy) -> None:
        self._recorder = Recorder()
        self._parents = ParentsCheck(backend, schema, policy, self._recorder.logger)
        self._can = config.create.db_url is not None
        self._wanted = wanted_tables(config.tables.routes)
        self._backend = backend
        self._schema = schema
        if self._can:
            for name, one in self._wanted.items():
                schema.let_create(name, one.columns)

    def is_missing(self, spec: TableSpec) -> bool:
        """Return whether a table does not exist. Raises `TransientError` if the server does not answer."""
        if self._schema.info(spec.name) is not None:
            return False
        try:
            self._backend.write(Write(spec.name, (), b"[]", Mode.INSERT))
        except TransientError:
            raise
        except ServerError as refused:
            return isinstance(refused, FatalError) and refused.reason == "supabase_no_table"
        return False

    def table(self, spec: TableSpec) -> Iterator[Finding]:
        """Yield the findings for a table that does not exist, and for its parents. Raises `TransientError`."""
        subject, wanted = f"table {spec.name}", self._wanted[spec.name]
        if not self._can:
            problem = "does not exist, and a crawl cannot create it (SUPABASE_CREATE_TABLES): no connection string"
            yield error(subject, problem, "Set SUPABASE_DB_URL.")
            return
        when = "from its first rows" if wanted.is_open else f"with {pluralize(len(wanted.columns), 'column')}"
        yield ok(subject, f"does not exist: a crawl creates it {when} (SUPABASE_CREATE_TABLES)")
        try:
            self._parents.check(spec)
        except FatalError as failed:
            yield error(subject, failed.answer, failed.remedy)
        while self._recorder.problems:
            text, remedy = self._recorder.problems.pop(0)
            yield warning(subject, text.removeprefix(f"Table {spec.name}: "), remedy)

    def without_later(self, spec: TableSpec) -> TableSpec:
        """Return the spec without the option `unseen` if a crawl adds its columns: no request can try it before."""
        info, unseen = self._schema.info(spec.name), spec.unseen
        missing = {column for column in unseen.types if column not in info.columns} if unseen and info else set()
        added = {name for name, one in self._wanted[spec.name].columns.items() if one.sql_type} if self._can else set()
        return msgspec.structs.replace(spec, unseen=None) if missing and missing <= added else spec

    def columns(self, spec: TableSpec) -> Iterator[Finding]:
        """Yield the finding for columns that a table lacks."""
        wanted, info = self._wanted[spec.name], self._schema.info(spec.name)
        if info is None or not self._can:
            return
        if sql := sql_of_missing(wanted, info, self._schema):
            yield ok(
                f"table {spec.name}", f"a crawl adds columns that it lacks (SUPABASE_CREATE_TABLES): {sql.strip()}"
            )
