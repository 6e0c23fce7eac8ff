"""The order of uploads: by age per key, parents before children, deferred rows last. No threads, clock or disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from scrapy_supabase.delivery.backlog import insert_by_age
from scrapy_supabase.models import Chunk, Mode, may_overlap

# Deferred chunks are kept in memory, and a row with a dangling foreign key should not wait until the crawl ends.
_MAX_DEFERRED = 32
_NO_KEYS: set[str] = set()


class Schedule:
    """The unfinished chunks in memory: `queue`, `in_flight` and `deferred`.

    Chunks that may share a key start one after the other, oldest first. The same holds for all chunks of a table whose
    key is unknown (`is_serial(table)`). A chunk starts after older chunks of the tables that its rows may refer to
    (`references(table)`). Other chunks start in any order.

    Deferred rows refer to rows that may come later. They are tried one last time when no more rows come, when a newer
    version of one of them is queued, or when more than 32 chunks are deferred. Rows of a child table wait with those of
    its parents (`parents(table)`). `on_kept` is called with each chunk that is left for the next run.
    """

    def __init__(
        self,
        references: Callable[[str], frozenset[str]],
        is_serial: Callable[[str], bool] = lambda _: False,
        parents: Callable[[str], frozenset[str]] = lambda _: frozenset(),
        on_kept: Callable[[Chunk], object] = lambda _: None,
    ) -> None:
        self._references = references
        self._is_serial = is_serial
        self._parents = parents
        self._on_kept = on_kept
        # A chunk is in exactly one of these three. Of chunks that share a key, those in flight are older than those
        # deferred, which are older than those queued.
        self.in_flight: dict[int, Chunk] = {}
        self.deferred: deque[Chunk] = deque()
        self.queue: deque[Chunk] = deque()  # oldest first
        self._kept_keys: dict[str, set[str]] = {}  # table → keys of rows left for the next run

    @property
    def is_empty(self) -> bool:
        """Whether no chunk is in memory."""
        return not (self.queue or self.in_flight or self.deferred)

    def add(self, chunk: Chunk) -> None:
        """Queue a chunk behind all others."""
        self.queue.append(chunk)

    def put_back(self, chunk: Chunk) -> None:
        """Queue a chunk again that has been tried, at the place of its age."""
        insert_by_age(self.queue, chunk)

    def defer(self, chunk: Chunk) -> None:
        """Keep a chunk whose rows refer to rows that may still come."""
        self.deferred.append(chunk)

    def end(self, number: int) -> Chunk:
        """Remove a finished chunk from `in_flight` and return it."""
        return self.in_flight.pop(number)

    def keep(self, chunk: Chunk) -> None:
        """Record that a chunk is left for the next run, so that no chunk with newer versions of its rows starts.

        Rows of an earlier run do not hold back newer ones.
        """
        if chunk.origin is None:
            self._kept_keys.setdefault(chunk.table, set()).update(chunk.keys)
        self._on_kept(chunk)

    def take_kept(self) -> Iterator[Chunk]:
        """Remove and yield the queued chunks of which the next run has older versions."""
        for chunk in list(self.queue):
            if may_overlap(self._kept_keys.get(chunk.table, _NO_KEYS), chunk.keys):
                self.queue.remove(chunk)
                yield chunk

    def take_all(self) -> list[Chunk]:
        """Remove and return all chunks that are not in flight, deferred ones first."""
        found = [*self.deferred, *self.queue]
        self.deferred.clear()
        self.queue.clear()
        return found

    def start_overdue(self, has_room: Callable[[], bool]) -> Iterator[Chunk]:
        """Start deferred chunks while there are more than 32."""
        while len(self.deferred) > _MAX_DEFERRED and has_room():
            if self._must_wait_for_any(self.deferred[0], self.in_flight.values()):
                return
            yield self._start(self.deferred.popleft())

    def start_eligible(self, has_room: Callable[[], bool]) -> Iterator[Chunk]:
        """Start queued chunks, oldest first, except those that must wait for an older chunk."""
        waiting: list[Chunk] = []
        for chunk in list(self.queue):
            if not has_room():
                return
            older = (*waiting, *self.in_flight.values())
            if self._must_wait_for_any(chunk, older):
                waiting.append(chunk)
            elif (parents := self._parents(chunk.table)) and any(one.table in parents for one in self.deferred):
                self.queue.remove(chunk)
                self.deferred.append(chunk)
            elif any(_share_key(chunk, one) for one in self.deferred):
                waiting.append(chunk)
            else:
                self.queue.remove(chunk)
                yield self._start(chunk)

    def start_deferred(self, *, is_last: bool) -> Iterator[Chunk]:
        """Start one deferred chunk if the queue waits for it, or if no more rows come (`is_last`).

        It starts only when nothing is in flight: whatever it may refer to has been stored by then, and a chunk that is
        still queued can only be waiting for a deferred one.
        """
        if self.deferred and not self.in_flight and (self.queue or is_last):
            chunk = self._next_deferred()
            self.deferred.remove(chunk)
            yield self._start(chunk)

    def _start(self, chunk: Chunk) -> Chunk:
        self.in_flight[chunk.number] = chunk
        return chunk

    def _next_deferred(self) -> Chunk:
        """Return the deferred chunk that blocks the queue, else one that refers to no other deferred chunk."""
        if self.queue:
            return next(chunk for chunk in self.deferred if _share_key(self.queue[0], chunk))
        tables = {chunk.table for chunk in self.deferred}
        parents = (chunk for chunk in self.deferred if not tables & self._references(chunk.table) - {chunk.table})
        return next(parents, self.deferred[0])

    def _must_wait_for_any(self, chunk: Chunk, older: Iterable[Chunk]) -> bool:
        """Return whether `chunk` may only be uploaded after one of `older`."""
        return any(self._must_wait(chunk, one) for one in older)

    def _must_wait(self, chunk: Chunk, older: Chunk) -> bool:
        if _share_key(chunk, older):
            return True
        if older.table in self._references(chunk.table):
            # A child's parent is never in a newer chunk; a row that is referred to otherwise may be.
            return older.number < chunk.number or older.table not in self._parents(chunk.table)
        if chunk.table != older.table:
            return False
        # Another run may have used another key.
        is_foreign = older.origin is not None and _mode_and_key(chunk) != _mode_and_key(older)
        return is_foreign or self._is_serial(chunk.table)


def _mode_and_key(chunk: Chunk) -> tuple[Mode, tuple[str, ...]] | None:
    """Return the mode and key with which an earlier run built the chunk; None for a chunk of this run."""
    return (chunk.origin.mode, chunk.origin.on_conflict) if chunk.origin else None


def _share_key(chunk: Chunk, other: Chunk) -> bool:
    return chunk.table == other.table and may_overlap(chunk.keys, other.keys)
