"""Which rows in the spool may be older than what is stored, and the notes in runs.jsonl that this is known from."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from scrapy_supabase.models import Mode
from scrapy_supabase.spool.chunk_file import Header, now
from scrapy_supabase.spool.recovery import RunNote, note_run

_NOTED_EVERY = 600.0  # seconds


class LaterRuns:
    """The rule for rows that may be older than the stored rows: a later run stored rows in the same table.

    Only upserts by a key can replace newer rows.
    """

    def __init__(self, notes: Iterable[RunNote]) -> None:
        self._notes: dict[tuple[str, str], list[RunNote]] = {}  # by project and table, latest first
        for note in sorted(notes, key=lambda note: note.time, reverse=True):
            for table in note.tables:
                self._notes.setdefault((note.project, table), []).append(note)

    def may_be_newer(self, header: Header) -> bool:
        """Whether rows of a chunk may replace newer ones."""
        if header.mode is not Mode.UPSERT or not header.key:
            return False
        for note in self._notes.get((header.project, header.table), ()):
            if note.time < header.opened:
                return False
            if note.run != header.run:
                return True
        return False


class StoredNotes:
    """Writes down until when rows were stored in a table: with the first chunk, every ten minutes, and at the end.

    A chunk's file is deleted only after that: rows that are stored and not noted are in the spool, in their order.
    Raises `OSError` where it cannot be written.
    """

    def __init__(self, folder: Path, run: str, project: str) -> None:
        self._folder = folder
        self._run = run
        self._project = project
        self._until: dict[tuple[str, str], str] = {}  # run and table → when its last rows came
        self._noted: dict[tuple[str, str], float] = {}
        note_run(folder, run, project, ())

    def recovered(self, header: Header) -> None:
        """A chunk of an earlier run will be uploaded."""
        place = header.run, header.table
        self._until[place] = max(self._until.get(place, ""), header.opened)

    def stored(self, run: str | None, table: str) -> None:
        """Rows of a run (None: this one) were stored."""
        place = self._run if run is None else run, table
        if run is None:
            self._until[place] = now()
        elif place not in self._until:
            return  # rejected rows, sent again
        if time.monotonic() >= self._noted.get(place, -_NOTED_EVERY) + _NOTED_EVERY:
            with suppress(OSError):  # the next chunk tries again
                self._note(*place)
                self._noted[place] = time.monotonic()

    def close(self) -> None:
        """Write down the last times."""
        with suppress(OSError):
            for run, table in self._until:
                if run == self._run:
                    self._note(run, table)

    def _note(self, run: str, table: str) -> None:
        note_run(self._folder, run, self._project, (table,), self._until[run, table])
