"""The protocol of a spool, which keeps rows until they are uploaded, and the values it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from scrapy_supabase.models import Chunk, Origin, Outcome, Rejection, Row
from scrapy_supabase.rows.chunks import ChunkFile


class Stored(msgspec.Struct, frozen=True):
    """A chunk that is in the spool only: `file` has `size` bytes and `rows` rows, including superseded ones.

    The number of rows of a `recovered` chunk is unknown until its file is read, and its table if that has no header.
    `only_new`: see `OnlyNew`.
    """

    number: int
    file: str
    size: int
    table: str = ""
    rows: int | None = None
    tries: int = 0
    recovered: bool = False
    only_new: bool = False


class OnlyNew(Origin, frozen=True):
    """The origin of rows of which only those with new keys are stored: newer ones of the other keys may be stored."""


def is_only_new(chunk: Chunk) -> bool:
    """Return whether only the rows of a chunk whose keys are not stored yet are to be stored."""
    return isinstance(chunk.origin, OnlyNew)


class Loaded(msgspec.Struct, frozen=True):
    """The content of a chunk's file; `chunk` is None if the file has no rows.

    `torn`: the number of incomplete lines, which were being written when the process or the machine stopped.
    `damaged`: rejections of other unreadable lines. `recovered`: the file is of an earlier run.
    """

    chunk: Chunk | None
    torn: int = 0
    damaged: tuple[Rejection, ...] = ()
    recovered: bool = False


class Spool(Protocol):
    """A place that keeps rows. `settle` and `load` may be called in any thread, the others in the crawl's."""

    @property
    def folder(self) -> Path | None:
        """The folder of the spool, for messages; None if it keeps nothing."""

    def open(self, row: Row) -> ChunkFile:
        """Start the file of a chunk whose first row is `row`, without writing that row."""

    def reject(self, rejections: tuple[Rejection, ...], origin: Origin | None = None) -> None:
        """Keep rejected rows, with the `origin` of rows from an earlier run."""

    def settle(self, outcome: Outcome) -> None:
        """Keep the rejected rows, then forget those that are done; rows left over or deferred stay."""

    def leave(self, chunk: Chunk) -> tuple[Rejection, ...]:
        """Keep a chunk for the next run. Log rows that cannot be kept in full, and return them."""

    def store(self, chunk: Chunk) -> Stored | None:
        """Return a reference from which `load` restores the chunk; None if part of the chunk is not on disk."""

    def load(self, stored: Stored) -> Loaded:
        """Read a chunk back."""

    def count(self, stored: Stored) -> int:
        """Return the number of rows in a stored chunk, superseded ones included."""

    def close(self) -> None:
        """End the run; chunks that are not uploaded stay for the next one."""
