"""The assembly of a run's stages, for a crawl (`pipeline.py`) and for scripts and commands (`script.py`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from scrapy_supabase.backends.base import Backend
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.delivery.attempts import Sender
from scrapy_supabase.delivery.backlog import Backlog
from scrapy_supabase.delivery.engine import Delivery
from scrapy_supabase.delivery.executor import Executor
from scrapy_supabase.delivery.limits import Limits
from scrapy_supabase.delivery.lost_parents import LostParents
from scrapy_supabase.delivery.observer import RunObserver
from scrapy_supabase.delivery.outage import Outage
from scrapy_supabase.delivery.run_end import EndedRun, Step, check_function, steps_of
from scrapy_supabase.delivery.schedule import Schedule
from scrapy_supabase.delivery.schema_check import SchemaCheck
from scrapy_supabase.delivery.table_reader import TableReader
from scrapy_supabase.delivery.uploader import Uploader
from scrapy_supabase.delivery.uploaders import Uploaders
from scrapy_supabase.messages import pluralize
from scrapy_supabase.monitoring.crawl_observer import CrawlObserver
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.monitoring.stats import lost_pages
from scrapy_supabase.rows.builder import RowBuilder
from scrapy_supabase.rows.children import FamilyBuilder
from scrapy_supabase.rows.chunks import Chunker
from scrapy_supabase.rows.stamps import Stamp, stamps_of
from scrapy_supabase.schema.declared import DeclaredItems, known_columns
from scrapy_supabase.schema.routes import has_children
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.server import LOCAL
from scrapy_supabase.spool.base import Spool, Stored
from scrapy_supabase.spool.disk import DiskSpool
from scrapy_supabase.spool.no_spool import NoSpool

if TYPE_CHECKING:
    from scrapy_supabase.delivery.table_creator import TableCreator
    from scrapy_supabase.local import LocalSupabase

logger = logging.getLogger(__name__)


def find_server(config: Config) -> tuple[Config, LocalSupabase | None]:
    """Return the config with the server's actual URL, key and connection string. Blocks.

    If it is `"local"`, also start or join a local server and return it; the caller must stop it.
    """
    server = config.server
    if LOCAL not in (server.url, server.db_url):
        return config, None
    from scrapy_supabase.local import LocalSupabase

    schemas = dict.fromkeys(("public", server.schema))
    stack = LocalSupabase(server.local_dir, migrations=server.migrations or (), schemas=schemas, join=True)
    stack.start()
    db_url = stack.db_url if server.db_url == LOCAL else server.db_url
    found = replace(server, url=stack.url, key=stack.service_role_key, db_url=db_url)
    create = replace(config.create, db_url=stack.db_url) if config.create.db_url == LOCAL else config.create
    return replace(config, server=found, create=create), stack


def new_schema(config: Config) -> Schema:
    """Return the schema as the settings describe it, before the server has been asked."""
    return Schema(
        config.tables.specs,
        unknown=config.upload.unknown_columns,
        insert_fallback=config.upload.insert_fallback,
        database_schema=config.server.schema,
        role=config.server.role,
    )


def new_backend(config: Config) -> Backend:
    """Create the backend that the config asks for. It connects on first use."""
    server, connections = config.server, config.upload.concurrency
    if server.db_url:
        from scrapy_supabase.backends.postgres import PostgresBackend  # needs an extra; takes 0.1 s

        return PostgresBackend(server.db_url, schema=server.schema, timeout=server.timeout, connections=connections)
    return PostgrestBackend(
        server.url,
        server.key,
        schema=server.schema,
        timeout=server.timeout,
        connections=connections + _max_isolating(config),
        proxy=server.proxy,
    )


def _max_isolating(config: Config) -> int:
    """Return the number of extra chunks that may be in flight while bad rows are searched for.

    Over HTTP it equals the concurrency: with 50 ms of latency, a crawl with 1 % of bad rows then takes 1.1 times as
    long as one without, instead of 1.6 times (benchmarks/bad_rows). Over a database connection it is 0: connections are
    scarce, and the figure is good without.
    """
    return 0 if config.server.db_url else config.upload.concurrency


class Destination:
    """The server and the tables that a run uploads to. Connects on first use.

    `local` is the local server that was started or joined for this run, if any.
    """

    def __init__(self, config: Config, schema: Schema, local: LocalSupabase | None = None) -> None:
        self.schema = schema
        self.backend = new_backend(config)
        self.deadline = Deadline()
        upload = config.upload
        self._policy = OpenPolicy(upload.attempts, upload.delay, self.deadline, upload.open_timeout)
        self.creator: TableCreator | None = None
        if config.create.enabled:
            from scrapy_supabase.delivery.table_creator import new_creator  # few crawls need it

            self.creator = new_creator(config, schema, self.backend, self._policy)
        self._local = local

    @classmethod
    def find(cls, config: Config) -> Destination:
        """Create the destination that the config describes; start or join a `"local"` server. Blocks."""
        found, local = find_server(config)
        try:
            return cls(found, new_schema(found), local)
        except BaseException:
            if local is not None:
                local.stop()
            raise

    def begin(self, config: Config, run: Run, *, is_crawl: bool = False) -> None:
        """Check the tables and what a crawl calls at its end, then write the start of the run to the database. Blocks.

        Raises `FatalError` for a problem that makes every upload fail, and for a server that is unreachable, or busy
        for longer than `SUPABASE_OPEN_TIMEOUT`.
        """
        known, partly = known_columns(config.tables.routes)
        policy, declared = self._policy, DeclaredItems(config.tables.routes, is_local=self._local is not None)
        check = SchemaCheck(self.backend, self.schema, known, policy=policy, partly=partly, declared=declared)
        with policy.unavailable_is_fatal():
            check.run(self.creator)
            if is_crawl and config.tables.after_crawl is not None:
                check_function(config.tables.after_crawl, self.backend)
            run.begin(self.backend, config, policy)

    def reader(self) -> TableReader:
        """Return a reader of tables."""
        return TableReader(self.backend, self.schema, policy=self._policy)

    def described(self, tables: Iterable[str]) -> str:
        """Describe tables by name and number of columns: `books (5 columns), shops (2 columns)`."""

        def one(table: str) -> str:
            info = self.schema.info(table)
            return f"{table} ({pluralize(len(info.columns), 'column')})" if info else table

        return ", ".join(map(one, tables))

    def close(self) -> None:
        """Close the connections, and release a local server. Blocks."""
        self.backend.close()
        if self._local is not None:
            self._local.stop()


def new_spool(config: Config, schema: Schema, run: Run, *, appends: bool = False) -> DiskSpool | NoSpool:
    """Create the run's folder in the spool; `appends` is an argument of `DiskSpool`.

    Raises `ConfigurationError` if the folder is not writable.
    """
    if config.spool.folder is None:
        return NoSpool()
    facts = {"run": run.id, "spider": run.spider, "project": config.server.host}
    return DiskSpool(config.spool.folder, run.folder, schema, facts, fsync=config.spool.fsync, appends=appends)


class OpenRun:
    """A run with its stages: `delivery` takes the rows, `spool` keeps those not uploaded. Used once."""

    def __init__(
        self,
        config: Config,
        run: Run,
        destination: Destination,
        spool: Spool,
        observer: RunObserver,
        wake: Callable[[], None],
        recovered: Sequence[Stored] = (),
        *,
        blocks: bool = False,
    ) -> None:
        """Assemble the stages. `observer` receives the engine's events.

        `wake` is called in a worker thread when the owner should collect outcomes. `blocks` is true if the owner only
        waits meanwhile, as a script does. `recovered` are the chunks of earlier runs, oldest first.
        """
        self.config = config
        self.run = run
        self.destination = destination
        self.spool = spool
        self.delivery = self._delivery(observer, wake, recovered, blocks=blocks)

    def row_builder(self, stamps: Mapping[str, Stamp], on_cleaned: Callable[[str], None]) -> RowBuilder:
        """Return a builder of rows for this run. `stamps` are added to the run's own; `on_cleaned` gets table names."""
        routes = self.config.tables.routes
        kind = FamilyBuilder if has_children(routes) else RowBuilder
        return kind(routes, self.destination.schema, {**stamps_of(self.run), **stamps}, on_cleaned)

    def finish(self, within: float) -> Future[None]:
        """Return a future that is done when all rows are uploaded or left. No retry starts after `within` seconds."""
        self.destination.deadline.limit(within)
        return self.delivery.finish()

    def last_steps(self, observer: CrawlObserver, reason: str, stats: Mapping[str, Any]) -> Sequence[Step]:
        """Return what is left to do after the uploads of a crawl; see `delivery.run_end`. `stats` are Scrapy's."""
        destination, counters = self.destination, observer.counters
        ended = EndedRun(self.config, self.run, destination.backend, destination.schema, counters, reason)
        return steps_of(ended, [*lost_pages(stats), *observer.lost])

    def stop(self) -> None:
        """Stop uploading. Rows that are not uploaded stay in the spool."""
        self.destination.deadline.end()
        self.delivery.abandon()
        self.delivery.close()
        self.spool.close()

    def _delivery(
        self, observer: RunObserver, wake: Callable[[], None], recovered: Sequence[Stored], *, blocks: bool
    ) -> Delivery:
        """Assemble the engine."""
        upload, spool, destination = self.config.upload, self.spool, self.destination
        schema, deadline = destination.schema, destination.deadline
        chunker = Chunker(
            max_rows=upload.chunk_rows,
            max_bytes=upload.chunk_bytes,
            max_age=upload.flush_interval,
            mode=schema.mode,
            references=schema.references,
            open_file=spool.open,
            mixes=schema.may_mix,
            writing=schema.writing,
            last=len(recovered),
        )
        parents = LostParents(schema)
        attempts, delay = upload.attempts, upload.delay
        new_sender = partial(Sender, destination.backend, attempts=attempts, delay=delay, deadline=deadline)

        def new_uploader(schema: Schema) -> Uploader:
            return Uploader(new_sender(schema), parents)

        limits = Limits(
            concurrency=upload.concurrency,
            chunk_size=upload.chunk_rows,
            max_rows=upload.most_chunk_rows,
            waiting=lambda: deadline.waiting,
            max_isolating=_max_isolating(self.config),
        )
        uploads = Uploaders(schema, new_uploader, destination.creator)
        deadline.on_wait = wake
        return Delivery(
            Executor(uploads, limits, settle=spool.settle, wake=wake, blocks=blocks),
            Schedule(schema.references, schema.has_unknown_key, schema.families.parents, parents.keep),
            Backlog(spool, recovered, self.config.spool.max_bytes),
            Outage(upload.max_outage),
            chunker=chunker,
            observer=observer,
        )
