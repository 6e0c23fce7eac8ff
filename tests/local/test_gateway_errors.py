"""Bad input to the gateway: PostgREST's error, or a 4xx or 501 with a sentence; no traceback, no injection."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scrapy_supabase.local import LocalSupabase
from tests.fix_local import Connection

TABLES = """
drop table if exists victims, "odd ""name; drop table victims;--";
drop domain if exists "text/html" cascade;
create table victims (id bigint primary key, name text, "odd "";--" text, meta jsonb);
insert into victims values (1, 'safe', 'x', '{"a": 1}');
create table "odd ""name; drop table victims;--" (a int);
grant all on victims, "odd ""name; drop table victims;--" to service_role;
create or replace function twice(n int) returns int language sql as $$ select n * 2 $$;
create or replace function teapot() returns void language plpgsql as
  $$ begin raise sqlstate 'PT418' using message = 'short and stout'; end $$;
create or replace function own_status(status text default '', headers text default '') returns void language sql as
  $$ select set_config('response.status', status, true), set_config('response.headers', headers, true) $$;
create domain "text/html" as text;
create or replace function page() returns "text/html" language sql as $$ select '<p>' $$;
create or replace function own_answer() returns void language plpgsql as $$ begin
  raise sqlstate 'PGRST' using message = '{"code":"123","message":"Payment Required","details":"none","hint":"pay"}',
  detail = '{"status":402,"headers":{"X-Powered-By":"coins"}}'; end $$;
"""
Answer = tuple[int, dict[str, str], Any]


@pytest.fixture(scope="module")
def rest(local_stack: LocalSupabase) -> Any:
    """Send a request with the service key; return status, headers and body."""
    import psycopg

    with psycopg.connect(local_stack.db_url, autocommit=True) as connection:
        connection.execute(TABLES.encode())
    host = urlsplit(local_stack.url).netloc
    key = local_stack.service_role_key

    def send(method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(host, timeout=20)
        given = {"apikey": key, **{name.replace("_", "-"): value for name, value in headers.items()}}
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        kind = answer.headers.get("content-type", "")
        return answer.status, dict(answer.headers), json.loads(text) if "json" in kind and text else text

    return send


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/rest/v1/victims", b'[{"id":', 400, "PGRST102"),
        ("POST", "/rest/v1/victims", b"", 400, "PGRST102"),
        ("POST", "/rest/v1/victims", b"\xff\xfe", 400, "PGRST102"),
        ("POST", "/rest/v1/victims", b'[{"id": NaN}]', 400, "PGRST102"),
        ("POST", "/rest/v1/victims", b"[1, 2]", 400, "PGRST102"),
        ("POST", "/rest/v1/victims", b"[1, oops]", 400, "PGRST102"),
        ("POST", "/rest/v1/victims", b'[{"meta": ' + b"[" * 20000 + b"]" * 20000 + b"}]", 500, "54001"),
        ("POST", "/rest/v1/victims", b'[{"meta": ' + b"[" * 20000 + b"]" * 19999 + b"}]", 400, "PGRST102"),
        ("POST", "/rest/v1/victims?columns=id", b'[{"id":', 400, "22P02"),
        ("POST", "/rest/v1/victims?columns=id", b'[{"id": 1}]\x00', 400, "22021"),
        ("POST", "/rest/v1/victims?columns=id", b'"text"', 400, "22023"),
        ("GET", "/", None, 404, "PGRST125"),
        ("GET", "/auth/v1/user", None, 404, "PGRST125"),
        ("GET", "/rest/v1/victims/1", None, 404, "PGRST125"),
        ("GET", "/rest/v1/rpc", None, 404, "PGRST205"),
        ("GET", "/rest/v1/victim", None, 404, "PGRST205"),
        ("BREW", "/rest/v1/victims", None, 405, "PGRST117"),
        ("PUT", "/rest/v1/rpc/twice", None, 405, "PGRST101"),
        ("PUT", "/rest/v1/victims?name=eq.x", b'{"id": 1}', 405, "PGRST105"),
        ("PUT", "/rest/v1/victims?id=eq.1&or=(id.eq.1)", b'{"id": 1}', 405, "PGRST105"),
        ("POST", "/rest/v1/victims?columns=id)", b'[{"id": 9}]', 400, "PGRST100"),
        ("POST", "/rest/v1/victims?columns=id,idd)", b'[{"id": 9}]', 400, "PGRST204"),
        ("POST", "/rest/v1/victims?on_conflict=id)", b'[{"id": 9}]', 400, "PGRST100"),
        ("PATCH", "/rest/v1/victims?name=is.nullish", b'{"name": "x"}', 400, "PGRST100"),
        ("PATCH", "/rest/v1/victims?id=in.(1)x", b'{"name": "x"}', 400, "PGRST100"),
        ("PATCH", "/rest/v1/victims?or=(id.eq.1)x", b'{"name": "x"}', 400, "PGRST100"),
        ("GET", "/rest/v1/victims?select=id,other(*)", None, 501, "PGRST127"),
        ("GET", "/rest/v1/victims?other.order=id", None, 400, "PGRST108"),
        ("GET", "/rest/v1/victims?order=other(id)", None, 400, "PGRST108"),
        ("GET", "/rest/v1/victims?or=" + "(or" * 500 + "(id.eq.1)" + ")" * 500, None, 400, "PGRST100"),
        ("GET", "/rest/v1/victims?select=count()", None, 400, "PGRST123"),
        ("GET", "/rest/v1/victims?select=id,", None, 400, "PGRST100"),
        ("GET", "/rest/v1/victims?id=eq", None, 400, "PGRST100"),
        ("GET", "/rest/v1/victims?id=is.maybe", None, 400, "PGRST100"),
        ("GET", "/rest/v1/victims?id=in.1,2", None, 400, "PGRST100"),
        ("GET", "/rest/v1/victims?order=id.sideways", None, 400, "PGRST100"),
        ("GET", "/rest/v1/victims?or=(id.eq.1", None, 400, "PGRST100"),
        ("GET", "/rest/v1/victims?limit=-1", None, 416, "PGRST103"),
        ("GET", "/rest/v1/victims?name=eq.%00", None, 400, "22021"),
        ("GET", "/rest/v1/victims?name=match.(", None, 400, "2201B"),
        ("GET", "/rest/v1/victims?select=id::nonsense", None, 400, "42704"),
        ("GET", "/rest/v1/victims?nonsense=eq.1", None, 400, "42703"),
        ("POST", "/rest/v1/rpc/twice", b'{"m": 1}', 404, "PGRST202"),
        ("POST", "/rest/v1/rpc/teapot", b"{}", 418, "PT418"),
        ("POST", "/rest/v1/rpc/own_answer", b"{}", 402, "123"),
        ("POST", "/rest/v1/rpc/own_status", b'{"status": "teapot"}', 500, "PGRST112"),
        ("POST", "/rest/v1/rpc/own_status", b'{"headers": "[1]"}', 500, "PGRST111"),
        ("GET", "/rest/v1/rpc/page", None, 501, "PGRST127"),
    ],
)
def test_bad_requests(rest: Any, method: str, path: str, body: bytes | None, status: int, code: str) -> None:
    """Each gets PostgREST's answer, or an error that names the missing feature."""
    found, _, answer = rest(method, path, body, content_type="application/json")
    assert (found, answer["code"]) == (status, code), answer
    assert answer["message"]


def test_errors_raised_for_the_client(rest: Any) -> None:
    """`RAISE SQLSTATE 'PGRST'` sets body, status and headers."""
    status, headers, body = rest("POST", "/rest/v1/rpc/own_answer", b"{}")
    assert body == {"code": "123", "message": "Payment Required", "details": "none", "hint": "pay"}
    assert (status, headers["x-powered-by"]) == (402, "coins")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"accept": "image/png"}, 406, "PGRST107"),
        ({"accept": "application/vnd.pgrst.object+json"}, 200, None),
        ({"accept_profile": "secret"}, 406, "PGRST106"),
        ({"prefer": "handling=strict, nonsense"}, 400, "PGRST122"),
        ({"prefer": "handling=strict, timezone=UTC, count = exact"}, 400, "PGRST122"),
        ({"accept": "text/html, */*;q=0.1"}, 200, None),
        ({"prefer": "nonsense"}, 200, None),
        ({"range": "5-1"}, 416, "PGRST103"),
    ],
)
def test_headers(rest: Any, headers: dict[str, str], status: int, code: str | None) -> None:
    """Unsupported headers are refused by name."""
    found, _, answer = rest("GET", "/rest/v1/victims", **headers)
    assert found == status, answer
    assert code is None or answer["code"] == code


def test_an_offset_beyond_the_end(rest: Any) -> None:
    """With a count it is 416; without one it is an empty answer."""
    status, headers, body = rest("GET", "/rest/v1/victims?offset=5", prefer="count=exact")
    assert (status, body["details"]) == (416, "An offset of 5 was requested, but there are only 1 rows.")
    status, headers, body = rest("GET", "/rest/v1/victims?offset=5")
    assert (status, headers["content-range"], body) == (200, "*/*", [])


def test_no_row_of_a_function_that_returns_nothing(rest: Any) -> None:
    """`limit=0` leaves nothing to count or to aggregate."""
    status, headers, _ = rest("POST", "/rest/v1/rpc/own_status?limit=0", b"{}")
    assert (status, headers["content-range"]) == (204, "*/0")


def test_too_many_rows_affected_changes_none(rest: Any, db: Connection) -> None:
    """`max-affected` with `handling=strict`."""
    rest("POST", "/rest/v1/victims", b'[{"id": 51}, {"id": 52}]')
    status, _, answer = rest("DELETE", "/rest/v1/victims?id=gt.50", prefer="handling=strict, max-affected=1")
    assert (status, answer["code"], answer["details"]) == (400, "PGRST124", "The query affects 2 rows")
    assert db.execute("delete from victims where id > 50").rowcount == 2


def test_a_body_of_20_mb_is_taken(rest: Any, db: Connection) -> None:
    """One row of 20 MB."""
    body = json.dumps([{"id": 20, "name": "x" * 20_000_000}]).encode()
    assert rest("POST", "/rest/v1/victims?columns=id,name", body)[0] == 201
    assert db.execute("select length(name) from victims where id = 20").fetchall() == [(20_000_000,)]
    db.execute("delete from victims where id = 20")


def test_a_body_that_is_too_large_is_refused_with_a_sentence(local_stack: LocalSupabase) -> None:
    """413 before it is read."""
    parts = urlsplit(local_stack.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as client:
        client.sendall(b"POST /rest/v1/victims HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        answer = client.recv(10_000)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"send fewer rows at once" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /rest/v1/ HTTP/9.9\r\n\r\n",
        b"POST /rest/v1/victims HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST /rest/v1/victims HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /rest/v1/%zz?%%% HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_broken_http_gets_a_4xx_in_json(local_stack: LocalSupabase, request_bytes: bytes) -> None:
    """A client that does not speak HTTP gets an error, and no thread is lost."""
    parts = urlsplit(local_stack.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as client:
        client.sendall(request_bytes)
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(10_000), b""))
    status = int(answer.split(b" ")[1])
    assert 400 <= status <= 505
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["message"]


def test_chunked_bodies_and_kept_connections(local_stack: LocalSupabase, rest: Any, db: Connection) -> None:
    """A body in pieces is one body; a refused request does not end the connection."""
    connection = http.client.HTTPConnection(urlsplit(local_stack.url).netloc)
    headers = {"apikey": local_stack.service_role_key, "Content-Type": "application/json"}
    connection.request("POST", "/rest/v1/nothing", b"[]", headers)
    assert json.loads(connection.getresponse().read())["code"] == "PGRST205"
    pieces = iter([b'[{"id"', b": 30}]"])
    connection.request("POST", "/rest/v1/victims", pieces, headers, encode_chunked=True)
    assert connection.getresponse().status == 201
    connection.close()
    assert db.execute("delete from victims where id = 30").rowcount == 1


def test_what_is_not_ascii_is_utf8(local_stack: LocalSupabase) -> None:
    """In the request line and in headers, escaped or not; several `Prefer` headers are one."""
    parts = urlsplit(local_stack.url)
    lines = [
        "GET /rest/v1/größe HTTP/1.1",
        f"Host: x\r\napikey: {local_stack.service_role_key}\r\nConnection: close",
        "Prefer: handling=strict\r\nPrefer: größe=1",
    ]
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b"".join(iter(lambda: client.recv(10_000), b"")).decode()
    assert "Could not find the table 'public.größe' in the schema cache" in answer


def test_hostile_names_are_names(rest: Any, db: Connection) -> None:
    """Tables and columns with quotes and semicolons are read, written and never run."""
    table = quote('odd "name; drop table victims;--', safe="")
    assert rest("POST", f"/rest/v1/{table}", b'[{"a": 1}]')[0] == 201
    column = quote('"odd \\";--"', safe="")
    status, _, body = rest("GET", f"/rest/v1/victims?select={column}&{column}=eq.x&order={column}")
    assert (status, body) == (200, [{'odd ";--': "x"}])
    assert db.execute("select count(*) from victims").fetchone() == (1,)


SQL = ["'", '"', ";", "--", "/*", "*/", "\\", "$1", "$$", "'; drop table victims; --", '"; drop table victims; --']
GRAMMAR = ["%", "(", ")", ",", ".", "{", "}", "->", "->>", "::", "eq.", "in.(", "not.", "is.null", "and", "or"]
OTHERS = ["\x00", "é", "\U0001f600", " ", "1 or 1=1", "id", "name", "meta", "victims"]
NASTY = st.sampled_from([*SQL, *GRAMMAR, *OTHERS])
TEXT = st.lists(st.one_of(NASTY, st.text(max_size=5)), max_size=5).map("".join)
NAMES = st.one_of(
    st.sampled_from(["select", "order", "limit", "offset", "columns", "on_conflict", "id", "or", "and"]), TEXT
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "meta", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


OBJECTS = "select relname from pg_class where relnamespace = 'public'::regnamespace order by oid"
RESTORE = """
delete from victims where id <> 1;
insert into victims values (1, 'safe', 'x', '{"a": 1}') on conflict (id) do nothing;
"""


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"]),
    path=st.one_of(st.sampled_from(["victims", "rpc/twice", ""]), TEXT.map(lambda t: quote(t, safe=""))),
    query=st.lists(st.tuples(NAMES, TEXT), max_size=3),
    prefer=st.sampled_from(
        ["", "return=representation", "resolution=merge-duplicates", "missing=default", "count=exact"]
    ),
    body=st.one_of(JSON_VALUES.map(lambda v: json.dumps(v).encode()), st.binary(max_size=20)),
)
def test_fuzz(
    rest: Any, db: Connection, method: str, path: str, query: list[tuple[str, str]], prefer: str, body: bytes
) -> None:
    """Whatever is asked: no 500 without a code, no SQL of the asker's own, and what is there stays there."""
    there = db.execute(OBJECTS).fetchall()
    before = db.execute("select * from victims").fetchall()
    url = f"/rest/v1/{path}?{urlencode(query, errors='replace')}"
    status, _, answer = rest(method, url, body if method in ("POST", "PATCH") else None, prefer=prefer)
    if status >= 400 and method != "HEAD":
        assert answer["code"]
        assert answer["message"] is not None
        assert answer["code"] != "PGRSTX00", answer
        assert answer["code"] != "42601", f"what was asked became part of the SQL: {answer}"
    assert db.execute(OBJECTS).fetchall() == there
    if method in ("GET", "HEAD", "OPTIONS") or status >= 400:
        assert db.execute("select * from victims").fetchall() == before
    db.execute(RESTORE.encode())
