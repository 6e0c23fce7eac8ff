"""Chunks that wait on disk: put off, read back, how many bytes."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator

from scrapy_supabase.messages import OWN_BUG
from scrapy_supabase.models import Chunk, Loaded, Stored
from scrapy_supabase.spool.base import Spool

logger = logging.getLogger(__name__)

Waiting = Chunk | Stored


class Backlog:
    """Chunks that line up, oldest first: in files of the `spool`, and in memory where it cannot hold them.

    `recovered` is what earlier runs left. It is full where its files hold more than `most_bytes`.
    """

    def __init__(self, spool: Spool, recovered: Iterable[Stored] = (), most_bytes: float = float("inf")) -> None:
        self.spool = spool
        self.loading: list[Stored] = []  # being read, older than all that waits
        self._waiting: deque[Waiting] = deque(recovered)
        self._bytes = sum(one.size for one in self._waiting if isinstance(one, Stored))
        self._most_bytes = most_bytes
        self._said_full = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self.loading)

    def put(self, chunk: Chunk) -> bool:
        """Line a chunk up by its age. Return whether it is on disk now."""
        stored = self.spool.store(chunk)
        if stored is not None:
            self._bytes += stored.size
        insert_by_age(self._waiting, stored or chunk)
        return stored is not None

    def take(self, room: int) -> tuple[list[Chunk], list[Stored]]:
        """Take the oldest, `room` at most: those in memory, and what must be read first (`loading` from then on)."""
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
        """Read chunks back. May be called in any thread."""
        loads: list[Loaded] = []
        for stored in batch:
            try:
                loads.append(self.spool.load(stored))
            except Exception:
                logger.exception("The spool file %s stays where it is because of a %s", stored.file, OWN_BUG)
                loads.append(Loaded(None))
        return loads

    def end_loading(self) -> bool:
        """Take in that what was `loading` is read. Return False where it was left meanwhile."""
        if not self.loading:
            return False
        self._bytes -= sum(stored.size for stored in self.loading)
        self.loading.clear()
        return True

    def has_older(self, number: int) -> bool:
        """Return whether a chunk older than the one of this number waits."""
        return bool(self._waiting) and self._waiting[0].number < number

    def take_all(self) -> Iterator[Waiting]:
        """Take all that waits or is being read."""
        yield from self.loading
        yield from self._waiting
        self.loading.clear()
        self._waiting.clear()

    def take_from_memory(self) -> list[Chunk]:
        """Take the chunks that are in no file."""
        found = [one for one in self._waiting if isinstance(one, Chunk)]
        self._waiting = deque(one for one in self._waiting if isinstance(one, Stored))
        return found

    def is_full(self) -> bool:
        """Return whether nothing more should be taken. Around the limit, one WARNING."""
        full = self._bytes > self._most_bytes
        if full and not self._said_full:
            logger.warning(
                "The spool in %s holds %.1f MiB that are not uploaded yet: nothing more is taken until there is less "
                "(SUPABASE_SPOOL_MAX_BYTES).",
                self.spool.folder,
                self._bytes / 2**20,
            )
        self._said_full = full or (self._said_full and 2 * self._bytes > self._most_bytes)
        return full


def insert_by_age(waiting: deque[Chunk] | deque[Waiting], one: Waiting) -> None:
    """Insert by age: what is new comes last, what was tried already comes near the front."""
    if not waiting or one.number > waiting[-1].number:
        waiting.append(one)  # type: ignore[arg-type]
        return
    at = next(at for at, other in enumerate(waiting) if one.number < other.number)
    waiting.insert(at, one)  # type: ignore[arg-type]
