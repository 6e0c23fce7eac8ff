"""The engine: takes rows, seals chunks, uploads them in its own threads, and says when to wait.

It knows no Scrapy and no event loop. One thread owns it and calls its methods; what runs in its own threads ends with a
call that the owner makes when it collects. When something waits for that, `wake()` is called in such a thread: it must
make the owner call `collect()` soon.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path

from scrapy_supabase.delivery.observer import BegunUpload, RunObserver
from scrapy_supabase.delivery.outage import Circuit
from scrapy_supabase.delivery.pace import Pace
from scrapy_supabase.delivery.threads import Threads
from scrapy_supabase.errors import FatalError, TransientError, fatal
from scrapy_supabase.messages import counted
from scrapy_supabase.models import Chunk, Loaded, Mode, Outcome, Row, Stored, may_meet
from scrapy_supabase.rows.chunks import Chunker, OpenChunk
from scrapy_supabase.spool.disk import Spool

logger = logging.getLogger(__name__)

# They are kept in memory; a row whose foreign key leads nowhere should not wait for the end of the crawl either.
_MOST_DEFERRED = 32
# A chunk that was given up this often while others got through is left for the next run.
_MOST_TRIES = 5
# Seconds in which no upload came to an end: then the crawl is not held back for them any more, but lines up on disk.
_STALLED = 10.0
# Milliseconds. A descriptor that was closed meanwhile may stand for another file by then.
_LONGEST_WATCH = 500


class Delivery:
    """Delivers rows to `upload`, as many chunks at once as `pace` lets.

    Handing a chunk to a thread costs a busy owner more than sending it: so what needs no waiting the owner does itself.
    `begin` sends a chunk as far as possible, or returns None; the answer is looked for when the next ones are begun,
    or when a thread that waits for it wakes the owner. What needs waiting otherwise goes to the threads.

    The giver of rows may be as many chunks ahead as are uploaded at once; then it waits.

    Chunks that may share a key are uploaded in the order in which they were sealed, and so are those of a table whose
    key is not known (`in_turn(table)`), and a chunk after those of tables that its rows may refer to
    (`references(table)`); all others in any order.

    Deferred rows refer to others that may come later. They are tried a last time when the rows come to an end, when a
    newer version of one of them waits, or when more than 32 chunks are deferred.

    What earlier runs left (`recovered`) goes first. As long as there is a backlog, new chunks line up behind it on
    disk, and the giver of rows waits only where the spool holds more than `most_bytes`. The same happens when no upload
    has come to an end for ten seconds, and while the server is gone: a chunk was given up and nothing else got through
    meanwhile. `probe(table)` looks whether it is back; after `longest_outage` seconds (None: never) nothing is uploaded
    any more.

    Full chunks are begun together once they hold `together` rows, or are as many as `pace` lets: what a busy crawl has
    driven out of the processor's caches is fetched once for all of them. None waits longer than until the next tick.

    An owner that `blocks` has nothing else to do while it waits, and looks at `begun` meanwhile: threads are given only
    what takes more than that.
    """

    def __init__(
        self,
        upload: Callable[[Chunk], Outcome],
        *,
        begin: Callable[[Chunk], BegunUpload | None] = lambda _: None,
        probe: Callable[[str], None] = lambda _: None,
        chunker: Chunker,
        spool: Spool,
        observer: RunObserver,
        references: Callable[[str], frozenset[str]],
        in_turn: Callable[[str], bool] = lambda _: False,
        pace: Pace,
        wake: Callable[[], None],
        recovered: Iterable[Stored] = (),
        most_bytes: float = float("inf"),
        longest_outage: float | None = None,
        together: int = 1,
        blocks: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upload = upload
        self._together = together
        self._blocks = blocks
        self._begin = begin
        self._begun: list[BegunUpload] = []
        self._watched: set[int] = set()  # descriptors that threads look at
        self._begun_before: list[BegunUpload] = []  # the last tick
        self._probe = probe
        self._probing = False
        self._circuit = Circuit()
        self._longest_outage = longest_outage
        self._gone: tuple[str, TransientError] | None = None  # a table, and how the server was gone
        self._last_success = self._last_end = clock()
        self._chunker = chunker
        self._spool = spool
        self._observer = observer
        self._references = references
        self._in_turn = in_turn
        self.pace = pace
        self._wake = wake
        self._clock = clock
        # A chunk is in one of these; each is older than those of the next that share a key with it.
        self._in_flight: dict[int, Chunk] = {}
        self._deferred: deque[Chunk] = deque()
        self._queue: deque[Chunk] = deque()  # to be started, oldest first
        self._loading: list[Stored] = []
        self._backlog: deque[Chunk | Stored] = deque(recovered)  # oldest first
        self._sealed: deque[Chunk] = deque()  # to be begun together, oldest first
        self._backlog_bytes = sum(stored.size for stored in self._backlog if isinstance(stored, Stored))
        self._most_bytes = most_bytes
        self._said_full = False
        self._said_left = False  # in this outage, or since the last one
        self._held: set[int] = set()  # chunks that wait in memory though nothing was tried: the crawl is too fast
        self._left_keys: dict[str, set[str]] = {}  # table → keys of rows that stay for the next run
        self._threads = Threads()
        self._done: deque[Callable[[], None]] = deque()  # by any thread
        self._settling = threading.Lock()  # a thread settles its chunk, or the owner abandons it: never both
        self._pressed = False
        self._released = False
        self._waiting: Future[None] | None = None
        self._waiting_since = 0.0
        self._idle: Future[None] | None = None
        self._halted = False

    @property
    def in_flight(self) -> int:
        """How many chunks are being uploaded now."""
        return len(self._in_flight)

    @property
    def backlog(self) -> int:
        """How many chunks wait on disk."""
        return len(self._backlog) + len(self._loading)

    @property
    def begun(self) -> Sequence[BegunUpload]:
        """The uploads whose answers the owner itself waits for."""
        return self._begun

    @property
    def is_cut_off(self) -> bool:
        """Whether the server is gone."""
        return self._circuit.is_open

    def add(self, row: Row) -> Future[None] | None:
        """Take a row. Returns None, or what the giver should wait for before it gives more."""
        sealed = self._chunker.add(row)
        if sealed:
            self._sealed.extend(sealed)
            rows = sum(len(chunk.rows) for chunk in self._sealed)
            enough = rows >= self._together or len(self._sealed) >= self.pace.uploads
            if enough or self._halted or self._idle is not None:
                self._enqueue()
                if self._queue or self._idle is not None:
                    self.collect()  # else several answers at once, later: that is half the work
        if not self._pressed:
            return None
        if self._waiting is None:
            self._waiting = Future()
            self._waiting_since = self._clock()
        return self._waiting

    def open_chunk(self) -> OpenChunk | None:
        """A chunk that rows of its table and columns may be added to instead."""
        return None if self._pressed else self._chunker.only()

    def tick(self) -> None:
        """Seal the chunks that are full, or have waited long enough for more rows. To be called once a second."""
        self._enqueue(self._chunker.due())
        self.collect()
        for begun in self._begun_before:
            if begun in self._begun:
                self._hand_over(begun)
        self._begun_before = list(self._begun)
        if self._held and self._spool.folder and self._clock() - self._last_end > _STALLED and not self._halted:
            self._put_queue_off()
            self._advance()
        self._look_for_server()

    def flush(self) -> None:
        """Seal all open chunks."""
        self._enqueue(self._chunker.seal_all())

    def release(self) -> bool:
        """Have nobody wait any more, now or later: the crawl is being closed. Chunks line up on disk instead.

        Return whether somebody waited.
        """
        waited = self._waiting is not None
        if not self._released:
            self._released = True
            self._put_queue_off()
            self._advance()
        return waited

    def finish(self) -> Future[None]:
        """Seal all open chunks and return what is done when everything has been uploaded or given up."""
        if self._idle is None:
            self._idle = Future()
        self.flush()
        self._circuit.hurry(self._clock())
        self.collect()
        self._look_for_server()
        return self._idle

    def halt(self) -> None:
        """Upload nothing any more: what is not uploaded stays in the spool, and what comes goes there."""
        self._halted = True
        self._enqueue()

    def abandon(self) -> None:
        """Leave what is not uploaded in the spool, whatever the threads do: the end of a close that took too long."""
        self._halted = True
        self.flush()
        with self._settling:
            self.collect()
            for begun in self._begun:
                begun.abandon()
            self._begun.clear()
            for chunk in self._in_flight.values():
                self._leave(chunk)
            self._in_flight.clear()
            for kept in (*self._loading, *self._backlog):
                self._leave(kept)
            self._loading.clear()
            self._backlog.clear()
        self._advance()
        if self._circuit.is_open:
            self._observer.on_outage_end(self._circuit.close(self._clock()))

    def close(self) -> None:
        """Let the threads end. One that is in a request ends after it; it never keeps the process alive."""
        self._threads.close()

    def collect(self) -> None:
        """Take in what the threads have done. Never waits."""
        for begun in list(self._begun):
            found = begun.poll()
            if isinstance(found, Outcome):
                self._begun.remove(begun)
                if found.uploaded == len(found.chunk.rows):
                    self._spool.settle(found)
                    self._take(found)
                else:  # rejected rows are written first
                    self._give(partial(self._run, begun.chunk, partial(_given, found)))
            elif not found:
                self._hand_over(begun)
        while self._done:
            self._done.popleft()()
        self._advance()
        # A busy crawl looks for answers with its next chunk; where more than that waits for them, threads look.
        is_behind = self._pressed or self._backlog or self._deferred or self._idle is not None
        if is_behind and not self._blocks:
            for begun in self._begun:
                self._watch(begun.fileno())

    # What happens to a chunk

    def _enqueue(self, more: Iterable[Chunk] = ()) -> None:
        """Line up what is sealed, and start what may start."""
        self._sealed.extend(more)
        while self._sealed:
            chunk = self._sealed.popleft()
            self._observer.on_chunk_sealed(chunk)
            in_line = self._backlog or self._loading or self._circuit.is_open or (self._released and self._queue)
            if in_line and not self._halted:
                self._put_off(chunk)
            else:
                self._queue.append(chunk)
                self._held.add(chunk.number)
        self._advance()

    def _put_off(self, chunk: Chunk) -> None:
        """Line a chunk up behind the older ones, on disk where that has it."""
        stored = self._spool.store(chunk)
        if stored is None:
            self._held.add(chunk.number)
        else:
            self._held.discard(chunk.number)
            self._backlog_bytes += stored.size
        _insert(self._backlog, stored or chunk)

    def _advance(self) -> None:
        """Start what may start, and tell those who wait."""
        if self._halted:
            in_memory = [one for one in self._backlog if isinstance(one, Chunk)]
            for chunk in (*self._deferred, *self._queue, *in_memory):
                self._leave(chunk)
            self._deferred.clear()
            self._queue.clear()
            self._backlog = deque(one for one in self._backlog if isinstance(one, Stored))
        elif not self._circuit.is_open:
            while len(self._deferred) > _MOST_DEFERRED and self.pace.has_room:
                self._start(self._deferred.popleft())
            self._refill()
            self._start_eligible()
            # Alone, so that all they may refer to is there. With nothing in flight, the queue waits for one of them.
            if self._deferred and not self._in_flight and (self._queue or self._at_the_end()):
                chunk = self._next_deferred()
                self._deferred.remove(chunk)
                self._start(chunk)
        full = self._backlog_bytes > self._most_bytes
        if full and not self._said_full:
            logger.warning(
                "The spool in %s holds %.1f MiB that are not uploaded yet: nothing more is taken until there is less "
                "(SUPABASE_SPOOL_MAX_BYTES).",
                *(self._spool.folder, self._backlog_bytes / 2**20),
            )
        # Around the limit it is said once.
        self._said_full = full or (self._said_full and 2 * self._backlog_bytes > self._most_bytes)
        self._pressed = not (self._halted or self._released) and (full or len(self._held) > self.pace.uploads)
        if self._pressed:
            self._chunker.close_room()
        if self._waiting is not None and not self._pressed:
            waiting, self._waiting = self._waiting, None
            self._observer.on_waited(self._clock() - self._waiting_since)
            waiting.set_result(None)
        busy = self._queue or self._in_flight or self._deferred
        if self._idle is not None and not self._idle.done() and self._at_the_end() and not busy:
            self._idle.set_result(None)

    def _at_the_end(self) -> bool:
        """Whether no more chunks will come into the queue."""
        return self._idle is not None and (self._halted or not (self._backlog or self._loading))

    def _refill(self) -> None:
        """Let the oldest of the backlog into the queue, as many as will soon be needed."""
        while self._backlog and not self._loading and len(self._queue) < self.pace.uploads:
            first = self._backlog[0]
            if isinstance(first, Chunk):
                self._queue.append(first)
                self._backlog.popleft()
                continue
            while self._backlog and len(self._queue) + len(self._loading) < self.pace.uploads:
                first = self._backlog[0]
                if isinstance(first, Chunk):
                    break
                self._loading.append(first)
                self._backlog.popleft()
            self._give(partial(self._load, list(self._loading)))

    def _start_eligible(self) -> None:
        """Start chunks, oldest first, except those that must wait for another."""
        stay: list[Chunk] = []  # older ones that stay in the queue
        for chunk in list(self._queue):
            if not self.pace.has_room:
                return
            older = (*stay, *self._in_flight.values())
            if may_meet(self._left_keys.get(chunk.table, _NONE), chunk.keys):
                self._queue.remove(chunk)
                self._leave(chunk)
            elif any(self._must_wait(chunk, one) for one in older) or any(_share_key(chunk, d) for d in self._deferred):
                stay.append(chunk)
            else:
                self._queue.remove(chunk)
                self._start(chunk)

    def _next_deferred(self) -> Chunk:
        """The deferred chunk to go first: what holds up the queue, else one that refers to no other of them."""
        if self._queue:
            return next(chunk for chunk in self._deferred if _share_key(self._queue[0], chunk))
        tables = {chunk.table for chunk in self._deferred}
        parents = (chunk for chunk in self._deferred if not tables & self._references(chunk.table) - {chunk.table})
        return next(parents, self._deferred[0])

    def _must_wait(self, chunk: Chunk, older: Chunk) -> bool:
        """Whether `chunk` may only be uploaded after `older`."""
        if _share_key(chunk, older) or older.table in self._references(chunk.table):
            return True
        if chunk.table != older.table:
            return False
        # Another run may have had another key.
        return self._in_turn(chunk.table) or (older.origin is not None and _target(chunk) != _target(older))

    def _start(self, chunk: Chunk) -> None:
        self._held.discard(chunk.number)
        self._in_flight[chunk.number] = chunk
        self.pace.started(chunk)
        begun = None if chunk.last_try else self._begin(chunk)
        if begun is None:
            self._give(partial(self._run, chunk, partial(self._upload, chunk)))
        else:
            self._begun.append(begun)

    def _hand_over(self, begun: BegunUpload) -> None:
        self._begun.remove(begun)
        self._give(partial(self._run, begun.chunk, begun.finish))

    def _take(self, outcome: Outcome) -> None:
        """Go on with what came of a chunk. Its spool file is settled already."""
        chunk = self._in_flight.pop(outcome.chunk.number)
        now = self._last_end = self._clock()
        if outcome.uploaded:
            self._last_success = now
        if self.pace.took(outcome):
            self._observer.on_throttled()
        self._chunker.max_rows = self.pace.rows
        self._observer.on_chunk_done(outcome)
        if outcome.deferred:
            self._deferred.append(chunk.again(outcome.deferred, last_try=True))
        if outcome.left:
            # A lock on the table ends some time: that does not count.
            is_locked = outcome.gone is not None and outcome.gone.is_there and not outcome.gone.about_rows
            tries = chunk.tries if is_locked else chunk.tries + 1
            rest = chunk.again(outcome.left, tries=tries)
            if outcome.gone is None or self._halted or tries >= _MOST_TRIES:
                logged = self._leave(rest)
                if outcome.fatal is None and not self._halted:
                    is_said = outcome.gone is not None and self._said_left and not logged
                    self._said_left |= outcome.gone is not None
                    logger.log(
                        logging.DEBUG if is_said else logging.ERROR,
                        "%s: not uploaded, and not tried again in this run%s Its rows %s.",
                        rest,
                        f": {outcome.gone}" if outcome.gone else ".",
                        _where_they_are(len(rest.rows), logged, self._spool.folder),
                    )
            else:
                is_silent = not outcome.gone.is_there and self._last_success <= now - outcome.effort.seconds
                if is_silent and not self._circuit.is_open:
                    self._cut_off(chunk.table, outcome.gone)
                if self._circuit.is_open:
                    self._put_off(rest)
                else:
                    _insert(self._queue, rest)
        if outcome.fatal is not None and not self._halted:
            self._fail(outcome.fatal)

    def _leave(self, kept: Chunk | Stored) -> int:
        """Leave rows to the next run, and with them all that share a key with them and are newer.

        Return the number of rows for which there is no place: they are in the log, and rejected.
        """
        if isinstance(kept, Stored):
            self._observer.on_rows_kept(kept, self._spool.count(kept))
            return 0
        self._held.discard(kept.number)
        if not self._halted and kept.origin is None:  # newer rows are stored; older ones of another run can wait
            self._left_keys.setdefault(kept.table, set()).update(kept.keys)
        lost = self._spool.leave(kept)
        if lost:
            self._observer.on_chunk_done(Outcome(kept, 0, lost))
        if len(lost) < len(kept.rows):
            superseded = 0 if lost else kept.superseded  # else counted with what is lost
            self._observer.on_rows_kept(kept, len(kept.rows) - len(lost) + superseded)
        return len(lost)

    def _fail(self, error: FatalError) -> None:
        self.halt()
        self._observer.on_fatal(error)

    # When the server is gone

    def _cut_off(self, table: str, error: TransientError) -> None:
        self._circuit.open(self._clock(), error.retry_after)
        self._gone = (table, error)
        if self._idle is not None:
            self._circuit.hurry(self._clock())
        folder = self._spool.folder
        logger.warning(
            "The server is unreachable: %s %s",
            error,
            f"Rows are kept in {folder} and uploaded when it is reachable again: this is checked every 2 to 60 s."
            if folder
            else "All waits until it is reachable again: there is no spool to keep rows in (SUPABASE_SPOOL_DIR).",
        )
        self._put_queue_off()

    def _put_queue_off(self) -> None:
        while self._queue:
            self._put_off(self._queue.pop())

    def _look_for_server(self) -> None:
        now = self._clock()
        if self._halted or not self._gone or not self._circuit.is_open:
            return
        table, error = self._gone
        if self._longest_outage is not None and self._circuit.lasts(now) > self._longest_outage:
            remedy = f"The server has been unreachable for more than {self._longest_outage:g} s (SUPABASE_MAX_OUTAGE)."
            self._fail(fatal(error, "supabase_unavailable", remedy))
        elif not self._probing and self._circuit.due(now):
            self._probing = True
            self._give(partial(self._look, table))

    def _looked(self, error: TransientError | None) -> None:
        self._probing = False
        now = self._clock()
        if not self._circuit.is_open:
            return
        if error is not None:
            self._circuit.still_gone(now, error.retry_after)
            logger.debug("The server is still unreachable: %s", error)
        else:
            seconds = self._circuit.close(now)
            self._said_left = False
            waiting = counted(len(self._backlog), "chunk")
            logger.warning(
                "The server is reachable again after %.0f s. Kept meanwhile and uploaded now: %s.", seconds, waiting
            )
            self._observer.on_outage_end(seconds)

    # The threads

    def _give(self, job: Callable[[], None]) -> None:
        busy = len(self._in_flight) - len(self._begun) + len(self._watched) + bool(self._loading) + self._probing
        self._threads.give(job, busy)

    def _run(self, chunk: Chunk, upload: Callable[[], Outcome]) -> None:
        try:
            outcome = upload()
        except Exception:
            logger.exception("%s: not uploaded, by a %s", chunk, _FAULT)
            outcome = Outcome(chunk, 0, left=chunk.rows)
        with self._settling:
            if self._in_flight.get(chunk.number) is not chunk:
                return  # abandoned
            try:
                self._spool.settle(outcome)
            except Exception:
                logger.exception("%s: what became of it could not be written down, by a %s", chunk, _FAULT)
                outcome = Outcome(chunk, 0, left=chunk.rows)
            self._done.append(partial(self._take, outcome))
        # Where nothing waits for it, the owner finds it with its next chunk or tick: waking a busy thread is dear.
        # No wake is lost: who begins to wait looks at `_done` after that.
        if self._queue or self._backlog or self._deferred or self._idle is not None or outcome.left or outcome.deferred:
            self._wake()

    def _watch(self, number: int) -> None:
        """Have a thread wake the owner when something comes to the file with this descriptor."""
        if number not in self._watched:
            self._watched.add(number)
            self._give(partial(self._wait_for, number))

    def _wait_for(self, number: int) -> None:
        with suppress(OSError, ValueError):  # it was closed: the owner sees that, too
            poll = select.poll()
            poll.register(number, select.POLLIN)
            poll.poll(_LONGEST_WATCH)
        self._done.append(partial(self._watched.discard, number))
        self._wake()

    def _load(self, batch: list[Stored]) -> None:
        loads: list[Loaded] = []
        for stored in batch:
            try:
                loads.append(self._spool.load(stored))
            except Exception:
                logger.exception("The spool file %s stays where it is, by a %s", stored.file, _FAULT)
                loads.append(Loaded(None))
        self._done.append(partial(self._loaded, batch, loads))
        self._wake()

    def _loaded(self, batch: list[Stored], loads: list[Loaded]) -> None:
        if not self._loading:
            return  # abandoned
        self._loading.clear()
        for stored, loaded in zip(batch, loads, strict=True):
            self._backlog_bytes -= stored.size
            self._observer.on_chunk_loaded(loaded)
            if loaded.chunk is not None:
                # Meanwhile an older one may have come back.
                overtakes = bool(self._backlog) and self._backlog[0].number < stored.number
                if overtakes or self._circuit.is_open:
                    self._put_off(loaded.chunk)
                else:
                    self._queue.append(loaded.chunk)
            elif stored.rows and not loaded.damaged:  # of this run, and not readable
                self._observer.on_rows_kept(stored, stored.rows)

    def _look(self, table: str) -> None:
        gone: TransientError | None = None
        try:
            self._probe(table)
        except TransientError as error:
            gone = error
        except Exception:  # then an upload will show it again
            logger.exception("Whether the server is reachable again could not be checked, by a %s", _FAULT)
        self._done.append(partial(self._looked, gone))
        self._wake()


_NONE: set[str] = set()
_FAULT = "fault of scrapy-supabase itself: please report it with the lines below."


def _given(outcome: Outcome) -> Outcome:
    return outcome


def _where_they_are(rows: int, logged: int, folder: Path | None) -> str:
    """Say where rows that were not uploaded are, `logged` of them in the log."""
    if logged == rows:
        return "are in the log above"
    kept = f"stay in {folder} for the next run"
    return f"{kept}, except the {logged} in the log above" if logged else kept


def _insert(waiting: deque[Chunk] | deque[Chunk | Stored], one: Chunk | Stored) -> None:
    """Insert by age: what is new comes last, what was tried already comes near the front."""
    if not waiting or one.number > waiting[-1].number:
        waiting.append(one)  # type: ignore[arg-type]
        return
    at = next(at for at, other in enumerate(waiting) if one.number < other.number)
    waiting.insert(at, one)  # type: ignore[arg-type]


def _target(chunk: Chunk) -> tuple[Mode, tuple[str, ...]] | None:
    """Mode and key of an earlier run's rows; None for those of this run."""
    return (chunk.origin.mode, chunk.origin.on_conflict) if chunk.origin else None


def _share_key(chunk: Chunk, other: Chunk) -> bool:
    return chunk.table == other.table and may_meet(chunk.keys, other.keys)
