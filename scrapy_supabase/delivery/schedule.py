"""Which chunk may start next: order per key, parents before children, deferred rows. No threads, no clock, no disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from scrapy_supabase.delivery.backlog import insert_by_age
from scrapy_supabase.models import Chunk, Mode, may_overlap

# They are kept in memory; a row whose foreign key leads nowhere should not wait for the end of the crawl either.
_MOST_DEFERRED = 32
_NONE: set[str] = set()


class Schedule:
    """The chunks in memory that are not done: `queue`, `in_flight` and `deferred`.

    Chunks that may share a key start in the order in which they were sealed, one after the other, and so do those of a
    table whose key is not known (`in_turn(table)`); a chunk starts after those of tables that its rows may refer to
    (`references(table)`); all others in any order.

    Deferred rows refer to others that may come later. They are tried a last time when the rows come to an end, when a
    newer version of one of them waits, or when more than 32 chunks are deferred.
    """

    def __init__(
        self, references: Callable[[str], frozenset[str]], in_turn: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._references = references
        self._in_turn = in_turn
        # A chunk is in one of these; each is older than those of the next that share a key with it.
        self.in_flight: dict[int, Chunk] = {}
        self.deferred: deque[Chunk] = deque()
        self.queue: deque[Chunk] = deque()  # oldest first
        self._kept_keys: dict[str, set[str]] = {}  # table → keys of rows that stay for the next run

    @property
    def is_empty(self) -> bool:
        """Whether there is no chunk in memory."""
        return not (self.queue or self.in_flight or self.deferred)

    def add(self, chunk: Chunk) -> None:
        """Queue a chunk behind all others."""
        self.queue.append(chunk)

    def put_back(self, chunk: Chunk) -> None:
        """Queue a chunk that was tried, by its age."""
        insert_by_age(self.queue, chunk)

    def defer(self, chunk: Chunk) -> None:
        """Keep a chunk that refers to rows that may still come."""
        self.deferred.append(chunk)

    def end(self, number: int) -> Chunk:
        """Take a chunk that is done out of flight."""
        return self.in_flight.pop(number)

    def keep(self, chunk: Chunk) -> None:
        """Learn that a chunk stays for the next run: none that may be newer versions of its rows may start any more."""
        self._kept_keys.setdefault(chunk.table, set()).update(chunk.keys)

    def take_kept(self) -> Iterator[Chunk]:
        """Take the queued chunks that must stay for the next run, since older versions of their rows do."""
        for chunk in list(self.queue):
            if may_overlap(self._kept_keys.get(chunk.table, _NONE), chunk.keys):
                self.queue.remove(chunk)
                yield chunk

    def take_all(self) -> list[Chunk]:
        """Take all that is not in flight, deferred rows first."""
        found = [*self.deferred, *self.queue]
        self.deferred.clear()
        self.queue.clear()
        return found

    def start_overdue(self, has_room: Callable[[], bool]) -> Iterator[Chunk]:
        """Start deferred chunks where too many are."""
        while len(self.deferred) > _MOST_DEFERRED and has_room():
            yield self._start(self.deferred.popleft())

    def start_eligible(self, has_room: Callable[[], bool]) -> Iterator[Chunk]:
        """Start queued chunks, oldest first, except those that must wait for another."""
        waiting: list[Chunk] = []
        for chunk in list(self.queue):
            if not has_room():
                return
            older = (*waiting, *self.in_flight.values())
            if self._must_wait_for_any(chunk, older) or any(_share_key(chunk, one) for one in self.deferred):
                waiting.append(chunk)
            else:
                self.queue.remove(chunk)
                yield self._start(chunk)

    def start_deferred(self, *, is_last: bool) -> Iterator[Chunk]:
        """Start one deferred chunk where the queue waits for it, or nothing more comes (`is_last`).

        It starts alone, so that all it may refer to is there. With nothing in flight, the queue waits for one of them.
        """
        if self.deferred and not self.in_flight and (self.queue or is_last):
            chunk = self._next_deferred()
            self.deferred.remove(chunk)
            yield self._start(chunk)

    def _start(self, chunk: Chunk) -> Chunk:
        self.in_flight[chunk.number] = chunk
        return chunk

    def _next_deferred(self) -> Chunk:
        """The deferred chunk to go first: what holds up the queue, else one that refers to no other of them."""
        if self.queue:
            return next(chunk for chunk in self.deferred if _share_key(self.queue[0], chunk))
        tables = {chunk.table for chunk in self.deferred}
        parents = (chunk for chunk in self.deferred if not tables & self._references(chunk.table) - {chunk.table})
        return next(parents, self.deferred[0])

    def _must_wait_for_any(self, chunk: Chunk, older: Iterable[Chunk]) -> bool:
        """Whether `chunk` may only be uploaded after one of `older`."""
        return any(self._must_wait(chunk, one) for one in older)

    def _must_wait(self, chunk: Chunk, older: Chunk) -> bool:
        if _share_key(chunk, older) or older.table in self._references(chunk.table):
            return True
        if chunk.table != older.table:
            return False
        # Another run may have had another key.
        return self._in_turn(chunk.table) or (older.origin is not None and _target(chunk) != _target(older))


def _target(chunk: Chunk) -> tuple[Mode, tuple[str, ...]] | None:
    """Mode and key of an earlier run's rows; None for those of this run."""
    return (chunk.origin.mode, chunk.origin.on_conflict) if chunk.origin else None


def _share_key(chunk: Chunk, other: Chunk) -> bool:
    return chunk.table == other.table and may_overlap(chunk.keys, other.keys)
