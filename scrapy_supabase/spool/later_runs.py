"""The rule for spooled rows that may be older than the stored ones, and the notes in runs.jsonl behind it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from scrapy_supabase.spool.chunk_file import Header, now
from scrapy_supabase.spool.run_folders import RunNote, note_run, runs_noted

_NOTED_EVERY = 600.0  # seconds
_CLOCKS_DIFFER = timedelta(minutes=10)


class LaterRuns:
    """The rule for spooled rows that may be older than the stored ones: a later run stored rows in the same table.

    Only an upsert or update by a key can replace a newer row. `project` is the one that the rows are uploaded to;
    theirs may be another (`replay --project`).
    """

    def __init__(self, notes: Iterable[RunNote], project: str) -> None:
        self._project = project
        self._notes: dict[tuple[str, str], list[RunNote]] = {}  # by project and table, latest first
        for note in sorted(notes, key=lambda note: note.time, reverse=True):
            for table in note.tables:
                self._notes.setdefault((note.project, table), []).append(note)

    def may_replace_newer(self, header: Header) -> bool:
        """Return whether uploading a chunk with this header may replace newer rows."""
        if not header.mode.updates or not header.key:
            return False
        return any(self._is_later(header, project) for project in {header.project, self._project})

    def _is_later(self, header: Header, project: str) -> bool:
        for note in self._notes.get((project, header.table), ()):
            if note.time < header.opened:
                return False
            if note.run != header.run:
                return True
        return False


def notes_for_replay(folder: Path, own: Path | None) -> list[RunNote]:
    """Return the notes of a spool, and if it is a copy, also those of the spool of this machine (`own`).

    Their clocks may differ: a run of this machine also counts as later if it ended ten minutes before. Notes that the
    copy has, too, are of one machine. Raises `ConfigurationError`.
    """
    notes = runs_noted(folder)
    if own is None or own.resolve() == folder:
        return notes
    copied = frozenset(notes)
    return [*notes, *(_ten_minutes_later(note) for note in runs_noted(own) if note not in copied)]


def _ten_minutes_later(note: RunNote) -> RunNote:
    with suppress(ValueError):
        later = datetime.fromisoformat(note.time) + _CLOCKS_DIFFER
        return msgspec.structs.replace(note, time=later.isoformat(timespec="microseconds"))
    return note


class StoredNotes:
    """The notes of a run: the time until which its rows in a table are stored.

    A note is written with a table's first chunk, every ten minutes, and at the end. A chunk's file is deleted only
    after its note: rows that are stored but not noted are still in the spool, in their order. Raises `OSError` if
    runs.jsonl is not writable.
    """

    def __init__(self, folder: Path, run: str, project: str) -> None:
        self._folder = folder
        self._run = run
        self._project = project
        self._until: dict[tuple[str, str], str] = {}  # run and table → time at which its last rows came
        self._noted: dict[tuple[str, str], float] = {}  # run and table → `time.monotonic()` of the last note
        note_run(folder, run, project, ())

    def recovered(self, header: Header) -> None:
        """Register a chunk of an earlier run that will be uploaded."""
        place = header.run, header.table
        self._until[place] = max(self._until.get(place, ""), header.opened)

    def stored(self, run: str | None, table: str) -> None:
        """Register that rows of a run (None: this one) were stored, and write the note if it is due."""
        place = self._run if run is None else run, table
        if run is None:
            self._until[place] = now()
        elif place not in self._until:
            return  # rejected rows that `replay` sent again
        if time.monotonic() >= self._noted.get(place, -_NOTED_EVERY) + _NOTED_EVERY:
            with suppress(OSError):  # the next chunk tries again
                self._note(*place)
                self._noted[place] = time.monotonic()

    def close(self) -> None:
        """Write the last note of each table."""
        with suppress(OSError):
            for run, table in self._until:
                if run == self._run:
                    self._note(run, table)

    def _note(self, run: str, table: str) -> None:
        note_run(self._folder, run, self._project, (table,), self._until[run, table])
