"""The queue of chunks that wait on disk, with its size in bytes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from scrapy_supabase.messages import OWN_BUG
from scrapy_supabase.models import Chunk
from scrapy_supabase.spool.base import Loaded, Spool, Stored

logger = logging.getLogger(__name__)

Waiting = Chunk | Stored


class Backlog:
    """A queue of chunks, oldest first: in files of the `spool`, or in memory if the spool cannot store them.

    `recovered` are the chunks that earlier runs left. The backlog is full when its files hold more than `max_bytes`.
    """

    def __init__(self, spool: Spool, recovered: Iterable[Stored] = (), max_bytes: float = float("inf")) -> None:
        self.spool = spool
        self.loading: list[Stored] = []  # being read; all older than `_waiting`
        self._waiting: deque[Waiting] = deque(recovered)
        self._bytes = sum(one.size for one in self._waiting if isinstance(one, Stored))
        self._max_bytes = max_bytes
        self._warned_full = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self.loading)

    def put(self, chunk: Chunk) -> bool:
        """Queue a chunk at the place of its age. Return whether it is on disk now."""
        stored = self.spool.store(chunk)
        if stored is not None:
            self._bytes += stored.size
        insert_by_age(self._waiting, stored or chunk)
        return stored is not None

    def extend(self, found: Sequence[Stored]) -> None:
        """Queue chunks of another run, newer than all others."""
        self._waiting.extend(found)
        self._bytes += sum(one.size for one in found)

    def take(self, room: int) -> tuple[list[Chunk], list[Stored]]:
        """Take the `room` oldest chunks at most: those in memory, and those to read from disk.

        The latter are in `loading` until `end_loading`. Nothing is taken while others are being read.
        """
        ready: list[Chunk] = []
        while self._waiting and not self.loading and len(ready) < room:
            first = self._waiting[0]
            if isinstance(first, Chunk):
                ready.append(first)
                self._waiting.popleft()
                continue
            while self._waiting and len(ready) + len(self.loading) < room:
                first = self._waiting[0]
                if isinstance(first, Chunk):
                    break
                self.loading.append(first)
                self._waiting.popleft()
            return ready, list(self.loading)
        return ready, []

    def load(self, batch: Iterable[Stored]) -> list[Loaded]:
        """Read chunks from disk. Thread-safe."""
        loads: list[Loaded] = []
        for stored in batch:
            try:
                loads.append(self.spool.load(stored))
            except Exception:
                logger.exception("Spool file %s stays where it is, unread, because of a %s", stored.file, OWN_BUG)
                loads.append(Loaded(None))
        return loads

    def end_loading(self) -> bool:
        """Remove the chunks in `loading`, which have been read. Return False if they were taken away meanwhile."""
        if not self.loading:
            return False
        self._bytes -= sum(stored.size for stored in self.loading)
        self.loading.clear()
        return True

    def has_older(self, number: int) -> bool:
        """Return whether a chunk older than this number waits."""
        return bool(self._waiting) and self._waiting[0].number < number

    def take_all(self) -> Iterator[Waiting]:
        """Remove and yield all chunks, those being read included."""
        yield from self.loading
        yield from self._waiting
        self.loading.clear()
        self._waiting.clear()

    def take_from_memory(self) -> list[Chunk]:
        """Remove and return the chunks that are in no file."""
        found = [one for one in self._waiting if isinstance(one, Chunk)]
        self._waiting = deque(one for one in self._waiting if isinstance(one, Stored))
        return found

    def is_full(self) -> bool:
        """Return whether the files hold more than `max_bytes`. Log a WARNING once, and again after they halved."""
        full = self._bytes > self._max_bytes
        if full and not self._warned_full:
            logger.warning(
                "The spool in %s holds %.1f MiB of rows to upload, more than SUPABASE_SPOOL_MAX_BYTES allows: items "
                "wait until it holds less.",
                self.spool.folder,
                self._bytes / 2**20,
            )
        self._warned_full = full or (self._warned_full and 2 * self._bytes > self._max_bytes)
        return full


def insert_by_age(waiting: deque[Chunk] | deque[Waiting], one: Waiting) -> None:
    """Insert a chunk by age: a new one comes last, one that has been tried comes near the front."""
    if not waiting or one.number > waiting[-1].number:
        waiting.append(one)  # type: ignore[arg-type]
        return
    at = next(at for at, other in enumerate(waiting) if one.number < other.number)
    waiting.insert(at, one)  # type: ignore[arg-type]
