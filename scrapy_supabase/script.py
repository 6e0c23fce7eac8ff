"""The Python API for scripts: uploads rows without a spider. The commands `load` and `replay` use it, too.

client = init_supabase()  # SUPABASE_URL and SUPABASE_KEY of the environment
result = upload_to_supabase(client, rows, "books", on_conflict="url")
if not result:
    print(result.failed, "rows failed:", result.rejected[0].message)
"""

from __future__ import annotations

import atexit
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from scrapy_supabase.assembly import Destination, OpenRun, new_schema
from scrapy_supabase.delivery.waiting import OwnerWait
from scrapy_supabase.errors import ConfigurationError, FatalError, ItemError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Mode, Outcome, Rejection, Row
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.reject_log import RejectExamples
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.monitoring.upload_result import UploadResult
from scrapy_supabase.rows.children import FamilyBuilder, add_family
from scrapy_supabase.rows.chunks import OpenChunk
from scrapy_supabase.rows.selection import select_rows
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.explicit import project_of, script_config, server_of
from scrapy_supabase.settings.folders import local_folder
from scrapy_supabase.settings.server import LOCAL
from scrapy_supabase.spool.base import Spool, Stored
from scrapy_supabase.spool.no_spool import NoSpool

if TYPE_CHECKING:
    from supabase import Client

logger = logging.getLogger(__name__)

_NOT_SUPPORTED = "supabase {} is installed, which init_supabase does not support. Run: pip install 'supabase>=2.28,<3'"


def init_supabase(url: str | None = None, key: str | None = None) -> Client:
    """Return a supabase-py client for a project; by default for `SUPABASE_URL` and `SUPABASE_KEY`.

    `url="local"` starts or joins the local Supabase in `.scrapy/supabase-local` until the script ends. Raises
    `ConfigurationError` for missing or wrong values, and if supabase 3 is installed.
    """
    url, key = project_of(url, key)
    try:
        from supabase import create_client  # 0.6 s
    except ImportError:  # supabase 3.0.0a1 has it no longer
        raise ConfigurationError(_NOT_SUPPORTED.format(version("supabase"))) from None
    if url == LOCAL:
        from scrapy_supabase.local import LocalSupabase

        stack = LocalSupabase(local_folder(), join=True)
        stack.start()
        atexit.register(stack.stop)
        url, key = stack.url, stack.service_role_key
    return create_client(url, key)


# More than eight arguments: this is the public signature, and all but three are options.
def upload_to_supabase(
    client: Client,
    rows: Iterable[Any],
    table_name: str,
    *,
    top_n: int | None = None,
    order_by: str | None = None,
    upsert: bool = True,
    on_conflict: str | Sequence[str] | None = None,
    enable_daily_snapshots: bool = False,
    chunk_size: int | str | None = None,
    concurrent_uploads: int = 4,
    progress: bool | None = None,
    children: Mapping[str, Any] | None = None,
) -> UploadResult:
    """Upload `rows` to a table and return the result.

    `rows` are dicts, dataclasses, or any items that itemadapter supports; a generator is read during the upload.

    * `top_n`: the maximum number of rows to upload.
    * `order_by`: the field to sort by before the upload, descending, or ascending with `"field.asc"`. Rows without the
      field come last.
    * `upsert`: False to insert.
    * `on_conflict`: the columns that identify a row (default: the primary key).
    * `enable_daily_snapshots`: True to keep the rows of each run.
    * `chunk_size`: rows per chunk, or "auto" (default: `BATCH_CHUNK_SIZE`, or 100).
    * `concurrent_uploads`: the maximum number of concurrent uploads.
    * `progress`: True for a progress bar on standard error (default: only on a terminal).
    * `children`: fields whose lists become rows of other tables, as in the option `children` of a table.

    Raises `ConfigurationError` for wrong arguments, and `FatalError` if the table accepts no rows at all. Rejected rows
    and an error during the upload are part of the result.
    """
    config = script_config(
        server_of(str(client.supabase_url), client.supabase_key, client.options.schema),
        table_name,
        mode=Mode.UPSERT if upsert else Mode.INSERT,
        on_conflict=on_conflict,
        snapshots=enable_daily_snapshots,
        chunk_size=chunk_size,
        concurrency=concurrent_uploads,
        children=children,
    )
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 0):
        raise ConfigurationError(f"top_n is {top_n!r}: it must be a whole number of rows, 0 or more, or None for all.")
    source = select_rows(rows, top_n, order_by)
    total = len(source) if isinstance(source, Sequence) else None
    rejected: list[Rejection] = []
    spool = NoSpool(rejected.extend)
    with Upload(config, Run("upload_to_supabase"), new_schema(config), spool) as upload:
        upload.begin()
        upload.build_and_add(_with_progress(source, total, table_name, progress), total)
        upload.finish()
    return replace(upload.result, rejected=rejected)


class Upload:
    """An upload from the calling thread, which owns its engine. A context manager; used once.

    It is the `delivery.observer.RunObserver` of its engine. `spool` keeps rows that are not uploaded, and contains the
    `recovered` chunks. `progress` is called with the number of rows that have just been uploaded, superseded or
    rejected.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        schema: Schema,
        spool: Spool,
        *,
        recovered: Sequence[Stored] = (),
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.error: FatalError | None = None  # the error that ended the upload early
        self.examples = RejectExamples()
        self._config = config
        self._counters = counters = Counters()
        self._progress = progress
        self._chunks_expected: int | None = None
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._waiter = OwnerWait()
        # Events that are only counted.
        self.on_chunk_sealed = counters.on_chunk_sealed
        self.on_rows_kept = counters.on_rows_kept
        self.on_outdated = counters.on_outdated
        self.on_chunk_loaded = counters.on_chunk_loaded
        self.on_waited = counters.on_waited
        self.on_outage_end = counters.on_outage_end
        self.on_throttled = counters.on_throttled
        destination = Destination(config, schema)
        self._run = OpenRun(config, run, destination, spool, self, self._waiter.wake, recovered, blocks=True)
        self.builder = self._run.row_builder({}, counters.cleaned)
        self.families = self.builder if isinstance(self.builder, FamilyBuilder) else None

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._run.stop()
        self._run.destination.close()
        self._waiter.close()
        self._ended = time.perf_counter()

    @property
    def result(self) -> UploadResult:
        """The result so far."""
        return UploadResult.of(self._counters, self.error, (self._ended or time.perf_counter()) - self._started)

    def begin(self) -> None:
        """Check the table. Raises `FatalError` if it accepts no rows."""
        self._run.destination.begin(self._config, self._run.run)

    def build_and_add(self, items: Iterable[Any], total: int | None = None) -> None:
        """Build a row from each item and upload it. Stops early after a fatal error."""
        if total is not None and not self._config.upload.grows:
            self._chunks_expected = -(-total // self._config.upload.chunk_rows)
        take: Callable[[Any], bool] | None = None
        for item in items:
            if take is not None and take(item):
                continue
            if self.families is not None:
                if not self.add_family(self.families.rows_of(item)):
                    return
                continue
            row = self.build(item)
            if row is None:
                continue
            if not self.add(row):
                return
            chunk = self.open_chunk()
            take = self.builder.fast_path(item, chunk) if chunk is not None else None

    def build(self, item: Any, location: str = "") -> Row | None:
        """Return the row of an item; reject the item and return None if it cannot become a row."""
        try:
            return self.builder.build(item)
        except ItemError as error:
            self.reject((msgspec.structs.replace(self.builder.rejection(item, error), location=location),))
            return None

    def open_chunk(self) -> OpenChunk | None:
        """Return the chunk to which rows may be added without a call of `add`, if there is one."""
        return self._run.delivery.open_chunk()

    def reject(self, rejections: tuple[Rejection, ...]) -> None:
        """Count and keep items that cannot become rows."""
        for rejection in rejections:
            self._counters.refused(rejection)
        self.examples.add(rejections)
        self._run.spool.reject(rejections)

    def add_family(self, rows: Iterable[Row | Rejection]) -> bool:
        """Upload the rows of an item and its children, and reject what cannot become a row, as `add` and `reject`."""
        add_family(rows, self.add, self.reject)
        return self.error is None

    def add(self, row: Row) -> bool:
        """Upload a row. Return False after a fatal error."""
        waiting = self._run.delivery.add(row)
        if waiting is not None:
            self._waiter.wait(waiting, self._run.delivery)
        return self.error is None

    def finish(self) -> None:
        """Wait until every row is uploaded, rejected or left, and log a summary."""
        delivery = self._run.delivery
        self._waiter.wait(delivery.finish(), delivery)
        result = self.result
        logger.info(
            "%s uploaded, %d failed, in %.1f s: %s (%d not fully uploaded, %.3f s on average), %s, %d sent again",
            pluralize(result.uploaded, "row"),
            result.failed,
            result.seconds,
            pluralize(result.chunks, "chunk"),
            result.failed_chunks,
            result.average_chunk_seconds,
            pluralize(result.requests, "request"),
            result.retries,
        )

    def on_chunk_done(self, outcome: Outcome) -> None:
        """See `observer.RunObserver`."""
        self._counters.on_chunk_done(outcome)
        self.examples.add(outcome.rejections)
        self._progress(outcome.uploaded + outcome.superseded + len(outcome.rejections))
        logger.info(
            "Chunk %d%s: %d of %s uploaded to %s in %.3f s",
            self._counters.outcomes,
            f" of {self._chunks_expected}" if self._chunks_expected else "",
            outcome.uploaded,
            pluralize(len(outcome.chunk.rows), "row"),
            outcome.chunk.table,
            outcome.effort.seconds,
        )

    def on_fatal(self, error: FatalError) -> None:
        """See `observer.RunObserver`."""
        self.error = error
        logger.error("The upload ends early (%s): %s", error.reason, error)


def _with_progress(rows: Iterable[Any], total: int | None, table: str, wanted: bool | None) -> Iterable[Any]:
    if wanted is None:
        wanted = sys.stderr.isatty()
    if not wanted:
        return rows
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(rows, total=total, desc=table, unit=" rows", mininterval=0.5)
    return bar
