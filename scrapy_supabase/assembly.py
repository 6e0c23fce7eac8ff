"""The stages put together, for a crawl (`pipeline.py`) and for scripts and commands (`upload.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.chunks import Chunker
from scrapy_supabase.delivery import Delivery, Observer
from scrapy_supabase.retry import Patience
from scrapy_supabase.run import Run
from scrapy_supabase.schema import Schema
from scrapy_supabase.schema_check import SchemaCheck
from scrapy_supabase.settings import Config
from scrapy_supabase.spool import Spool
from scrapy_supabase.uploader import Uploader


def new_schema(config: Config) -> Schema:
    """What is known of the tables before the server was asked."""
    return Schema(
        config.tables,
        unknown=config.unknown_columns,
        insert_fallback=config.insert_fallback,
        database_schema=config.schema,
        role=config.role,
    )


def new_backend(config: Config, url: str, key: str) -> Backend:
    """The server that takes the rows. Connects when it is first used."""
    return PostgrestBackend(
        url,
        key,
        schema=config.schema,
        timeout=config.timeout,
        connections=config.concurrent_uploads,
        proxy=config.proxy,
    )


def begin(config: Config, backend: Backend, schema: Schema, run: Run, patience: Patience) -> None:
    """Check the tables and begin the run. Blocks; raises `FatalError` for what no upload can survive."""
    SchemaCheck(
        backend, schema, _known_columns(config), attempts=config.attempts, delay=config.delay, patience=patience
    ).run()
    run.begin(backend, config, patience)


def assemble(
    config: Config,
    backend: Backend,
    schema: Schema,
    spool: Spool,
    observer: Observer,
    patience: Patience,
    wake: Callable[[], None],
) -> Delivery:
    """Return the engine: rows in, outcomes to `observer`; `wake` is called in an upload thread."""
    chunker = Chunker(
        max_rows=config.chunk_rows,
        max_bytes=config.chunk_bytes,
        max_age=config.flush_interval,
        mode=schema.mode,
        references=schema.references,
        open_file=spool.open,
    )
    uploader = Uploader(backend, schema, attempts=config.attempts, delay=config.delay, patience=patience)
    return Delivery(
        uploader.upload,
        begin=uploader.begin,
        chunker=chunker,
        spool=spool,
        observer=observer,
        references=schema.references,
        workers=config.concurrent_uploads,
        wake=wake,
    )


def _known_columns(config: Config) -> Mapping[str, tuple[str, ...]]:
    """Table → the columns its items are known to have before there is one: declared fields, mappings and stamps."""
    known: dict[str, set[str]] = {}
    for item_class, spec in config.routes.items():
        names = known.setdefault(spec.name, set())
        declared = _declared_fields(item_class) if item_class and item_class is not dict else None
        names.update(spec.columns.get(name, name) for name in declared or spec.columns)
        names.update(spec.stamps)
    return {table: tuple(names) for table, names in known.items()}


def _declared_fields(item_class: type) -> Iterable[str] | None:
    from itemadapter import ItemAdapter

    return ItemAdapter.get_field_names_from_class(item_class)
