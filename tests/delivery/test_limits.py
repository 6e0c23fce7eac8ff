"""The limit of one request's size: halved by failures, raised by successes, and a fixed limit rarely tested."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest

from scrapy_supabase.delivery.limits import RequestLimits
from scrapy_supabase.models import Row

ROWS = tuple(Row("t", ("id",), str(number), b"x" * 100) for number in range(100))


def send(limits: RequestLimits, works: Callable[[int], bool], *, refused: bool) -> list[tuple[int, bool]]:
    """Upload 100 rows as the uploader does, and halve failed requests. Return rows and success of each request."""
    sent = []
    todo = [ROWS]
    while todo:
        rows = todo.pop(0)
        if (most := limits.count_fitting(rows)) < len(rows):
            todo.insert(0, rows[most:])
            rows = rows[:most]
        sent.append((len(rows), works(len(rows)) or len(rows) == 1))
        if sent[-1][1]:
            limits.stored(rows)
        else:
            limits.too_large(rows, refused=refused)
            todo[:0] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return sent


def largest(limits: RequestLimits) -> int | None:
    """Return the number of rows that a request may carry."""
    found = limits.largest("t")
    return None if found is None else found // 100


def test_without_a_failure_there_is_no_limit() -> None:
    """A chunk is one request."""
    limits = RequestLimits()
    limits.stored(ROWS)
    assert limits.largest("t") is None
    assert limits.count_fitting(ROWS) == 100


def test_a_timeout_halves_the_limit_and_successes_raise_it() -> None:
    """By a seventh after each success, until the size that failed is stored; then there is no limit."""
    limits = RequestLimits()
    limits.too_large(ROWS, refused=False)
    found = []
    while (now := largest(limits)) is not None:
        found.append(now)
        limits.stored(ROWS[: limits.count_fitting(ROWS)])
    assert found == [50, 64, 78, 92, 107]


def test_each_table_has_its_own_limit() -> None:
    """The rows of one table may be a hundred times as large."""
    limits = RequestLimits()
    limits.too_large(ROWS, refused=True)
    assert limits.largest("other") is None


def test_ten_occasional_timeouts_leave_no_limit() -> None:
    """Before, ten of them led to one row per request for the rest of the crawl."""
    limits = RequestLimits()
    for _ in range(10):
        limits.too_large(ROWS[: limits.count_fitting(ROWS)], refused=False)
        for _ in range(8):
            send(limits, lambda _: True, refused=False)
    assert limits.count_fitting(ROWS) == 100


def test_a_gateway_that_times_out_for_some_time() -> None:
    """The limit falls to one row, and recovers as fast as after one failure, since nothing was stored in between."""
    limits = RequestLimits()
    for rows in (100, 50, 25, 12, 6, 3, 1):
        limits.too_large(ROWS[:rows], refused=False)
    assert limits.count_fitting(ROWS) == 1
    chunks = 0
    while limits.largest("t") is not None:
        send(limits, lambda _: True, refused=False)
        chunks += 1
    assert chunks <= 5


@pytest.mark.parametrize("refused", [True, False], ids=["413", "504"])
@pytest.mark.parametrize("most", [1, 7, 30, 60, 99])
def test_a_size_that_always_fails_is_tried_less_and_less_often(refused: bool, most: int) -> None:
    """Of a thousand chunks, in the end one request in 200 fails, with no more requests than necessary."""
    limits = RequestLimits()
    sent = [send(limits, lambda size: size <= most, refused=refused) for _ in range(1000)]
    first, last = (list(chain.from_iterable(chunks)) for chunks in (sent[:20], sent[-100:]))
    assert sum(not worked for _, worked in first) <= 20
    assert sum(not worked for _, worked in last) <= len(last) / 200
    assert len(last) / 100 <= 1.5 * -(-100 // most)


def test_a_raised_limit_of_the_server_is_found() -> None:
    """After successes with a smaller size."""
    limits = RequestLimits()
    for _ in range(50):
        send(limits, lambda size: size <= 30, refused=True)
    chunks = 0
    while largest(limits) is not None:
        send(limits, lambda _: True, refused=True)
        chunks += 1
    assert chunks < 100


def test_requests_already_in_flight_do_not_change_the_limit() -> None:
    """Four concurrent timeouts count once, and a success among them does not raise the limit."""
    limits = RequestLimits()
    for _ in range(4):
        limits.too_large(ROWS, refused=False)
    limits.stored(ROWS)
    assert largest(limits) == 50


def test_small_requests_do_not_raise_the_limit() -> None:
    """A success with ten rows says nothing about sixty."""
    limits = RequestLimits()
    limits.too_large(ROWS, refused=False)
    for _ in range(100):
        limits.stored(ROWS[:10])
    assert largest(limits) == 50


def test_chunks_larger_than_the_size_that_failed() -> None:
    """The limit grows past that size; otherwise each chunk would be two requests for the rest of the crawl."""
    limits = RequestLimits()
    limits.too_large(ROWS[:80], refused=False)
    for _ in range(12):
        send(limits, lambda _: True, refused=False)
    assert limits.count_fitting(ROWS) == 100


def test_rows_larger_than_the_limit_are_sent_alone() -> None:
    """They cannot be divided. They count as successes; otherwise the limit would stay below them."""
    limits = RequestLimits()
    limits.too_large(ROWS[:2], refused=True)
    large = Row("t", ("id",), "large", b"x" * 150)
    assert limits.count_fitting((large, ROWS[0])) == limits.count_fitting((ROWS[0], large)) == 1
    for _ in range(128):
        limits.stored([large])
    assert limits.count_fitting((large, large)) == 2
    limits.too_large(ROWS[:2], refused=True)
    limits.stored([Row("t", ("id",), "larger", b"x" * 10_000)])
    assert limits.largest("t") is None
