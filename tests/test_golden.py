"""Every exchange recorded on a real PostgREST 14.14 is repeated on the local REST API."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import jwt
import pytest

from scrapy_supabase.local import LocalSupabase
from tests.fix_local import Connection

DATA = Path(__file__).parent / "data"
EXCHANGES = [json.loads(line) for line in (DATA / "postgrest-14.jsonl").read_text().splitlines()]

# What may differ, and why. Everything else is compared: status, body, the recorded headers, the rows left behind.
ALLOWED = {
    "no key": "hosted Supabase answers 401 before PostgREST sees it; so does the gateway",
    "openapi root": "only `definitions` is compared: nobody reads the rest",
    "filter bad operator": "the wording of PGRST100 is that of PostgREST's parser library",
}


@pytest.fixture(scope="module")
def golden(local_stack: LocalSupabase) -> Iterator[LocalSupabase]:
    """The stack with the recorded tables; they are gone afterwards."""
    import psycopg

    with psycopg.connect(local_stack.db_url, autocommit=True) as connection:
        # The OpenAPI document is compared whole: nothing else may be there.
        connection.execute("drop schema public cascade; create schema public")
        connection.execute((DATA / "schema.sql").read_bytes())
        yield local_stack
        connection.execute("drop schema public cascade; create schema public")
        connection.execute("grant usage on schema public to public, anon, authenticated, service_role")


def token(stack: LocalSupabase, role: str | None) -> str | None:
    """The token the exchange was recorded with."""
    now = int(time.time())
    claims = {"role": "service_role", "exp": now + 3600}
    made = {
        None: None,
        "anon": stack.anon_key,
        "service_role": stack.service_role_key,
        "garbage": "garbage",
        "wrong": jwt.encode(claims, "another secret that is also long enough", "HS256"),
        "expired": jwt.encode({**claims, "exp": now - 3600}, stack.jwt_secret, "HS256"),
        "norole": jwt.encode({"role": "nobody_at_all", "exp": now + 3600}, stack.jwt_secret, "HS256"),
    }
    return made[role]


def send(stack: LocalSupabase, request: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    """Send a recorded request; the answer's status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(stack.url).netloc)
    headers = dict(request["headers"])
    key = token(stack, request["role"])
    if key is not None:
        headers |= {"apikey": key, "Authorization": f"Bearer {key}"}
    path = "/rest/v1" + quote(request["path"]) + "?" + urlencode(request["params"])
    body = request["body"].encode() if request["body"] is not None else None
    connection.request(request["method"], path, body, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    kind = answer.headers.get("content-type", "")
    parsed = json.loads(text) if text and "json" in kind else text.decode() or None
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, parsed


@pytest.mark.parametrize("exchange", EXCHANGES, ids=[e["name"] for e in EXCHANGES])
def test_the_answer_is_the_recorded_one(golden: LocalSupabase, db: Connection, exchange: dict[str, Any]) -> None:
    """Status, body, headers and rows are those of PostgREST."""
    db.execute((DATA / "fixture.sql").read_bytes())
    status, headers, body = send(golden, exchange["request"])
    expected = exchange["response"]
    name = exchange["name"]
    assert status == expected["status"], body
    if name == "no key":
        assert "No API key" in body["message"]
    elif name == "openapi root":
        assert body["definitions"] == expected["body"]["definitions"]
    elif name == "filter bad operator":
        assert body["code"] == expected["body"]["code"]
    else:
        assert body == expected["body"]
    if name not in ALLOWED:
        recorded = expected["headers"]
        assert {key: headers.get(key) for key in recorded} == recorded
    if "after" in exchange:
        wanted = exchange["after"]["rows"]
        sql = f"select coalesce(json_agg(to_json(t)), '[]') from ({exchange['after']['sql']}) t"
        found = db.execute(sql.encode()).fetchone()
        assert found is not None
        assert found[0] == wanted


def test_differences_are_those_of_the_recording() -> None:
    """The list of allowed differences names exchanges that exist."""
    assert set(ALLOWED) <= {exchange["name"] for exchange in EXCHANGES}
