"""Sending of one request with retries, and the count of its cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from scrapy_supabase.backends.base import Backend, Merged, Select, Write
from scrapy_supabase.backends.retry import Deadline, Retrying
from scrapy_supabase.delivery.upload_state import UploadState
from scrapy_supabase.errors import ServerError, TransientError
from scrapy_supabase.models import Mode, Row
from scrapy_supabase.schema.schema import Schema

if TYPE_CHECKING:
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)

T = TypeVar("T")

_SCHEMA_WAIT_AGAIN = 60.0  # seconds until the same refusal is waited for once more


class Sender:
    """Sends requests to a backend, with retries. Thread-safe; shared by all upload threads.

    `attempts` is the number of tries per request, the first one included. The second try follows after `delay` seconds.
    `deadline` limits the waits. `clock` returns monotonic seconds.
    """

    def __init__(
        self,
        backend: Backend,
        schema: Schema,
        *,
        attempts: int,
        delay: float,
        deadline: Deadline,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backend = backend
        self.delay = delay
        self.deadline = deadline
        self.schema = schema
        self._attempts = attempts
        self._clock = clock
        self._schema_waits: dict[tuple[str, str], float] = {}  # table and code → until when is waited
        self._warned_duplicates: set[str] = set()

    def send(
        self,
        state: UploadState[Any],
        rows: tuple[Row, ...],
        write: Write,
        wait_for_answer: Callable[[], object] | None = None,
        *,
        once: bool = False,
    ) -> Merged | None:
        """Send `write`, which carries `rows`; return the result of a write with `merge`. Raises `ServerError`.

        If the request has been sent already, `wait_for_answer` ends that first try. `once` forbids a second try.
        """

        def request() -> Merged | None:
            nonlocal wait_for_answer
            finish, wait_for_answer = wait_for_answer, None
            if finish is None:
                return self.backend.write(write)
            finish()
            return None

        return self._send(state, rows, write.body, request, once=once)

    def insert_new(
        self, state: UploadState[Any], rows: tuple[Row, ...], write: Write, returning: tuple[str, ...], *, once: bool
    ) -> bytes:
        """Insert those of `rows` whose key is not in the table, as `Backend.insert_new` does. Raises `ServerError`."""
        return self._send(state, rows, write.body, lambda: self.backend.insert_new(write, returning), once=once)

    def select(self, state: UploadState[Any], select: Select) -> bytes:
        """Read rows of another table, as `Backend.select` does. Raises `ServerError`."""
        return self._send(state, (), b"", lambda: self.backend.select(select), once=False)

    def _send(
        self, state: UploadState[Any], rows: tuple[Row, ...], body: bytes, request: Callable[[], T], *, once: bool
    ) -> T:
        """Make a request with retries, and count them."""

        def attempt() -> T:
            state.effort.count_request(body)
            try:
                return request()
            except ServerError as error:
                state.effort.count(error, len(rows))
                if isinstance(error, TransientError) and error.splittable and len(rows) > 1:
                    error.tries = 1  # the same again would take as long again
                raise

        def before_sleep(call: RetryCallState) -> None:
            error = call.outcome.exception() if call.outcome else None
            if isinstance(error, TransientError):
                self.count_retry(state, rows, error, call)

        policy = Retrying(1 if once else self._attempts, self.delay, self.deadline, before_sleep)
        while True:
            try:
                return policy(attempt)
            except ServerError as error:
                if not error.stale_schema or not self._wait_for_schema(state, error):
                    raise

    def refusal_without_rows(self, state: UploadState[Any], write: Write) -> ServerError | None:
        """Send `write` once without its rows. Return the refusal, or None if it passes and the rows are at fault.

        A problem of connection, key, project, table or grant refuses a request without rows, too.
        """
        try:
            self.send(state, (), msgspec.structs.replace(write, body=b"[]"), once=True)
        except ServerError as error:
            return error
        return None

    def count_retry(
        self, state: UploadState[Any], rows: tuple[Row, ...], error: TransientError, call: RetryCallState | None = None
    ) -> None:
        """Count and log a retry, and the rows that it may store twice."""
        state.effort.retries += 1
        if call is not None:
            logger.debug(
                "%s: try %d of %d failed: %s Next try in %.1f s.",
                state.chunk,
                call.attempt_number,
                min(self._attempts, error.tries or self._attempts),
                error,
                call.upcoming_sleep,
            )
        else:
            logger.debug("%s: too large for the server: %s Sending its halves one by one.", state.chunk, error)
        table = state.chunk.table
        if not error.ambiguous:
            return
        inserts, has_keys = self.schema.mode(table) is Mode.INSERT, self.schema.generates_key(table)
        keyless = [row for row in rows if inserts or (row.key is None and not has_keys)]
        state.effort.ambiguous_retries += len(keyless)
        if keyless and table not in self._warned_duplicates:
            self._warned_duplicates.add(table)
            logger.warning(
                "Table %s: retrying a request that got no answer. Rows without a key (%d of %d) are duplicated if the "
                "first try was stored. To prevent that, set SUPABASE_ON_CONFLICT to columns that identify a row, with "
                "a unique index on them.",
                table,
                len(keyless),
                len(rows),
            )

    def _wait_for_schema(self, state: UploadState[Any], error: ServerError) -> bool:
        """Wait until the server should know a recent change of the table. Return False if that wait is over.

        One wait serves all uploads that are refused meanwhile or within the next minute.
        """
        place, now = (state.chunk.table, error.code), self._clock()
        until = self._schema_waits.get(place)
        if until is None or now > until + _SCHEMA_WAIT_AGAIN:
            until = self._schema_waits[place] = now + 2 * self.delay
            logger.info(
                "%s: the server's schema cache may be outdated: %s Next try in %.1f s.",
                state.chunk,
                error.answer,
                2 * self.delay,
            )
        if now > until:
            return False
        self.deadline.sleep(until - now)
        return True  # a refusal after this wait gets False above
