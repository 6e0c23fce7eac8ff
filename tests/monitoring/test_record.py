"""The record of a run: constant in size, correct in its sums, without secrets."""

from __future__ import annotations

import math
import random
import re
import stat
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scrapy.settings import Settings

from scrapy_supabase.backends.answers import classify
from scrapy_supabase.errors import fatal
from scrapy_supabase.models import Chunk, Effort, Mode, Origin, Outcome, Rejection, Row
from scrapy_supabase.monitoring.counters import Counters
from scrapy_supabase.monitoring.crawl_observer import CrawlObserver
from scrapy_supabase.monitoring.histogram import Histogram
from scrapy_supabase.monitoring.last_run import (
    FILE,
    LastRun,
    LastRunFile,
    UnreadableRunError,
    read_last_run,
    write_whole,
)
from scrapy_supabase.monitoring.record import Record
from scrapy_supabase.monitoring.redaction import HIDDEN, is_secret, redacted_message, redacted_row, scrubbed
from scrapy_supabase.monitoring.timeline import MAX_BUCKETS, Timeline
from scrapy_supabase.report import page_of
from scrapy_supabase.settings.config import Config
from scrapy_supabase.settings.display import effective_settings

JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"
ROW = Row("t", ("a",), "1", b'{"a":1}')


class Clock:
    """Time that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def new_run(clock: Clock | None = None) -> CrawlObserver:
    """A run that has just started: what is told of it is counted and recorded."""
    counters, started = Counters(), datetime(2026, 11, 24, tzinfo=UTC)
    record = Record("run-id", "spider", started, "host", {}, counters, clock=clock or Clock())
    return CrawlObserver(counters, record, lambda _: None)


def new_record(clock: Clock | None = None) -> Record:
    """The record of a run that has just started."""
    return new_run(clock).record


def known(record: Record, reason: str | None = None) -> LastRun:
    """What it would write down now."""
    return msgspec.json.decode(record.encoded("spool", reason=reason), type=LastRun)


def settled(
    observer: CrawlObserver, *, rows: int = 1, rejected: int = 0, seconds: float = 0.1, code: str = "23514"
) -> None:
    """A chunk comes to an end."""
    chunk = Chunk(1, (ROW,) * rows, "1.jsonl")
    rejections = tuple(Rejection("t", ROW.data, code, "no") for _ in range(rejected))
    effort = Effort(requests=2, request_bytes=10, retries=1, seconds=seconds)
    effort.errors["http_503"] += 1
    observer.on_chunk_sealed(chunk)
    observer.on_chunk_done(Outcome(chunk, rows - rejected, rejections, effort=effort))


def test_a_million_chunks_take_no_more_memory_than_a_thousand() -> None:
    """Over eleven days, with rejects, outages and errors of more and more kinds."""
    clock = Clock()
    observer = new_run(clock)
    record = observer.record
    chunk = Chunk(1, (ROW,), "1.jsonl")
    effort = Effort(requests=1, seconds=0.1)

    def live(chunks: range) -> None:
        for number in chunks:
            clock.now += 1
            observer.on_chunk_sealed(chunk)
            effort.seconds = 0.001 * (number % 5000)
            rejections: tuple[Rejection, ...] = ()
            if number % 100 == 0:
                effort.errors.clear()
                effort.errors[f"E{number % 100_000}"] = 1
                rejections = (Rejection("t", ROW.data, f"E{number}", "no"),)
                observer.on_outage_end(0.5)
                observer.counters.rejected_by_code.clear()  # a server has few codes; the record stands any number
            observer.on_chunk_done(Outcome(chunk, 1 - len(rejections), rejections, effort=effort))

    live(range(900_000))
    size = len(record.encoded("spool"))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    live(range(900_000, 1_000_000))
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 60_000  # numbers that have become greater; a byte a chunk would be more
    assert len(record.encoded("spool")) < size + 2000
    run = known(record)
    assert run.timeline.total("uploaded") + run.timeline.total("rejected") == 1_000_000
    assert (run.total.received, run.total.uploaded, run.total.rejected) == (1_000_000, 990_000, 10_000)
    assert run.timeline.buckets <= MAX_BUCKETS
    assert (len(run.outages), run.outage_count, run.outage_seconds) == (100, 10_000, 5_000)
    assert (len(run.rejects), sum(kind.rows for kind in run.rejects) + run.other_rejects) == (100, 10_000)


def test_merging_buckets_keeps_sums_and_order() -> None:
    """When there are too many, neighbours are merged; late events stay late."""
    line = Timeline()
    for second in range(1000):
        line.add(second, uploaded=second, errors=second % 7 == 0)
    assert (line.seconds, line.buckets) == (8, 125)
    assert line.counts["uploaded"] == [sum(range(8 * n, 8 * n + 8)) for n in range(125)]
    assert line.total("errors") == 143
    coarse = line.coarser(20)
    assert (coarse.seconds, coarse.buckets, coarse.total("uploaded")) == (64, 16, line.total("uploaded"))
    assert line.buckets == 125


def test_quantiles_have_an_error_of_a_few_per_cent() -> None:
    """For times from a tenth of a millisecond to minutes."""
    chance = random.Random(1)
    times = sorted(math.exp(chance.gauss(-3, 1.6)) for _ in range(20_000))
    histogram = Histogram()
    for seconds in times:
        histogram.add(seconds)
    for part in (0.01, 0.5, 0.95, 0.99, 1.0):
        exact = times[max(0, math.ceil(part * len(times)) - 1)]
        assert histogram.quantile(part) == pytest.approx(exact, rel=0.03)
    assert histogram.longest == times[-1]
    assert len(histogram.bins) <= 361


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.25, 1e6])
def test_quantiles_of_one_time(seconds: float) -> None:
    """Also of a time beyond the last bin; no quantile exceeds the longest time."""
    histogram = Histogram()
    assert histogram.quantile(0.5) == 0
    histogram.add(seconds)
    assert histogram.quantile(0.5) <= seconds
    assert histogram.quantile(0.99) == pytest.approx(seconds, rel=0.03, abs=1e-4) or seconds > 5000


def test_counts_add_up_per_table_and_separately_for_earlier_runs() -> None:
    """`received = uploaded + superseded + rejected + left`, as in the stats."""
    observer = new_run()
    chunk = Chunk(1, (ROW,) * 10, "1.jsonl", superseded=2)
    observer.on_chunk_sealed(chunk)
    reject = Rejection("t", ROW.data, "23514", "no")
    observer.on_chunk_done(Outcome(chunk, 6, (reject,), left=(ROW,) * 3, effort=Effort(requests=1)))
    observer.on_rows_kept(chunk.subset((ROW,) * 3), 3)
    observer.refused(Rejection("t", b"{}", "no_column", "no"))
    old = msgspec.structs.replace(chunk, origin=Origin("earlier", "s", Mode.UPSERT, ()))
    observer.on_chunk_done(Outcome(old, 8, (reject,), effort=Effort(requests=1)))
    observer.on_rows_kept(old, 1)
    rows = known(observer.record).tables["t"]
    assert rows.received == 13 == rows.uploaded + rows.superseded + rows.rejected + rows.left
    assert (rows.recovered, rows.recovered_rejected, rows.recovered_left) == (8, 1, 1)


def test_the_record_is_due_less_and_less_often_but_every_minute() -> None:
    """After 1, 2, 4 … seconds."""
    clock = Clock()
    record = new_record(clock)
    due = []
    for second in range(300):
        clock.now = 1000.0 + second
        if record.is_due():
            due.append(second)
    assert due == [1, 2, 4, 8, 16, 32, 64, 124, 184, 244]


def test_samples_are_the_first_three_of_a_kind() -> None:
    """Later ones are not kept."""
    observer = new_run()
    for _ in range(5):
        settled(observer, rows=4, rejected=2)
    (kind,) = known(observer.record).rejects
    assert (kind.table, kind.code, kind.rows, len(kind.samples)) == ("t", "23514", 10, 3)
    assert kind.samples[0].row == {"a": "1"}


def test_a_fatal_error_is_kept_once_and_without_keys() -> None:
    """The server's message may quote the key."""
    record = new_record()
    error = classify(401, b'{"message": "bad key sb_secret_abc123 in %s"}' % JWT.encode())
    record.on_fatal(fatal(error, "supabase_unauthorized", "Do this."))
    record.on_fatal(fatal(error, "supabase_paused", "Not this."))
    found = known(record, "supabase_unauthorized").fatal
    assert found is not None
    assert (found.reason, found.remedy) == ("supabase_unauthorized", "Do this.")
    assert found.words == f"http_401: bad key {HIDDEN} in {HIDDEN}."


# Secrets


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "user_passwd",
        "Secret",
        "client-secret",
        "access_token",
        "apiKey",
        "API_KEY",
        "Authorization",
        "cookie",
        "sessionId",
        "x-csrf",
        "user_pin",
        "jwt",
        "cardNumber",
        "passWord",
        "PassWord",
    ],
)
def test_names_of_secret_fields(name: str) -> None:
    """In any spelling."""
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["author", "authors", "title", "footprint", "spinning", "secretary", "price", "side", ""]
)
def test_names_of_fields_that_are_not_secret(name: str) -> None:
    """Although they contain the same parts."""
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"key {JWT} was", f"key {HIDDEN} was"),
        ("sb_secret_Abc-1_x, sb_publishable_x", f"{HIDDEN}, {HIDDEN}"),
        ("postgresql://postgres:p@ss!w@db.a.co:5432/x", f"postgresql://postgres:{HIDDEN}@db.a.co:5432/x"),
        ("host=a password=hunter2 user=b", f"host=a password={HIDDEN} user=b"),
        ("https://a.example/?token=abc&x=1", f"https://a.example/?token={HIDDEN}&x=1"),
        ('{"api_key": "a b", "n": 1}', f'{{"api_key": {HIDDEN}, "n": 1}}'),
        ("Authorization: Bearer abcdefghijkl", f"Authorization: {HIDDEN} {HIDDEN}"),
        ("nothing to hide: 1, 2", "nothing to hide: 1, 2"),
    ],
)
def test_secrets_in_a_text(text: str, shown: str) -> None:
    """Recognizable secrets are hidden anywhere in a text."""
    for secret in ("hunter2", "abcdefghijkl", "p@ss", JWT):
        assert secret not in scrubbed(text)
    assert scrubbed(text).replace(f"{HIDDEN} {HIDDEN}", HIDDEN) == shown.replace(f"{HIDDEN} {HIDDEN}", HIDDEN)


def test_a_sample_row_is_redacted_and_shortened() -> None:
    """At every depth; the number of omitted characters and fields is shown."""
    row: dict[str, Any] = {
        "id": 1,
        "password": "hunter2",
        "about": "x" * 500,
        "more": {"list": [{"apiKey": "hunter2"}], "url": "https://u:hunter2@a.example"},
        "key": JWT,
        "none": None,
    }
    shown = redacted_row(msgspec.json.encode(row))
    assert "hunter2" not in str(shown)
    assert JWT not in str(shown)
    assert (shown["id"], shown["none"], shown["password"]) == ("1", "null", HIDDEN)
    assert shown["about"] == f'"{"x" * 200}… (300 more characters)"'
    wide = redacted_row(msgspec.json.encode({f"field{n}": "y" * 150 for n in range(100)}))
    assert sum(len(name) + len(value) for name, value in wide.items()) < 2100
    assert wide["…"] == f"{100 - len(wide) + 1} more fields"


@pytest.mark.parametrize("data", [b'"a line"', b"\xff\xfe", b"[1]", b""])
def test_data_other_than_a_row_is_shown(data: bytes) -> None:
    """For example a damaged line."""
    assert list(redacted_row(data)) == [""]


@pytest.mark.parametrize(
    "words",
    [
        "Key (token)=(hunter2) already exists.",
        "Key (id, lower(token))=(1, hunter2) already exists.",
        'invalid input syntax for type uuid: "hunter2"',
        "trigger says: hunter2 is taken",
        "Failing row contains (1, hunter2, null), and so on.",
    ],
)
def test_the_servers_message_does_not_quote_secrets(words: str) -> None:
    """It quotes values with their names, by position, or alone."""
    shown = redacted_message(words, b'{"id":1,"token":"hunter2"}')
    assert shown is not None
    assert "hunter2" not in shown
    assert redacted_message("Key (id)=(1) already exists.", b'{"id":1}') == "Key (id)=(1) already exists."


def test_a_huge_row_is_not_searched() -> None:
    """The crawl would wait for the search; no value that the server quotes is shown."""
    data = msgspec.json.encode({"id": 1, "texts": ["token=hunter2 " * 20] * 20_000})
    record = new_record()
    record.refused(Rejection("t", data, "22P02", 'invalid input: "hunter2", Key (token)=(hunter2)'))
    encoded = record.encoded(None)
    assert b"hunter2" not in encoded
    assert f"a row of {len(data)} bytes, not shown".encode() in encoded


def test_huge_values_do_not_take_long() -> None:
    """Only their beginning is searched for patterns."""
    data = msgspec.json.encode({"a": "secretapi_keyx" * 100_000, "b": "a.b-" * 300_000, "c": "eyJ" * 300_000})
    assert len(str(redacted_row(data))) < 1000
    assert len(redacted_message("Key (" * 100_000, data) or "") < 1100


def test_settings_in_force_say_nothing_secret() -> None:
    """Kind of key and role, no more."""
    given = {
        "SUPABASE_URL": "https://user:hunter2@abc.supabase.co",
        "SUPABASE_KEY": JWT,
        "SUPABASE_DB_URL": "postgresql://writer:hunter2@db.abc.supabase.co/postgres",
        "SUPABASE_TABLE": "t",
    }
    both = effective_settings(Config.from_settings(Settings(given), {}))
    assert "hunter2" not in str(both)
    assert JWT not in str(both)
    assert (both["SUPABASE_URL"], both["SUPABASE_DB_URL"]) == ("https://abc.supabase.co", "hidden; role writer")
    del given["SUPABASE_DB_URL"]
    assert (
        effective_settings(Config.from_settings(Settings(given), {}))["SUPABASE_KEY"]
        == "hidden: a legacy JWT, role service_role"
    )


# The file


def test_the_file_is_private_and_complete(tmp_path: Path) -> None:
    """Mode 0600; no other file remains, and `read_last_run` reads it."""
    file = LastRunFile(tmp_path, None, "run-id", page_of)
    file.write(new_record().encoded("spool"))
    file.end(new_record().encoded("spool", reason="finished"))
    file.write(new_record().encoded("spool"))  # a thread that comes too late
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert read_last_run(tmp_path).reason == "finished"


def test_a_file_that_cannot_be_written_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With path and reason; no error is raised."""
    (tmp_path / "file").write_text("")
    file = LastRunFile(tmp_path / "file" / "spool", tmp_path / "file" / "report.html", "run-id", page_of)
    for _ in range(3):
        file.write(new_record().encoded("spool"))
    file.end(new_record().encoded("spool", reason="finished"))
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    path = tmp_path / "file" / "spool" / FILE
    assert f"Cannot write the record of this run to {path}: Not a directory." in warnings[0]
    assert str(tmp_path / "file" / "report.html") in warnings[1]


def test_a_link_is_followed_and_a_device_is_kept(tmp_path: Path) -> None:
    """`/dev/null` must not become a file."""
    (tmp_path / "link").symlink_to(tmp_path / "there")
    write_whole(tmp_path / "link", b"a", "x", private=False)
    assert ((tmp_path / "there").read_bytes(), (tmp_path / "link").is_symlink()) == (b"a", True)
    (tmp_path / "null").symlink_to("/dev/null")
    write_whole(tmp_path / "null", b"a", "x", private=False)
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "There is no run record in"),
        (b'{"format": 9}', "has format 9, but this version of scrapy-supabase reads format 1."),
        (b"{", "is not a valid run record. Delete it"),
        (b'{"format": 1}', "is not a valid run record. Delete it"),
        (b"\xff", "is not a valid run record. Delete it"),
    ],
)
def test_a_record_that_cannot_be_read(tmp_path: Path, data: bytes | None, said: str) -> None:
    """Missing, of another version, damaged: each message has a remedy."""
    if data is not None:
        (tmp_path / FILE).write_bytes(data)
    with pytest.raises(UnreadableRunError, match=re.escape(said)):
        read_last_run(tmp_path)
