"""The record of a run, and the file that stores it: `last-run.json` in the spool (docs/reference/spool.md).

The file exists, and is complete, from the first second of a run on. A run without an end was killed.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from scrapy_supabase.errors import SupabaseError
from scrapy_supabase.messages import reason
from scrapy_supabase.monitoring.histogram import Histogram
from scrapy_supabase.monitoring.timeline import Timeline
from scrapy_supabase.spool.access import owner_remedy
from scrapy_supabase.spool.file_io import append

logger = logging.getLogger(__name__)

FORMAT = 1
FILE = "last-run.json"


class Rows(msgspec.Struct):
    """The counts of a table's rows. At the end, `received = uploaded + superseded + not_found + rejected + left`.

    `inserted`, `updated` and `unchanged` rows are parts of `uploaded`, where the way of writing tells them. Rows of
    earlier runs are counted separately (`recovered…`).
    """

    received: int = 0
    uploaded: int = 0
    superseded: int = 0
    not_found: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    left: int = 0
    recovered: int = 0
    recovered_rejected: int = 0
    recovered_left: int = 0
    recovered_superseded: int = 0
    recovered_outdated: int = 0  # also left in the spool, since newer rows may be stored

    @property
    def not_confirmed(self) -> int:
        """The number of received rows that had no outcome yet when the record was written."""
        return max(0, self.received - self.uploaded - self.superseded - self.not_found - self.rejected - self.left)


class Sample(msgspec.Struct):
    """A rejected row (field → value as JSON text) with the server's message, both without secrets."""

    message: str
    details: str | None
    hint: str | None
    row: dict[str, str]


class Rejects(msgspec.Struct):
    """The rejected rows of one table and code."""

    table: str
    code: str
    rows: int = 0
    samples: list[Sample] = []


class Outage(msgspec.Struct):
    """An outage of the server: its `start` in seconds after the start of the run, and its length in `seconds`."""

    start: float
    seconds: float


class Fatal(msgspec.Struct):
    """The error that stopped the uploads: finish reason, the server's message (`words`), and remedy."""

    reason: str
    words: str
    remedy: str


class LastRun(msgspec.Struct, kw_only=True):
    """The record of a run. Times are UTC, in ISO 8601. `ended` is None while the run goes on, or if it was killed."""

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
    # The server was unreachable when the record was written. The name in the file is the one that older versions read.
    offline: bool = msgspec.field(default=False, name="cut_off")
    versions: dict[str, str] = {}
    settings: dict[str, str] = {}
    crawl: dict[str, int] = {}  # Scrapy's own figures
    tables: dict[str, Rows] = {}
    figures: dict[str, float] = {}  # numbers of chunks, requests, retries and so on
    errors: dict[str, int] = {}  # code → number of answers
    timeline: Timeline = msgspec.field(default_factory=Timeline)
    latency: Histogram = msgspec.field(default_factory=Histogram)
    outages: list[Outage] = []
    outage_count: int = 0
    outage_seconds: float = 0.0
    rejects: list[Rejects] = []
    other_rejects: int = 0  # rejected rows of further tables and codes, beyond the limit of `rejects`

    @property
    def total(self) -> Rows:
        """The sum over all tables."""
        names = Rows.__struct_fields__
        return Rows(*(sum(getattr(rows, name) for rows in self.tables.values()) for name in names))


class UnreadableRunError(SupabaseError):
    """Raised if there is no readable record of a run. The message says what to do."""


class _Format(msgspec.Struct):
    format: int


def read_last_run(folder: Path) -> LastRun:
    """Return the record of a spool's last run. Raises `UnreadableRunError`."""
    path = folder / FILE
    try:
        data = b"" if path.is_fifo() or path.is_socket() else path.read_bytes()  # a pipe without writer would block
    except FileNotFoundError:
        raise UnreadableRunError(
            f"There is no run record in {folder} yet. Crawl first, or choose another spool with --spool."
        ) from None
    except OSError as error:
        remedy = owner_remedy(folder, error) or "Run this command as the user that ran the crawl."
        raise UnreadableRunError(f"{path} cannot be read: {reason(error)}. {remedy}") from error
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):
        found = msgspec.json.decode(data, type=_Format).format
        if found != FORMAT:
            raise UnreadableRunError(
                f"{path} has format {found}, but this version of scrapy-supabase reads format {FORMAT}. Use the "
                "version that wrote it, or crawl with this version first."
            )
        return msgspec.json.decode(data, type=LastRun)
    raise UnreadableRunError(f"{path} is not a valid run record. Delete it: the next crawl writes a new one.")


def write_whole(path: Path, data: bytes, name: str, *, private: bool) -> None:
    """Replace a file atomically: readers see either the old content or the new. Raises `OSError`.

    `name` must differ between concurrent writers of the file. `private` files are readable by their owner only.
    """
    path = _target(path)
    if path.is_fifo() or path.is_socket():
        raise OSError(errno.ENXIO, "it is a pipe, and would wait for a reader")
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device must not be replaced; a folder raises an error
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


def _target(path: Path) -> Path:
    """Return the file that a link leads to: the link itself must not be replaced. Raises `OSError`."""
    with suppress(RuntimeError):  # circular links, before Python 3.13
        target = path.resolve()
        if not target.is_symlink():  # circular links, from Python 3.13 on
            return target
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


class LastRunFile:
    """The file with the record of a run, in the spool's `folder` (None: no file), and its HTML report `page`.

    `page_of` renders the report. Thread-safe. Errors of writing are logged once and never raised: the rows are more
    important.
    """

    def __init__(self, folder: Path | None, page: Path | None, run: str, page_of: Callable[[LastRun], str]) -> None:
        self._page_of = page_of
        self._path = folder / FILE if folder else None
        self._page = page
        self._name = run[:8]
        self._ended = False
        self._warned: set[Path] = set()
        self._lock = threading.Lock()

    @property
    def is_wanted(self) -> bool:
        """Whether the record is written during the run."""
        return self._path is not None

    def write(self, data: bytes) -> None:
        """Write the record. Do nothing if its end has been written. Blocks."""
        with self._lock:
            if self._path is not None and not self._ended:
                self._write(self._path, data, private=True)

    def end(self, data: bytes) -> None:
        """Write the record one last time, and the report. Blocks."""
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
                logger.info("Report written to %s", self._page)

    def _write(self, path: Path, data: bytes, *, private: bool) -> bool:
        try:
            write_whole(path, data, self._name, private=private)
        except (OSError, ValueError) as error:  # ValueError: invalid names
            if path not in self._warned:
                logger.warning(
                    "Cannot write the record of this run to %s: %s. No row is affected. Make it writable, or set %s "
                    "to another path.",
                    path,
                    reason(error),
                    "SUPABASE_REPORT" if path == self._page else "SUPABASE_SPOOL_DIR",
                )
                self._warned.add(path)
            return False
        return True
