"""A chunk whose request the owner's thread has sent itself."""

from __future__ import annotations

from typing import Protocol

import msgspec

from scrapy_supabase.backends.base import PendingWrite, Write, WriteState
from scrapy_supabase.delivery.executor import Progress
from scrapy_supabase.delivery.upload_state import ParentIds, UploadState
from scrapy_supabase.errors import ServerError
from scrapy_supabase.models import Chunk, Outcome, Row


class ChunkUploader(Protocol):
    """What completes the upload of a sent chunk (`uploader.Uploader`)."""

    def stored(self, sent: SentChunk) -> Outcome | Progress:
        """Handle a sent request whose rows are stored."""

    def refused(self, sent: SentChunk) -> Outcome | Progress:
        """Handle a refused request."""

    def upload(self, chunk: Chunk, sent: SentChunk | None = None) -> Outcome:
        """Complete the upload. Blocks."""


class SentChunk(msgspec.Struct, eq=False):
    """A chunk with a request sent by `Uploader.send`. Implements `executor.PendingUpload`.

    `request` is None if the next request would block. `state` is the state of the upload, whose last slice is the one
    sent; None during the first request. `refusal` is the answer to the request if it has been read already. `ids` are
    those of the parents in `rows`.
    """

    uploader: ChunkUploader
    chunk: Chunk
    rows: tuple[Row, ...]
    write: Write
    request: PendingWrite | None
    started: float
    state: UploadState[SentChunk] | None = None
    refusal: ServerError | None = None
    ids: ParentIds | None = None

    def poll(self) -> Outcome | Progress:
        """Return the outcome if it is known, else the state of the upload. Never blocks."""
        if self.request is None or self.refusal is not None:
            return Progress.NEEDS_WAITING
        found = self.request.poll()
        if found is WriteState.NO_ANSWER:
            return Progress.NO_ANSWER
        return self.uploader.stored(self) if found is WriteState.STORED else self.uploader.refused(self)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when an answer arrives; -1 if no request is under way."""
        return -1 if self.request is None else self.request.fileno()

    def answer(self) -> None:
        """Wait for the answer to the request. Raises `ServerError`."""
        if self.refusal is not None:
            raise self.refusal
        if self.request is not None:
            self.request.finish()

    def finish(self) -> Outcome:
        """Complete the upload and return its outcome. Blocks."""
        return self.uploader.upload(self.chunk, self)

    def abandon(self) -> None:
        """Close the connection without reading the answer."""
        if self.request is not None:
            self.request.abandon()
