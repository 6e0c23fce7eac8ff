"""The adoption of dead runs' folders: which of their chunks are uploaded by this run, and which stay."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from scrapy_supabase.models import Mode, WriteOptions
from scrapy_supabase.spool.base import Stored
from scrapy_supabase.spool.chunk_file import Header, UnreadableError, count_rows, read_header
from scrapy_supabase.spool.later_runs import LaterRuns, StoredNotes
from scrapy_supabase.spool.run_folders import RunFolder, chunk_files, dead_runs, runs_noted


class Recovery:
    """The folders of dead runs that a run of `project` has adopted. Thread-safe.

    `own_tables` are the tables of this run's rows. `learn` is called with the header of each chunk that is taken.
    `outdated` and `of_others` are explained in `DiskSpool.recover`.
    """

    def __init__(
        self,
        folder: Path,
        project: str,
        notes: StoredNotes,
        own_tables: Collection[str],
        learn: Callable[[Header], None],
    ) -> None:
        self.outdated: Counter[str] = Counter()  # table → rows that were not taken
        self.of_others: dict[str, tuple[int, int]] = {}  # other project → its chunks and rows
        self._folder = folder
        self._project = project
        self._notes = notes
        self._own_tables = own_tables
        self._learn = learn
        self._adopted: list[RunFolder] = []
        self._left: set[str] = set()  # names of folders from which nothing was taken
        self._lock = threading.Lock()
        self._is_closed = False

    def find(
        self, wanted: Callable[[Path, Header], bool] | None, mode: Mode | None, project: str | None, *, is_alive: bool
    ) -> list[Stored]:
        """Implement `DiskSpool.recover`."""
        found: list[Stored] = []
        with self._lock:
            if self._is_closed:
                return []
            later = LaterRuns(runs_noted(self._folder) if mode is None else (), self._project)
            for folder in dead_runs(self._folder):
                if is_alive and folder.path.name in self._left:  # looked at a minute ago
                    folder.release()
                    continue
                before = len(found)
                if (other := folder.project()) in (None, self._project if project is None else project):
                    self._take(folder, found, later, wanted, mode, is_alive=is_alive)
                else:
                    self._count_others(folder, other or "")
                if len(found) > before:
                    self._adopted.append(folder)
                else:
                    self._left.add(folder.path.name)
                    folder.leave()  # nothing was taken from it: another process may adopt it
        return found

    def close(self) -> None:
        """Release the folders; remove the empty ones."""
        with self._lock:
            self._is_closed = True
            for folder in self._adopted:
                with suppress(OSError):
                    folder.leave()
            self._adopted.clear()

    def _take(
        self,
        folder: RunFolder,
        found: list[Stored],
        later: LaterRuns,
        wanted: Callable[[Path, Header], bool] | None,
        mode: Mode | None,
        *,
        is_alive: bool,
    ) -> None:
        """Add the chunks of a folder to `found`."""
        folder.tidy()
        for path in chunk_files(folder.path):
            header = _header_of(path)
            if wanted is not None and (header is None or not wanted(path, header)):
                continue
            only_new = False
            if header is not None:
                if later.may_replace_newer(header) or (is_alive and self._may_have_stored(header)):
                    only_new = is_alive and header.mode is Mode.UPSERT and header.options == WriteOptions()
                    if not only_new:
                        self.outdated[header.table] += count_rows(path)
                        continue
                self._notes.recovered(header)
                self._learn(header)
            name, table = f"{folder.path.name}/{path.name}", header.table if header is not None else ""
            one = Stored(0, name, path.stat().st_size, table, recovered=True, only_new=only_new)
            is_reversed = mode is Mode.IGNORE and header is not None and header.mode is not Mode.IGNORE
            found.insert(0 if is_reversed else len(found), one)

    def _may_have_stored(self, header: Header) -> bool:
        """Return whether this run may have stored newer rows of the same keys."""
        return header.mode.updates and bool(header.key) and header.table in self._own_tables

    def _count_others(self, folder: RunFolder, project: str) -> None:
        chunks, rows = self.of_others.get(project, (0, 0))
        for path in chunk_files(folder.path):
            with suppress(OSError):
                chunks, rows = chunks + 1, rows + count_rows(path)
        self.of_others[project] = chunks, rows


def _header_of(path: Path) -> Header | None:
    """Return the header of a chunk's file, or None if it cannot be read: `DiskSpool.load` logs that."""
    with suppress(UnreadableError, OSError):
        return read_header(path)
    return None
