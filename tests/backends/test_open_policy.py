"""The retry policy of a run that opens: who is waited for, for how long, and how often a busy server is asked."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scrapy_supabase.backends.answers import classify, classify_connection, classify_sql
from scrapy_supabase.backends.open_policy import OpenPolicy
from scrapy_supabase.backends.retry import Deadline
from scrapy_supabase.errors import FatalError, ServerError, TransientError


class Clock(Deadline):
    """A deadline whose waits take no time; `now` is the time that they would have taken."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now)
        self.now = 0.0
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    """The time of a test."""
    return Clock()


def busy(status: int = 429, retry_after: str | None = None) -> Callable[[], ServerError]:
    """A gateway's answer."""
    return lambda: classify(status, b"{}", retry_after)


def gone() -> ServerError:
    """No connection."""
    error = TransientError("Connection refused", code="ConnectionRefusedError")
    error.unanswered = True
    return error


def tried(clock: Clock, answer: Callable[[], ServerError], timeout: float = 60.0, delay: float = 1.0) -> int:
    """How many tries there are if the answer is always the same."""
    tries = 0

    def request() -> None:
        nonlocal tries
        tries += 1
        raise answer()

    with pytest.raises(ServerError):
        OpenPolicy(3, delay, clock, timeout, clock=lambda: clock.now).run("Checking", request)
    return tries


@pytest.mark.parametrize(
    ("answer", "is_busy"),
    [
        (busy(429), True),
        (busy(500), True),
        (busy(502), True),
        (busy(503), True),
        (busy(504), True),
        (lambda: classify(504, b'{"code":"PGRST003","message":"Timed out acquiring connection"}'), True),
        (lambda: classify(503, b'{"code":"PGRST002","message":"Could not query the schema cache"}'), True),
        (lambda: classify(503, b'{"code":"53300","message":"too many connections"}'), True),
        (lambda: classify_sql("53300", "too many connections"), True),
        (lambda: classify_connection('FATAL:  too many connections for role "crawler"'), True),
        (lambda: classify_connection("FATAL:  no more connections allowed (max_client_conn)"), True),
        (lambda: classify_connection("FATAL:  Max client connections reached"), True),
        (lambda: classify_connection("FATAL: (EMAXCONNSESSION) max clients reached in session mode"), True),
        (lambda: classify_connection("FATAL:  the database system is starting up"), True),
        (lambda: classify_connection("connection refused"), False),
        (lambda: classify_sql("08006", "the connection was lost"), False),
        (lambda: classify_sql("XX000", "internal error"), False),
        (gone, False),
    ],
)
def test_who_is_waited_for(clock: Clock, answer: Callable[[], ServerError], is_busy: bool) -> None:
    """Who answers, for a minute; who does not, for the attempts; an internal error twice at most."""
    tries = tried(clock, answer)
    if is_busy:
        assert 59.9 < clock.now <= 60.1
        assert tries > 12
    else:
        assert clock.now < 10
        assert tries <= 3


def test_the_message_names_the_setting(clock: Clock) -> None:
    """Only if the server was busy."""
    policy = OpenPolicy(3, 1.0, clock, 60, clock=lambda: clock.now)

    def refuse(error: ServerError) -> None:
        raise error

    for error, words in ((busy()(), "more than 60 s (SUPABASE_OPEN_TIMEOUT)"), (gone(), "Check that the project")):
        with pytest.raises(FatalError) as raised, policy.unavailable_is_fatal():
            policy.run("Checking", refuse, error)
        assert raised.value.reason == "supabase_unavailable"
        assert words in str(raised.value)


def test_without_a_timeout_there_are_the_attempts(clock: Clock) -> None:
    """`SUPABASE_OPEN_TIMEOUT = 0`."""
    assert tried(clock, busy(), timeout=0) == 3


@pytest.mark.parametrize("delay", [0.0, 0.02, 1.0, 100.0])
def test_a_busy_server_is_not_hammered(clock: Clock, delay: float) -> None:
    """With any BATCH_RETRY_DELAY, and not left alone for long either."""
    assert 8 <= tried(clock, busy(), delay=delay) <= 1300
    assert all(0.04 < wait <= 7.5 for wait in clock.waits[:-1])


def test_crawls_that_start_at_once_do_not_stay_in_step() -> None:
    """The waits differ from crawl to crawl, also if each was given the same Retry-After."""
    for answer in (busy(), busy(retry_after="1")):
        firsts = set()
        for _ in range(20):
            clock = Clock()
            tried(clock, answer)
            firsts.add(clock.waits[0])
        assert len(firsts) == 20


def test_retry_after_is_respected(clock: Clock) -> None:
    """Never earlier; if the answer asks for more than the rest of the time, the wait ends at once."""
    tried(clock, busy(retry_after="7"))
    assert clock.waits
    assert min(clock.waits) >= 7
    assert clock.now <= 60
    clock.waits.clear()
    assert tried(clock, busy(503, retry_after="61")) == 1
    assert tried(clock, busy(503, retry_after="301"), timeout=0) == 1
    assert clock.waits == []


def test_a_reset_among_busy_answers_is_no_end(clock: Clock) -> None:
    """A gateway under load also breaks connections."""
    answers = [busy()(), gone(), gone(), busy()(), gone(), gone(), busy()()]

    def request() -> str:
        if answers:
            raise answers.pop(0)
        return "stored"

    assert OpenPolicy(3, 1.0, clock, 60, clock=lambda: clock.now).run("Checking", request) == "stored"


def test_a_stopped_crawl_does_not_wait(clock: Clock) -> None:
    """The deadline ends the tries."""

    def request() -> None:
        clock.end()
        raise busy()()  # noqa: RSE102

    with pytest.raises(TransientError):
        OpenPolicy(3, 1.0, clock, 60, clock=lambda: clock.now).run("Checking", request)
    assert len(clock.waits) == 1
