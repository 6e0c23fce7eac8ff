"""How much one request may carry: halved by failures, grown again by successes, a real limit seldom tried again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest

from scrapy_supabase.delivery.limits import RequestLimits
from scrapy_supabase.models import Row

ROWS = tuple(Row("t", ("id",), str(number), b"x" * 100) for number in range(100))


def send(limits: RequestLimits, works: Callable[[int], bool], *, refused: bool) -> list[tuple[int, bool]]:
    """Upload 100 rows as the uploader does, halving what fails; rows of each request, and whether it worked."""
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
    """Rows that a request may carry."""
    found = limits.largest("t")
    return None if found is None else found // 100


def test_without_a_failure_there_is_no_limit() -> None:
    """A chunk is one request."""
    limits = RequestLimits()
    limits.stored(ROWS)
    assert limits.largest("t") is None
    assert limits.count_fitting(ROWS) == 100


def test_a_timeout_halves_and_successes_grow_it_again() -> None:
    """By a seventh after each success, until the size that failed is stored: then it is unlearnt."""
    limits = RequestLimits()
    limits.too_large(ROWS, refused=False)
    found = []
    while (now := largest(limits)) is not None:
        found.append(now)
        limits.stored(ROWS[: limits.count_fitting(ROWS)])
    assert found == [50, 64, 78, 92, 107]


def test_each_table_has_its_own_limit() -> None:
    """Rows of one may be a hundred times as large."""
    limits = RequestLimits()
    limits.too_large(ROWS, refused=True)
    assert limits.largest("other") is None


def test_ten_timeouts_now_and_then_leave_no_trace() -> None:
    """Once, ten of them meant one row a request for the rest of the crawl."""
    limits = RequestLimits()
    for _ in range(10):
        limits.too_large(ROWS[: limits.count_fitting(ROWS)], refused=False)
        for _ in range(8):
            send(limits, lambda _: True, refused=False)
    assert limits.count_fitting(ROWS) == 100


def test_a_gateway_that_times_out_for_a_while() -> None:
    """Down to one row; the way back is as short as after one failure, for nothing was stored in between."""
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
def test_what_a_server_never_takes_is_tried_ever_more_rarely(refused: bool, most: int) -> None:
    """A thousand chunks: in the end one request in 200 fails, and no more of them are needed than must be."""
    limits = RequestLimits()
    sent = [send(limits, lambda size: size <= most, refused=refused) for _ in range(1000)]
    first, last = (list(chain.from_iterable(chunks)) for chunks in (sent[:20], sent[-100:]))
    assert sum(not worked for _, worked in first) <= 20
    assert sum(not worked for _, worked in last) <= len(last) / 200
    assert len(last) / 100 <= 1.5 * -(-100 // most)


def test_a_server_that_takes_more_again() -> None:
    """A limit that somebody has raised is found, after successes of a smaller size."""
    limits = RequestLimits()
    for _ in range(50):
        send(limits, lambda size: size <= 30, refused=True)
    chunks = 0
    while largest(limits) is not None:
        send(limits, lambda _: True, refused=True)
        chunks += 1
    assert chunks < 100


def test_requests_that_were_on_their_way_teach_nothing_new() -> None:
    """Four at once that time out are one lesson; one of them that is stored does not undo it."""
    limits = RequestLimits()
    for _ in range(4):
        limits.too_large(ROWS, refused=False)
    limits.stored(ROWS)
    assert largest(limits) == 50


def test_small_requests_do_not_grow_a_limit() -> None:
    """That ten rows can be stored says nothing about sixty."""
    limits = RequestLimits()
    limits.too_large(ROWS, refused=False)
    for _ in range(100):
        limits.stored(ROWS[:10])
    assert largest(limits) == 50


def test_chunks_that_are_larger_than_what_failed() -> None:
    """The limit grows past it, or each would be sent as two requests for ever."""
    limits = RequestLimits()
    limits.too_large(ROWS[:80], refused=False)
    for _ in range(12):
        send(limits, lambda _: True, refused=False)
    assert limits.count_fitting(ROWS) == 100


def test_rows_that_are_larger_than_the_limit_go_alone() -> None:
    """They cannot be divided. They are successes as well: the limit would stay below them."""
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
