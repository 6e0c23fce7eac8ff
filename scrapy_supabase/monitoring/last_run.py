"""What is known of one run, and the file that keeps it: `last-run.json` in the spool (docs/reference/spool.md).

The file is there, whole, from the first second of a run on; a run that was killed is one that did not end.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from scrapy_supabase.errors import SupabaseError
from scrapy_supabase.messages import reason
from scrapy_supabase.monitoring.histogram import Histogram
from scrapy_supabase.monitoring.timeline import Timeline
from scrapy_supabase.spool.file_io import append

logger = logging.getLogger(__name__)

FORMAT = 1
FILE = "last-run.json"


class Rows(msgspec.Struct):
    """What became of the rows of a table: `received = uploaded + superseded + rejected + left`.

    Those of earlier runs are counted apart.
    """

    received: int = 0
    uploaded: int = 0
    superseded: int = 0
    rejected: int = 0
    left: int = 0
    recovered: int = 0
    recovered_rejected: int = 0
    recovered_left: int = 0
    recovered_superseded: int = 0
    recovered_outdated: int = 0  # left, too: newer rows may be stored

    @property
    def not_confirmed(self) -> int:
        """Received rows that were on their way when this was written."""
        return max(0, self.received - self.uploaded - self.superseded - self.rejected - self.left)


class Sample(msgspec.Struct):
    """A rejected row: field → value as JSON text; and the server's words about it. Both without secrets."""

    message: str
    details: str | None
    hint: str | None
    row: dict[str, str]


class Rejects(msgspec.Struct):
    """The rejected rows of a table that have the same code."""

    table: str
    code: str
    rows: int = 0
    samples: list[Sample] = []


class Outage(msgspec.Struct):
    """The server was gone for `seconds`, from `start` (seconds since the run's) on."""

    start: float
    seconds: float


class Fatal(msgspec.Struct):
    """Why nothing was uploaded any more: the finish reason, the server's words, and what to do."""

    reason: str
    words: str
    remedy: str


class LastRun(msgspec.Struct, kw_only=True):
    """A run, as far as it got. Times are UTC, in ISO 8601; `ended` is None while it goes on, or where it was killed."""

    format: int = FORMAT
    run: str
    spider: str
    project: str
    spool: str | None
    started: str
    written: str
    ended: str | None = None
    seconds: float = 0.0
    reason: str | None = None
    fatal: Fatal | None = None
    cut_off: bool = False  # the server was gone when this was written
    versions: dict[str, str] = {}
    settings: dict[str, str] = {}
    crawl: dict[str, int] = {}  # figures of Scrapy itself
    tables: dict[str, Rows] = {}
    figures: dict[str, float] = {}  # chunks, requests, retries and so on
    errors: dict[str, int] = {}  # code → answers
    timeline: Timeline = msgspec.field(default_factory=Timeline)
    latency: Histogram = msgspec.field(default_factory=Histogram)
    outages: list[Outage] = []
    outage_count: int = 0
    outage_seconds: float = 0.0
    rejects: list[Rejects] = []
    other_rejects: int = 0  # rows of kinds for which there was no room

    @property
    def total(self) -> Rows:
        """The rows of all tables."""
        names = Rows.__struct_fields__
        return Rows(*(sum(getattr(rows, name) for rows in self.tables.values()) for name in names))


class UnreadableRunError(SupabaseError):
    """There is no last run, or none that this version can read. The message says what to do."""


class _Format(msgspec.Struct):
    format: int


def read_last_run(folder: Path) -> LastRun:
    """The last run of a spool. Raises `UnreadableRunError`."""
    path = folder / FILE
    try:
        data = b"" if path.is_fifo() or path.is_socket() else path.read_bytes()  # nobody writes there
    except FileNotFoundError:
        raise UnreadableRunError(
            f"There is no run in {folder} yet. Crawl first, or name the spool of another project with --spool."
        ) from None
    except OSError as error:
        raise UnreadableRunError(
            f"{path} cannot be read: {reason(error)}. Run this as the user the crawl ran as."
        ) from error
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        found = msgspec.json.decode(data, type=_Format).format
        if found != FORMAT:
            raise UnreadableRunError(
                f"{path} has format {found}, and this version of scrapy-supabase reads {FORMAT}. Use the version that "
                "wrote it, or crawl with this one first."
            )
        return msgspec.json.decode(data, type=LastRun)
    raise UnreadableRunError(f"{path} is not what a crawl writes there. Delete it: the next crawl writes a new one.")


def write_whole(path: Path, data: bytes, name: str, *, private: bool) -> None:
    """Write a file so that whoever reads it finds all of it or the one before. Raises `OSError`.

    `name` tells the writers of one file apart. `private` is for files that nobody else may read.
    """
    path = path.resolve()  # where it is a link, the file that it leads to is replaced
    if path.is_fifo() or path.is_socket():
        raise OSError(errno.ENXIO, "it is a pipe, and would wait for a reader")
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device must stay what it is; a folder is an error
        return
    new = path.with_name(f".{path.name}.{name}")
    new.unlink(missing_ok=True)
    try:
        if private:
            append(new, data, fsync=False)
        else:
            new.write_bytes(data)
        new.replace(path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise


class LastRunFile:
    """Where a run is written to: its spool's `folder` (None: nowhere) and, at the end, the HTML page `page`.

    `page_of` makes the page of what is known of the run.

    Thread-safe. What cannot be written is said once and never raised: the rows are more important.
    """

    def __init__(self, folder: Path | None, page: Path | None, run: str, page_of: Callable[[LastRun], str]) -> None:
        self._page_of = page_of
        self._path = folder / FILE if folder else None
        self._page = page
        self._name = run[:8]
        self._ended = False
        self._said: set[Path] = set()
        self._lock = threading.Lock()

    @property
    def is_wanted(self) -> bool:
        """Whether anything is written while the run goes on."""
        return self._path is not None

    def write(self, data: bytes) -> None:
        """Write down how it goes; nothing, where the end is written already. Blocks."""
        with self._lock:
            if self._path is not None and not self._ended:
                self._write(self._path, data, private=True)

    def end(self, data: bytes) -> None:
        """Write down how it went, and the page. Blocks."""
        self.write(data)
        with self._lock:
            self._ended = True
            if self._page is None:
                return
            try:
                html = self._page_of(msgspec.json.decode(data, type=LastRun))
            except Exception:
                logger.exception(
                    "The report could not be made because of a bug in scrapy-supabase; no row is affected: please "
                    "report it with the lines below."
                )
                return
            with suppress(OSError):
                self._page.parent.mkdir(parents=True, exist_ok=True)
            if self._write(self._page, html.encode("utf-8", "replace"), private=False):
                logger.info("What this run did is in %s", self._page)

    def _write(self, path: Path, data: bytes, *, private: bool) -> bool:
        try:
            write_whole(path, data, self._name, private=private)
        except (OSError, RuntimeError, ValueError) as error:  # also links in a circle, names that no system knows
            if path not in self._said:
                logger.warning(
                    "What this run did cannot be written to %s: %s. No row is concerned. Free space there, or set %s "
                    "to another place.",
                    path,
                    reason(error),
                    "SUPABASE_REPORT" if path == self._page else "SUPABASE_SPOOL_DIR",
                )
                self._said.add(path)
            return False
        return True
