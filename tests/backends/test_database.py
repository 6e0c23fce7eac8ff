"""The database backend: what only a database connection can meet. tests/backends/test_contract.py has the rest."""

from __future__ import annotations

import json
import logging
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from scrapy_supabase.backends import pg_connections
from scrapy_supabase.backends.answers import classify_connection
from scrapy_supabase.backends.postgres import PostgresBackend
from scrapy_supabase.delivery.executor import Progress
from scrapy_supabase.errors import FatalError, TransientError
from scrapy_supabase.models import Mode, Outcome
from tests.delivery.test_sent_chunks import certified
from tests.fix_crawl import Crawler
from tests.fix_project import Line, MakeLine, Project
from tests.monitoring.test_snapshots import LEDGER, TABLE
from tests.polling import eventually
from tests.tcp_proxy import Fault, TcpProxy

Sql = Callable[..., list[tuple[Any, ...]]]

pytestmark = pytest.mark.parametrize("line", ["database"], indirect=True)


def items(first: int, number: int, **more: Any) -> list[dict[str, Any]]:
    """Items with ascending ids."""
    return [{"id": first + n, "title": "x", **more} for n in range(number)]


@pytest.fixture
def table(sql: Sql) -> Sql:
    """The table `t`."""
    sql("create table t (id bigint primary key, title text not null); grant all on t to service_role")
    return sql


@pytest.fixture
def tcp(project: Project) -> Iterator[TcpProxy]:
    """A fault proxy in front of the database."""
    at = conninfo_to_dict(project.db_url)
    with TcpProxy(str(at["host"]), int(str(at["port"]))) as proxy:
        yield proxy


Connect = Callable[..., PostgresBackend]


@pytest.fixture
def connect(project: Project) -> Iterator[Connect]:
    """Make backends: `connect(user="…")` changes the connection string."""
    made: list[PostgresBackend] = []

    def new(url: str = "", **change: Any) -> PostgresBackend:
        made.append(PostgresBackend(make_conninfo(url or project.db_url, **change)))
        return made[-1]

    yield new
    for backend in made:
        backend.close()


def through(project: Project, tcp: TcpProxy) -> str:
    """The connection string that goes by the proxy."""
    return make_conninfo(project.db_url, host="127.0.0.1", port=tcp.port)


def ended(made: Line, rows: list[dict[str, Any]]) -> Outcome:
    """Begun by the owner, looked at, and ended as the engine does it."""
    sent = made.uploader.send(made.chunk(rows))
    assert sent is not None
    found: list[Outcome | Progress] = [Progress.NO_ANSWER]

    def looked() -> bool:
        found[0] = sent.poll()
        return found[0] not in (Progress.NO_ANSWER, Progress.SENT_NEXT)

    eventually(looked, within=1.0)
    return found[0] if isinstance(found[0], Outcome) else sent.finish()


# The connection fails


@pytest.mark.parametrize("fault", ["cut before", "cut after", "hang"])
@pytest.mark.parametrize("sent", [False, True])
def test_a_lost_connection_is_tried_again(
    table: Sql, line: MakeLine, project: Project, tcp: TcpProxy, fault: Fault, sent: bool
) -> None:
    """Stored exactly once, over a new connection; whether the first try was stored cannot be known."""
    made = line(url=through(project, tcp), timeout=0.5)
    made.upload(*items(100, 1))  # the statement is known from here on
    tcp.faults.append(fault)
    outcome = ended(made, items(1, 3)) if sent else made.upload(*items(1, 3))
    assert (outcome.uploaded, outcome.effort.retries, outcome.effort.requests) == (3, 1, 2)
    assert list(outcome.effort.errors) == ["TimeoutError" if fault == "hang" else "08006"]
    assert table("select count(*) from t") == [(4,)]


def test_without_a_key_an_unknown_outcome_is_counted(sql: Sql, line: MakeLine, project: Project, tcp: TcpProxy) -> None:
    """Stored, then no answer: there twice, and said so."""
    sql("create table t (title text); grant all on t to service_role")
    made = line(url=through(project, tcp), mode=Mode.INSERT)
    made.upload({"title": "first"})
    tcp.faults.append("cut after")
    assert made.upload({"title": "a"}).effort.ambiguous_retries == 1
    assert sql("select count(*) from t") == [(3,)]


def test_a_connection_lost_while_it_is_prepared(sql: Sql, line: MakeLine, project: Project) -> None:
    """No row was sent yet: tried again, and nothing may be there twice."""
    sql("create table t (title text); grant all on t to service_role")
    at = conninfo_to_dict(project.db_url)
    with TcpProxy(str(at["host"]), int(str(at["port"])), trigger=b"json_to_recordset") as proxy:
        made = line(url=through(project, proxy), mode=Mode.INSERT, check=False)
        proxy.faults.append("cut after")
        effort = made.upload({"title": "a"}).effort
    assert (effort.retries, effort.ambiguous_retries) == (1, 0)
    assert sql("select count(*) from t") == [(1,)]


def test_nobody_listens(table: Sql, line: MakeLine, project: Project, tcp: TcpProxy) -> None:
    """Known at once; after the tries the rows are left."""
    made = line(url=through(project, tcp))
    tcp.__exit__()
    outcome = made.upload(*items(1, 2))
    assert (outcome.uploaded, len(outcome.left), outcome.effort.errors["08001"]) == (0, 2, 2)
    assert isinstance(outcome.transient, TransientError)


def test_connections_that_the_server_ends_while_idle(table: Sql, line: MakeLine) -> None:
    """Found out before or after sending; nothing is lost, and nothing is stored twice."""
    made = line()
    made.upload(*items(1, 1))
    table("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'scrapy-supabase'")
    assert made.upload(*items(2, 2)).uploaded == 2
    table("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'scrapy-supabase'")
    sent = made.uploader.send(made.chunk(items(4, 2)))
    assert sent is None or sent.finish().uploaded == 2
    assert table("select count(*) from t where id < 4") == [(3,)]


def test_a_statement_that_is_given_up_is_cancelled(table: Sql, line: MakeLine) -> None:
    """It must not wait on for a lock, and be waited for by its own second try."""
    made = line(timeout=0.3, attempts=2)
    blocked = "select count(*) from pg_stat_activity where state = 'active' and query like 'INSERT INTO%recordset%'"
    with psycopg.connect(made.backend._conninfo) as locker:  # type: ignore[attr-defined]
        locker.execute("lock table t")
        outcome = made.upload(*items(1, 2))
        assert eventually(lambda: table(blocked) == [(0,)])
    assert (len(outcome.left), outcome.effort.errors) == (2, {"TimeoutError": 2})


def test_it_closes_while_a_statement_is_on_its_way(table: Sql, line: MakeLine) -> None:
    """What is abandoned is not used again."""
    made = line()
    made.upload(*items(1, 1))
    sent = made.uploader.send(made.chunk(items(2, 2)))
    assert sent is not None
    sent.abandon()
    assert made.uploader.send(made.chunk(items(2, 2))) is None


# What the server says


@pytest.mark.parametrize("code", ["40P01", "40001", "55P03", "53200", "57P01", "08006"])
def test_transient_codes_are_tried_again(sql: Sql, line: MakeLine, code: str) -> None:
    """Raised once by a trigger; the second try goes through."""
    sql(f"""create table t (id bigint primary key, title text); grant all on t to service_role;
        create sequence if not exists t_once; alter sequence t_once restart;
        grant all on sequence t_once to service_role;
        create or replace function t_fails_once() returns trigger language plpgsql as $$ begin
        if nextval('t_once') = 1 then raise exception 'once' using errcode = '{code}'; end if; return new; end $$;
        create trigger once before insert on t for each statement execute function t_fails_once()""")
    made = line(check=False)  # no probe: it would fire the trigger
    outcome = made.upload(*items(1, 2))
    assert (outcome.uploaded, outcome.effort.errors, outcome.effort.ambiguous_retries) == (2, {code: 1}, 0)


def test_internal_errors_are_tried_twice_at_most(sql: Sql, line: MakeLine) -> None:
    """XX000 for rows that the table takes none of: each is rejected, and the server is not unreachable."""
    sql("""create table t (id bigint primary key, title text); grant all on t to service_role;
        create or replace function t_broken() returns trigger language plpgsql as
        $$ begin raise exception 'oops' using errcode = 'XX000'; end $$;
        create trigger broken before insert on t for each row execute function t_broken()""")
    outcome = line(attempts=5).upload(*items(1, 2))
    assert (outcome.transient.about_rows if outcome.transient else None, len(outcome.left)) == (True, 2)
    # The chunk twice, once without rows, and each row alone twice, and once without it.
    assert outcome.effort.requests == 9


def test_an_error_of_the_commit_is_heard(sql: Sql, line: MakeLine) -> None:
    """A deferred constraint speaks after the statement was done."""
    sql("""create table t_author (id bigint primary key); create table t (id bigint primary key,
        author bigint references t_author deferrable initially deferred); grant all on t to service_role""")
    made = line()
    outcome = made.upload({"id": 1, "author": 5})
    assert (outcome.uploaded, len(outcome.deferred), made.schema.references("t")) == (0, 1, frozenset({"t_author"}))
    assert sql("select count(*) from t") == [(0,)]


def test_what_goes_wrong_with_a_sent_upload_is_done_by_its_finish(table: Sql, line: MakeLine) -> None:
    """A bad row, and a body that no buffer takes at once."""
    made = line()
    made.upload(*items(1, 1))
    bad = ended(made, [*items(10, 3), {"id": 20, "title": None}])
    assert (bad.uploaded, [r.code for r in bad.rejections]) == (3, ["23502"])
    large = ended(made, [{"id": 30 + n, "title": "y" * 5_000_000} for n in range(2)])
    assert large.uploaded == 2
    assert table("select max(length(title)) from t") == [(5_000_000,)]


def test_a_read_only_database_keeps_the_rows(table: Sql, line: MakeLine, connect: Connect) -> None:
    """25006, as when the disk is nearly full."""
    made = line()
    made.upload(*items(1, 1))
    made.uploader._sender.backend = connect(options="-c role=service_role -c default_transaction_read_only=on")
    outcome = made.upload(*items(2, 2))
    assert outcome.fatal is not None
    assert (outcome.fatal.reason, len(outcome.left)) == ("supabase_read_only", 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "wr0ng-secret"}, "password authentication failed"),
        ({"dbname": "nowhere"}, 'database "nowhere" does not exist'),
        ({"options": "-c role=nobody_at_all"}, 'role "nobody_at_all" does not exist'),
    ],
)
def test_who_may_not_connect_is_told_at_once(
    line: MakeLine, project: Project, connect: Connect, change: dict[str, str], said: str
) -> None:
    """Not after a wait for a pool; the message names the setting, and no password."""
    backend = connect(**change)
    with pytest.raises(FatalError, match="in SUPABASE_DB_URL") as raised:
        backend.describe()
    assert raised.value.reason == "supabase_unauthorized"
    assert said in str(raised.value)
    for secret in ("wr0ng-secret", str(conninfo_to_dict(project.db_url)["password"])):
        assert secret not in str(raised.value)
        assert secret not in repr(backend)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("FATAL: sorry, too many clients already", "53300"),
        ("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute", "53300"),
        ("FATAL: MaxClientsInSessionMode: max clients reached - in Session mode", "53300"),
        ("FATAL:  the database system is starting up", "57P03"),
        ("server does not support SSL, but SSL was required", "08001"),
    ],
)
def test_who_cannot_connect_now_may_later(message: str, code: str, line: MakeLine) -> None:
    """Words of PostgreSQL and of Supabase's pooler: there is no SQLSTATE of a connection that was not made."""
    error = classify_connection(message)
    assert (type(error), error.code) == (TransientError, code)


def test_a_pooler_that_knows_no_such_project(line: MakeLine) -> None:
    """Supavisor's words for a wrong user."""
    assert isinstance(classify_connection("FATAL:  Tenant or user not found"), FatalError)


def test_too_many_connections_are_waited_for(table: Sql, line: MakeLine, project: Project, connect: Connect) -> None:
    """53300, for real: a role that may have one connection, which another holds."""
    table("""do $$ begin create role t_few login password 'few' connection limit 1; exception when duplicate_object
        then null; end $$; grant all on t to t_few; grant usage on schema public to t_few""")
    url = make_conninfo(project.db_url, user="t_few", password="few")
    made = line(check=False, attempts=5, delay=0.05)
    made.uploader._sender.backend = connect(url)
    holder = psycopg.connect(url)
    threading.Timer(0.1, holder.close).start()
    outcome = made.upload(*items(1, 2))
    assert outcome.uploaded == 2
    assert outcome.effort.errors["53300"] >= 1


@pytest.mark.parametrize(("pooler", "prepared"), [(False, 1), (True, 0)])
def test_nothing_stays_in_the_session_of_a_pooler(
    table: Sql, line: MakeLine, project: Project, pooler: bool, prepared: int
) -> None:
    """What a transaction pooler needs: no prepared statement, no setting, no open transaction. Else it is prepared."""
    at = conninfo_to_dict(project.db_url)
    with TcpProxy(str(at["host"]), int(str(at["port"])), pooler=pooler) as proxy:
        made = line(url=through(project, proxy))
        for n in range(20):
            assert made.upload(*items(10 * n, 10)).uploaded == 10
        backend = made.backend
        assert isinstance(backend, PostgresBackend)
        found = backend._connections.run(
            b"select json_build_array((select count(*) from pg_prepared_statements where statement like '%recordset%'),"
            b" (select count(*) from pg_settings where source = 'session'),"
            b" (select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'))"
        )
        backend.close()
    # The probe of the check, and the upload; the first has all columns that are known to be sent.
    assert json.loads(found or b"") == [2 * prepared, 0, 0]


def memory_of(process: int) -> int:
    """Kilobytes that are the process's own; 1 where it is on another machine."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) if found else 1


def test_items_of_many_shapes_do_not_fill_the_servers_memory(
    sql: Sql, line: MakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten optional fields make 1024 column sets: only some of their statements stay prepared, in server and client.

    What the server cannot forget ends with the connection (here after a hundred).
    """
    monkeypatch.setattr(pg_connections, "_MOST_ON_A_CONNECTION", 100)
    fields = [f"c{n}" for n in range(10)]
    sql(
        f"create table t (id bigint primary key, {', '.join(f'{name} text' for name in fields)});"
        "grant all on t to service_role"
    )
    made = line(check=False)
    backend = made.backend
    assert isinstance(backend, PostgresBackend)
    prepared, memory, processes = [], [], set()
    for number in range(300):
        some = {name: "x" for at, name in enumerate(fields) if number >> at & 1}
        for again in range(2):
            assert made.upload({"id": 2 * number + again, **some}).uploaded == 1
        if number >= 60:
            found = backend._connections.run(
                b"select json_build_array((select count(*) from pg_prepared_statements), pg_backend_pid())"
            )
            statements, process = json.loads(found or b"")
            prepared.append(statements)
            memory.append(memory_of(process))
            processes.add(process)
    assert 0 < max(prepared) <= 50
    assert len(processes) == 2
    assert max(memory[120:]) < 1.2 * max(memory[:120])
    assert sql("select count(*) from t") == [(600,)]


def test_a_column_dropped_under_a_prepared_statement(table: Sql, line: MakeLine) -> None:
    """The server plans anew, and says what is missing."""
    made = line()
    for n in range(8):
        made.upload(*items(10 * n, 10))
    table("alter table t drop column title")
    assert made.upload(*items(100, 2)).uploaded == 2


def test_tls_is_checked_as_the_connection_string_asks(
    table: Sql, line: MakeLine, project: Project, connect: Connect, tmp_path: Path
) -> None:
    """`sslmode=verify-full` takes the right authority and no other; rows go the same way, large ones too."""
    certificate, key = certified(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    at = conninfo_to_dict(project.db_url)
    with TcpProxy(str(at["host"]), int(str(at["port"])), tls=tls) as proxy:
        url = make_conninfo(through(project, proxy), sslmode="verify-full", sslrootcert=str(certificate))
        made = line(url=url)
        made.upload(*items(1, 1))
        assert ended(made, items(2, 100)).uploaded == 100
        assert ended(made, [{"id": 200 + n, "title": "y" * 1_000_000} for n in range(2)]).uploaded == 2
        (tmp_path / "other").mkdir()
        other, _ = certified(tmp_path / "other")
        stranger = connect(url, sslrootcert=str(other))
        with pytest.raises(TransientError, match="certificate verify failed"):
            stranger.describe()
    assert table("select count(*) from t") == [(103,)]


# Whole crawls


def test_a_crawl_over_a_database_connection(
    crawl: Crawler, snapshots: Sql, project: Project, line: MakeLine, caplog: pytest.LogCaptureFixture
) -> None:
    """SUPABASE_DB_URL alone: rows, versions, the ledger; no password in the log."""
    caplog.set_level(logging.DEBUG)
    snapshots(f"{TABLE}; {LEDGER}")
    rows = [{"id": number, "title": f"t{number}", "colour": "red"} for number in range(250)]
    done = crawl(
        {"items": [*rows, {"id": "bad", "title": "x"}]},
        SUPABASE_URL=None,
        SUPABASE_KEY=None,
        SUPABASE_DB_URL=project.db_url,
        SUPABASE_DAILY_SNAPSHOTS=True,
        SUPABASE_RUNS_TABLE="t_runs",
    )
    assert done.counts("received", "uploaded", "failed") == (251, 250, 1), done.log
    assert snapshots("select count(*), max(snapshot_version) from t") == [(250, 1)]
    assert snapshots("select uploaded_count, finish_reason from t_runs") == [(250, "finished")]
    assert "over a database connection" in done.log
    assert "ALTER TABLE public.t ADD COLUMN colour text;" in done.log
    assert str(conninfo_to_dict(project.db_url)["password"]) not in done.log


def test_a_crawl_whose_database_password_is_wrong(crawl: Crawler, table: Sql, project: Project, line: MakeLine) -> None:
    """It ends before a page, and says which setting to mend."""
    url = make_conninfo(project.db_url, password="wr0ng-secret")
    done = crawl({"items": items(1, 3)}, SUPABASE_URL=None, SUPABASE_KEY=None, SUPABASE_DB_URL=url)
    assert done.stats["finish_reason"] == "supabase_unauthorized", done.log
    assert "Check user, password and database in SUPABASE_DB_URL" in done.log
    assert "wr0ng-secret" not in done.log


def test_rows_left_by_one_way_are_uploaded_by_the_other(
    crawl: Crawler, table: Sql, project: Project, line: MakeLine
) -> None:
    """The spool knows the project, not the way to it."""
    closed = "http://127.0.0.1:9"
    left = crawl({"items": items(1, 120)}, SUPABASE_DB_URL=make_conninfo(project.db_url, port=9), SUPABASE_URL=closed)
    assert left.stats["finish_reason"] == "supabase_unavailable"
    first = crawl(
        {"items": items(1, 120), "fatal_after": 0},
        SUPABASE_DB_URL=project.db_url,
        SUPABASE_CLOSE_TIMEOUT=0,
    )
    second = crawl({"items": []})
    total = first.counts("uploaded")[0] + second.counts("recovered")[0]
    assert (total, table("select count(*) from t")) == (120, [(120,)])
