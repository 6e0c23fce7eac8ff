"""Rows without a spider: the engine of the pipeline for scripts, `load` and `replay`.

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
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scrapy_supabase.assembly import Destination, OpenRun, new_schema
from scrapy_supabase.delivery.waiting import OwnerWait
from scrapy_supabase.errors import ConfigurationError, FatalError, ItemError
from scrapy_supabase.messages import pluralize
from scrapy_supabase.models import Chunk, Loaded, Mode, Outcome, Rejection, Row, Stored
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.rows.selection import select_rows
from scrapy_supabase.schema.schema import Schema
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.explicit import project_of, script_config, server_of
from scrapy_supabase.settings.folders import local_folder
from scrapy_supabase.settings.server import LOCAL
from scrapy_supabase.spool.base import Spool
from scrapy_supabase.spool.no_spool import NoSpool

if TYPE_CHECKING:
    from supabase import Client

logger = logging.getLogger(__name__)


@dataclass
class UploadResult:
    """What became of the rows. True where every one is in the table.

    `failed` rows are not stored; `rejected` holds each of them, as JSON, with the reason. `error` is what ended the
    upload early: the rows after it were not read. `superseded` counts rows followed by another with the same key in
    the same chunk, `cleaned` those that lost characters which PostgreSQL cannot store, `reasons` failed rows by table
    and code. `seconds` are wall time, `chunk_seconds` the sum over chunks.
    """

    uploaded: int = 0
    failed: int = 0
    left: int = 0  # in the spool, where there is one
    superseded: int = 0
    cleaned: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    error: FatalError | None = None
    seconds: float = 0.0
    chunks: int = 0
    failed_chunks: int = 0
    requests: int = 0
    retries: int = 0
    chunk_seconds: float = 0.0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter, repr=False)

    @property
    def average_chunk_seconds(self) -> float:
        """How long a chunk took, retries and waits included."""
        return self.chunk_seconds / self.chunks if self.chunks else 0.0

    def __bool__(self) -> bool:
        return not self.failed and not self.left and self.error is None


def init_supabase(url: str | None = None, key: str | None = None) -> Client:
    """Return supabase-py's client for a project, by default that of `SUPABASE_URL` and `SUPABASE_KEY`.

    `url="local"` starts, or joins, the local Supabase in `.scrapy/supabase-local` until the script ends. Raises
    `ConfigurationError`, which lists what is missing or wrong.
    """
    url, key = project_of(url, key)
    from supabase import create_client  # 0.6 s

    if url == LOCAL:
        from scrapy_supabase.local import LocalSupabase

        stack = LocalSupabase(local_folder(), join=True)
        stack.start()
        atexit.register(stack.stop)
        url, key = stack.url, stack.service_role_key
    return create_client(url, key)


# More than eight arguments: the public signature, of which all but two are settings.
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
) -> UploadResult:
    """Upload `rows` (dicts, dataclasses, anything itemadapter knows; a generator is read as it is uploaded).

    `top_n` uploads only so many rows; `order_by` names the field that says which and in what order: the greatest first,
    or the smallest with `"field.asc"`; rows without it last. `upsert=False` inserts. `on_conflict` are the columns that
    make a row unique (default: the primary key). `chunk_size` is in rows, or "auto" (default: `BATCH_CHUNK_SIZE`, or
    100). `progress` shows a bar on standard error; by default where that is a terminal.

    Raises `ConfigurationError` for wrong arguments and `FatalError` where the table takes no rows at all; what happens
    to single rows, and an end in the middle, is in the result.
    """
    config = script_config(
        server_of(str(client.supabase_url), client.supabase_key, client.options.schema),
        table_name,
        mode=Mode.UPSERT if upsert else Mode.INSERT,
        on_conflict=on_conflict,
        snapshots=enable_daily_snapshots,
        chunk_size=chunk_size,
        concurrency=concurrent_uploads,
    )
    if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 0):
        raise ConfigurationError(f"top_n is {top_n!r}: it must be a whole number of rows, 0 or more, or None for all.")
    source = select_rows(rows, top_n, order_by)
    total = len(source) if isinstance(source, Sequence) else None
    result = UploadResult()
    spool = NoSpool(result.rejected.extend)
    with Upload(config, Run("upload_to_supabase"), new_schema(config), spool, result) as upload:
        upload.begin()
        upload.build_and_add(_with_progress(source, total, table_name, progress), total)
        upload.finish()
    return result


class Upload:
    """Feeds rows to the engine from the calling thread, which owns it. A context manager; used once.

    What happens is counted in `result`; `spool` keeps what is not uploaded, and may hold what is `recovered`.
    `progress` is told how many rows have just come to an end.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        schema: Schema,
        spool: Spool,
        result: UploadResult,
        *,
        recovered: Sequence[Stored] = (),
        progress: Callable[[int], object] = lambda _: None,
    ) -> None:
        self.result = result
        self._config = config
        self._progress = progress
        self._chunks_expected: int | None = None
        self._started = time.perf_counter()
        self._waiter = OwnerWait()
        destination = Destination(config, schema)
        self._run = OpenRun(config, run, destination, spool, self, self._waiter.wake, recovered, blocks=True)

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self._run.stop()
        self._run.destination.close()
        self._waiter.close()
        self.result.seconds = time.perf_counter() - self._started

    def begin(self) -> None:
        """Check the table. Raises `FatalError` where it takes no rows."""
        self._run.destination.begin(self._config, self._run.run)

    def build_and_add(self, items: Iterable[Any], total: int | None = None) -> None:
        """Build a row of each item and upload it. Ends early where nothing can be uploaded any more."""
        if total is not None and not self._config.upload.grows:
            self._chunks_expected = -(-total // self._config.upload.chunk_rows)
        builder = self._run.row_builder({}, self._cleaned)
        for item in items:
            try:
                row = builder.build(item)
            except ItemError as error:
                self.reject(builder.rejection(item, error))
                continue
            if not self.add(row):
                return

    def reject(self, rejection: Rejection) -> None:
        """Keep what cannot become a row."""
        self.result.failed += 1
        self.result.reasons[rejection.table, rejection.code] += 1
        self._run.spool.reject((rejection,))

    def add(self, row: Row) -> bool:
        """Upload a row. False where nothing can be uploaded any more."""
        waiting = self._run.delivery.add(row)
        if waiting is not None:
            self._waiter.wait(waiting, self._run.delivery)
        return self.result.error is None

    def finish(self) -> None:
        """Wait until every row is where it can be, and say how it went."""
        delivery = self._run.delivery
        self._waiter.wait(delivery.finish(), delivery)
        result = self.result
        result.seconds = time.perf_counter() - self._started
        logger.info(
            "%s uploaded, %d failed, in %.1f s: %s (%d failed, %.3f s on average), %s, %d sent again",
            *(pluralize(result.uploaded, "row"), result.failed, result.seconds, pluralize(result.chunks, "chunk")),
            *(
                result.failed_chunks,
                result.average_chunk_seconds,
                pluralize(result.requests, "request"),
                result.retries,
            ),
        )

    def on_chunk_sealed(self, chunk: Chunk) -> None:
        """See `observer.RunObserver`."""

    def on_chunk_done(self, outcome: Outcome) -> None:
        """See `observer.RunObserver`."""
        result, effort = self.result, outcome.effort
        result.chunks += 1
        result.uploaded += outcome.uploaded
        result.superseded += outcome.superseded
        result.failed += len(outcome.rejections)
        result.reasons.update((rejection.table, rejection.code) for rejection in outcome.rejections)
        self._progress(outcome.uploaded + outcome.superseded + len(outcome.rejections))
        result.failed_chunks += bool(outcome.rejections)
        result.requests += effort.requests
        result.retries += effort.retries
        result.chunk_seconds += effort.seconds
        logger.info(
            "Chunk %d%s: %d of %s uploaded to %s in %.3f s",
            *(result.chunks, f" of {self._chunks_expected}" if self._chunks_expected else "", outcome.uploaded),
            *(pluralize(len(outcome.chunk.rows), "row"), outcome.chunk.table, effort.seconds),
        )

    def on_rows_kept(self, kept: Chunk | Stored, rows: int) -> None:  # noqa: ARG002
        """See `observer.RunObserver`."""
        self.result.left += rows
        self.result.failed_chunks += 1

    def on_chunk_loaded(self, loaded: Loaded) -> None:
        """See `observer.RunObserver`."""
        self.result.failed += len(loaded.damaged)
        self.result.reasons.update((rejection.table, rejection.code) for rejection in loaded.damaged)

    def on_waited(self, seconds: float) -> None:
        """See `observer.RunObserver`."""

    def on_outage_end(self, seconds: float) -> None:
        """See `observer.RunObserver`."""

    def on_throttled(self) -> None:
        """See `observer.RunObserver`."""

    def on_fatal(self, error: FatalError) -> None:
        """See `observer.RunObserver`."""
        self.result.error = error
        logger.error("The upload ends early (%s): %s", error.reason, error)

    def _cleaned(self, _table: str) -> None:
        self.result.cleaned += 1


def _with_progress(rows: Iterable[Any], total: int | None, table: str, wanted: bool | None) -> Iterable[Any]:
    if wanted is None:
        wanted = sys.stderr.isatty()
    if not wanted:
        return rows
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(rows, total=total, desc=table, unit=" rows", mininterval=0.5)
    return bar
