"""The stages put together, for a crawl (`pipeline.py`) and for scripts and commands (`upload.py`)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.backends.retry import Patience
from scrapy_supabase.delivery.engine import Delivery
from scrapy_supabase.delivery.observer import BegunUpload, RunObserver
from scrapy_supabase.delivery.pace import Pace
from scrapy_supabase.delivery.schema_check import SchemaCheck
from scrapy_supabase.delivery.uploader import Uploader
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Chunk, Mode, Outcome, Stored, TableSpec
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.chunks import Chunker
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.server import LOCAL
from scrapy_supabase.spool.disk import DiskSpool, NoSpool, Spool

if TYPE_CHECKING:
    from scrapy_supabase.local import LocalSupabase

logger = logging.getLogger(__name__)

_TOGETHER = 400  # rows; what a larger chunk costs is small beside them


def find_server(config: Config) -> tuple[Config, LocalSupabase | None]:
    """The config with the server's own URL, key and connection string. Blocks.

    For `"local"`, a server is started or joined, which the caller must stop.
    """
    if LOCAL not in (config.url, config.db_url):
        return config, None
    from scrapy_supabase.local import LocalSupabase

    schemas = dict.fromkeys(("public", config.schema))
    stack = LocalSupabase(config.local_dir, migrations=config.migrations or (), schemas=schemas, join=True)
    stack.start()
    db_url = stack.db_url if config.db_url == LOCAL else config.db_url
    return replace(config, url=stack.url, key=stack.service_role_key, db_url=db_url), stack


def new_schema(config: Config) -> Schema:
    """What is known of the tables before the server was asked."""
    return Schema(
        config.tables,
        unknown=config.unknown_columns,
        insert_fallback=config.insert_fallback,
        database_schema=config.schema,
        role=config.role,
    )


def new_backend(config: Config) -> Backend:
    """The server that takes the rows. Connects when it is first used."""
    if config.db_url:
        from scrapy_supabase.backends.postgres import PostgresBackend  # of an extra; 0.1 s

        return PostgresBackend(
            config.db_url, schema=config.schema, timeout=config.timeout, connections=config.concurrent_uploads
        )
    return PostgrestBackend(
        config.url,
        config.key,
        schema=config.schema,
        timeout=config.timeout,
        connections=config.concurrent_uploads,
        proxy=config.proxy,
    )


def begin(config: Config, backend: Backend, schema: Schema, run: Run, patience: Patience) -> None:
    """Check the tables and begin the run. Blocks; raises `FatalError` for what no upload can survive."""
    known, partly = _known_columns(config)
    attempts, delay = config.attempts, config.delay
    types = partial(_declared_types, config)
    SchemaCheck(
        backend, schema, known, attempts=attempts, delay=delay, patience=patience, partly=partly, types=types
    ).run()
    run.begin(backend, config, patience)


def new_spool(config: Config, schema: Schema, run: Run) -> DiskSpool | NoSpool:
    """The run's place on disk. Raises `ConfigurationError` where it cannot be written."""
    if config.spool_dir is None:
        return NoSpool()
    facts = {"run": run.id, "spider": run.spider, "project": config.host}
    return DiskSpool(config.spool_dir, run.folder, schema, facts, fsync=config.spool_fsync)


def assemble(
    config: Config,
    backend: Backend,
    schema: Schema,
    spool: Spool,
    observer: RunObserver,
    patience: Patience,
    wake: Callable[[], None],
    recovered: Sequence[Stored] = (),
    *,
    blocks: bool = False,
) -> Delivery:
    """Return the engine: rows in, outcomes to `observer`; `wake` is called in an upload thread.

    `blocks` says that its owner has nothing else to do while it waits. `recovered` is what earlier runs left in the
    spool, oldest first.
    """
    chunker = Chunker(
        max_rows=config.chunk_rows,
        max_bytes=config.chunk_bytes,
        max_age=config.flush_interval,
        mode=schema.mode,
        references=schema.references,
        open_file=spool.open,
        mixes=schema.may_mix,
        last=len(recovered),
    )

    def new_uploader(schema: Schema) -> Uploader:
        return Uploader(backend, schema, attempts=config.attempts, delay=config.delay, patience=patience)

    uploads = _Uploads(schema, new_uploader)
    patience.on_wait = wake
    return Delivery(
        uploads.upload,
        begin=uploads.begin,
        probe=uploads.probe,
        chunker=chunker,
        spool=spool,
        observer=observer,
        references=schema.references,
        in_turn=schema.has_unknown_key,
        pace=Pace(
            uploads=config.concurrent_uploads,
            rows=config.chunk_rows,
            most_rows=config.most_chunk_rows,
            waiting=lambda: patience.waiting,
        ),
        wake=wake,
        recovered=recovered,
        most_bytes=config.spool_max_bytes,
        longest_outage=config.max_outage,
        together=1 if blocks else _TOGETHER,
        blocks=blocks,
    )


class _Uploads:
    """The uploader of this run's tables, and others for what earlier runs were told to do otherwise. Thread-safe."""

    def __init__(self, schema: Schema, new_uploader: Callable[[Schema], Uploader]) -> None:
        self._schema = schema
        self._new = new_uploader
        self._own = new_uploader(schema)
        self._others: dict[tuple[str, Mode, tuple[str, ...]], Uploader] = {}
        self._lock = threading.Lock()
        self._said: set[str] = set()

    def begin(self, chunk: Chunk) -> BegunUpload | None:
        """See `delivery.Delivery`."""
        return self._own.begin(chunk) if chunk.origin is None else None

    def upload(self, chunk: Chunk) -> Outcome:
        """See `delivery.Delivery`."""
        if chunk.origin is None:
            return self._own.upload(chunk)
        table = chunk.table
        if chunk.possibly_duplicated and self._is_first(f"doubles {table}"):
            logger.warning(
                "Table %s: rows without a key that an earlier run left are uploaded: possibly duplicated if already "
                "stored when that run ended. To prevent that, set SUPABASE_ON_CONFLICT or SUPABASE_ROW_ID_COLUMN.",
                table,
            )
        outcome = self._of(table, chunk.origin.mode, chunk.origin.on_conflict).upload(chunk)
        if outcome.fatal is None or outcome.fatal.reason in _OF_THE_PROJECT:
            return outcome
        if self._is_first(f"fatal {table}"):
            logger.error(
                "Rows that an earlier run left for table %s cannot be uploaded and stay in the spool: %s",
                *(table, outcome.fatal),
            )
        return msgspec.structs.replace(outcome, fatal=None)  # what an earlier run left cannot close this one

    def probe(self, table: str) -> None:
        """See `delivery.Delivery`."""
        (self._own if table in self._schema.specs else self._of(table, Mode.IGNORE, ())).probe(table)

    def _of(self, table: str, mode: Mode, on_conflict: tuple[str, ...]) -> Uploader:
        spec = self._schema.specs.get(table)
        if spec is not None and (spec.mode, spec.on_conflict) == (mode, on_conflict):
            return self._own
        with self._lock:
            uploader = self._others.get((table, mode, on_conflict))
            if uploader is None:
                uploader = self._new(self._schema.with_table(TableSpec(table, mode, on_conflict)))
                self._others[table, mode, on_conflict] = uploader
            return uploader

    def _is_first(self, what: str) -> bool:
        with self._lock:
            first = what not in self._said
            self._said.add(what)
            return first


# What this run's own rows would meet, too.
_OF_THE_PROJECT = frozenset(
    {
        "supabase_unauthorized",
        "supabase_payment_required",
        "supabase_paused",
        "supabase_not_found",
        "supabase_schema_not_exposed",
        "supabase_read_only",
        "supabase_unavailable",
    }
)


def _known_columns(config: Config) -> tuple[Mapping[str, tuple[str, ...]], set[str]]:
    """What columns items are known to have before there is one: declared fields, mappings and stamps.

    Returns table → columns, and the tables of which these are not all.
    """
    known: dict[str, set[str]] = {}
    partly: set[str] = set()
    for item_class, spec in config.routes.items():
        names = known.setdefault(spec.name, set())
        declared = _declared_fields(item_class) if item_class and item_class is not dict else None
        names.update(spec.columns.get(name, name) for name in declared or spec.columns)
        names.update(spec.stamps)
        if not declared:
            partly.add(spec.name)
    return {table: tuple(names) for table, names in known.items()}, partly


def _declared_types(config: Config, table: str) -> dict[str, str]:
    """Column of a table → the type of what is sent to it, as far as an item class or a stamp says."""
    from scrapy_supabase.schema.item_fields import ItemField, columns_sent, fields_of  # few crawls need it

    found: dict[str, str] = {}
    for item_class, spec in config.routes.items():
        if spec.name == table:
            fields: Iterable[ItemField] = ()
            with suppress(ConfigurationError):  # annotations that cannot be read; `check` says so
                fields = (fields_of(item_class) if item_class else None) or ()
            found |= {column: one.sql_type for column, one in columns_sent(spec, fields).items()}
    return found


def _declared_fields(item_class: type) -> Iterable[str] | None:
    from itemadapter import ItemAdapter

    return ItemAdapter.get_field_names_from_class(item_class)
