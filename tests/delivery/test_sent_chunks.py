"""Uploads whose request the owner sends: each has the same outcome as one in an upload thread."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from scrapy_supabase.backends.base import Write, WriteState
from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.delivery.executor import Progress
from scrapy_supabase.delivery.sent_chunk import SentChunk
from scrapy_supabase.errors import TransientError
from scrapy_supabase.models import Chunk, Mode, Outcome
from tests import fault_proxy as faults
from tests.fault_proxy import FaultProxy
from tests.fix_project import Line, MakeLine, Project
from tests.polling import eventually

Sql = Callable[..., list[tuple[Any, ...]]]
TABLE = "create table t (id bigint primary key, title text not null); grant all on t to service_role"


def items(first: int, number: int, title: str = "x") -> list[dict[str, Any]]:
    """Return rows of the table."""
    return [{"id": first + n, "title": title} for n in range(number)]


@pytest.fixture
def made(line: MakeLine, proxy: FaultProxy, sql: Sql) -> Line:
    """Return a line with one idle connection, as the check at open leaves it."""
    sql(TABLE)
    return line(url=proxy.url, timeout=1.0)


def send(made: Line, chunk: Chunk) -> SentChunk:
    """Send the chunk's request."""
    sent = made.uploader.send(chunk)
    assert sent is not None
    return sent


def ended(sent: SentChunk) -> Outcome:
    """Poll, and finish in a thread if needed, as the engine does. Return the outcome."""
    found: list[Outcome | Progress] = [Progress.NO_ANSWER]

    def looked() -> bool:
        found[0] = sent.poll()
        return found[0] not in (Progress.NO_ANSWER, Progress.SENT_NEXT)

    assert eventually(looked)
    return found[0] if isinstance(found[0], Outcome) else sent.finish()


def test_a_stored_chunk_needs_no_thread(made: Line, sql: Sql) -> None:
    """The answer is only polled; the connection serves the next request."""
    for first in (0, 100, 200):
        found: list[Outcome | Progress] = []
        sent = send(made, made.chunk(items(first, 100)))

        def stored(sent: SentChunk = sent, found: list[Outcome | Progress] = found) -> bool:
            found.append(sent.poll())
            return found[-1] not in (Progress.NO_ANSWER, Progress.SENT_NEXT)

        assert eventually(stored)
        assert isinstance(found[-1], Outcome)
        assert found[-1].uploaded == 100
        assert found[-1].effort.requests == 1
        assert 0 <= found[-1].effort.seconds < 5
    assert sql("select count(*) from t") == [(300,)]


@pytest.mark.parametrize("line", ["rest", "database"], indirect=True)
@pytest.mark.parametrize("bad", [1, 3])
def test_bad_rows_need_no_thread(line: MakeLine, sql: Sql, bad: int) -> None:
    """The owner reads the refusal, sends the other rows, and rejects the row that the message identifies."""
    sql(TABLE)
    made = line()
    made.uploader.upload(made.chunk(items(1000, 50)))  # a connection, and the statement
    rows = items(0, 50)
    for number in range(bad):
        rows[7 * number]["title"] = None
    sent = send(made, made.chunk(rows))
    found: list[Outcome | Progress] = []

    def polled() -> bool:
        found.append(sent.poll())
        return found[-1] not in (Progress.NO_ANSWER, Progress.SENT_NEXT)

    assert eventually(polled)
    outcome = found[-1]
    assert isinstance(outcome, Outcome)
    assert (outcome.uploaded, len(outcome.rejections)) == (50 - bad, bad)
    assert {rejection.code for rejection in outcome.rejections} == {"23502"}
    assert outcome.effort.errors == {"23502": outcome.effort.requests - 1}
    assert sql("select count(*) from t") == [(100 - bad,)]


@pytest.mark.parametrize(
    ("fault", "requests"),
    [
        (faults.passes, 1),
        (faults.delays(0.2), 1),
        (faults.resets_before, 2),
        (faults.resets_after, 2),
        (faults.truncates, 2),
        (faults.answers(503, {"code": "PGRST002", "message": "starting"}), 2),
        (faults.answers(504, "<html>late</html>", stored=True), 2),
        (faults.answers(429, {"message": "slow down"}, Retry_After="0"), 2),
        (faults.answers(413, "<html>too large</html>"), 3),
        (faults.answers(503, ""), 2),
        (faults.answers(201, {"some": "body"}, stored=True), 1),
        (faults.answers(201, "", stored=True, X_Long="y" * 20000), 1),
    ],
)
def test_every_fault(made: Line, proxy: FaultProxy, sql: Sql, fault: faults.Fault, requests: int) -> None:
    """The first answer counts as the first try; all rows are stored in the end."""
    proxy.faults.append(fault)
    outcome = ended(send(made, made.chunk(items(0, 50))))
    assert outcome.uploaded == 50
    assert outcome.effort.requests >= requests
    assert sql("select count(*) from t") == [(50,)]


@pytest.mark.parametrize("at_once", [True, False])
def test_an_empty_refusal_keeps_its_headers_and_its_connection(made: Line, proxy: FaultProxy, at_once: bool) -> None:
    """Retry-After is obeyed; the connection is released once: released twice, two uploads would share it."""
    assert isinstance(made.backend, PostgrestBackend)
    chunk = made.chunk(items(0, 5))
    made.uploader.upload(chunk)
    proxy.faults.append(faults.answers(503, "", Retry_After="77"))
    write = Write("t", ("id",), b"[]", Mode.INSERT)
    sent = made.backend.send(write) if at_once else None
    assert sent is None or eventually(lambda: sent.poll() is not WriteState.NO_ANSWER)
    with pytest.raises(TransientError) as raised:
        sent.finish() if sent else made.backend.write(write)
    assert raised.value.retry_after == 77
    assert len(made.backend._http._idle._idle) == 1


def test_no_answer_ends_by_the_timeout(made: Line, proxy: FaultProxy, sql: Sql) -> None:
    """Polling finds nothing; `finish` gets the timeout, and tries again."""
    proxy.faults.append(faults.hangs)
    sent = send(made, made.chunk(items(0, 5)))
    assert sent.poll() is Progress.NO_ANSWER
    assert sent.finish().uploaded == 5
    assert sql("select count(*) from t") == [(5,)]


def test_bad_rows_unknown_columns_and_a_fatal_answer(made: Line, proxy: FaultProxy, sql: Sql) -> None:
    """Bisected, dropped, left."""
    bad: list[dict[str, Any]] = [*items(0, 9), {"id": 9, "title": None}]
    outcome = ended(send(made, made.chunk(bad)))
    assert (outcome.uploaded, [r.code for r in outcome.rejections]) == (9, ["23502"])
    sql("alter table t drop column title; notify pgrst, 'reload schema'")
    outcome = ended(send(made, made.chunk(items(20, 10))))
    assert outcome.uploaded == 10
    proxy.faults.extend([faults.answers(540, {"message": "paused"})] * 2)
    outcome = ended(send(made, made.chunk(items(40, 10))))
    assert len(outcome.left) == 10
    assert outcome.fatal is not None
    assert outcome.fatal.reason == "supabase_paused"


def test_a_body_that_does_not_fit_into_the_socket_goes_on_in_a_thread(made: Line, proxy: FaultProxy, sql: Sql) -> None:
    """A row of 12 MB: sent in part, then completed."""
    proxy.faults.append(faults.passes)
    sent = send(made, made.chunk(items(0, 1, "y" * 12_000_000)))
    assert sent.poll() is Progress.NEEDS_WAITING
    assert sent.finish().uploaded == 1
    assert sql("select length(title) from t") == [(12_000_000,)]


def test_a_connection_that_was_closed_while_it_was_idle(project: Project, line: MakeLine, sql: Sql) -> None:
    """It is not used, or its request is sent again: no row is lost."""
    sql(TABLE)
    with FaultProxy(project.url) as first:
        made = line(url=first.url)
        port = first.server_address[1]
    del port  # nobody listens there any more
    sent = made.uploader.send(made.chunk(items(0, 5)))
    outcome = sent.finish() if sent else made.uploader.upload(made.chunk(items(0, 5)))
    assert len(outcome.left) == 5


def test_an_abandoned_upload_closes_its_connection(made: Line, proxy: FaultProxy) -> None:
    """The close gave up waiting."""
    proxy.faults.append(faults.hangs)
    sent = send(made, made.chunk(items(0, 5)))
    sent.abandon()
    assert made.uploader.send(made.chunk(items(0, 5))) is None  # its connection is not used again


def test_over_tls(project: Project, line: MakeLine, sql: Sql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a hosted project: with a checked certificate, the outcomes are the same."""
    sql(TABLE)
    certificate, key = certified(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with FaultProxy(project.url, tls) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        made = line(url=server.url)
        server.faults.extend([faults.passes, faults.delays(0.1), faults.answers(503, "<html></html>")])
        for first in (0, 100, 200):
            assert ended(send(made, made.chunk(items(first, 100, "z" * 300)))).uploaded == 100
    assert sql("select count(*) from t") == [(300,)]


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, secret
