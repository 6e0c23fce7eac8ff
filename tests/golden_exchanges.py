"""Exchanges recorded on a real PostgREST: read, repeated on a local stack, and compared."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import jwt

from scrapy_supabase.local import LocalSupabase
from tests.fix_local import Connection

DATA = Path(__file__).parent / "data"
Exchange = dict[str, Any]
Answer = tuple[int, dict[str, str], Any]


def exchanges(name: str) -> list[Exchange]:
    """The exchanges of a file in tests/data."""
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def token(stack: LocalSupabase, role: str | None) -> str | None:
    """The token an exchange was recorded with; any name that is not listed is a role, its token signed rightly."""
    now = int(time.time())
    claims: dict[str, Any] = {"role": "service_role", "exp": now + 3600}

    def signed(secret: str = stack.jwt_secret, algorithm: str = "HS256", **changed: Any) -> str:
        kept = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(kept, secret if algorithm == "HS256" else "", algorithm)

    made: dict[str | None, Callable[[], str | None]] = {
        None: lambda: None,
        "anon": lambda: stack.anon_key,
        "service_role": lambda: stack.service_role_key,
        "garbage": lambda: "garbage",
        "wrong": lambda: signed("another secret that is also long enough"),
        "expired": lambda: signed(exp=now - 3600),
        "just_expired": lambda: signed(exp=now - 10),
        "norole": lambda: signed(role="nobody_at_all"),
        "claimless": lambda: signed(role=None),
        "future": lambda: signed(nbf=now + 3600),
        "unsigned": lambda: signed(algorithm="none"),
        "number_role": lambda: signed(role=5),
        "text_exp": lambda: signed(exp=str(now + 3600)),
        "audience": lambda: signed(aud="somebody"),
    }
    return made.get(role, lambda: signed(role=role))()


def send(stack: LocalSupabase, request: dict[str, Any]) -> Answer:
    """Send a recorded request; the answer's status, headers and body."""
    connection = http.client.HTTPConnection(urlsplit(stack.url).netloc, timeout=30)
    headers = dict(request["headers"])
    key = token(stack, request["role"])
    if key is not None:
        headers |= {"apikey": key, "Authorization": f"Bearer {key}"}
    path = "/rest/v1" + quote(request["path"]) + "?" + urlencode(request["params"], doseq=True)
    body = request["body"].encode() if request["body"] is not None else None
    if "body_base64" in request:
        body = base64.b64decode(request["body_base64"])
    try:
        connection.request(request["method"], path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    kind = answer.headers.get("content-type", "")
    parsed = json.loads(text) if text and "json" in kind else text.decode() or None
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, parsed


def left_behind(db: Connection, sql: str) -> Any:
    """The rows of a recorded query."""
    found = db.execute(f"select coalesce(json_agg(to_json(t)), '[]') from ({sql}) t".encode()).fetchone()
    return found[0] if found else None


def differences(stack: LocalSupabase, db: Connection, exchange: Exchange) -> list[str]:
    """How the stack's answer differs from the recorded one: in status, body, recorded headers, rows left behind."""
    status, headers, body = send(stack, exchange["request"])
    expected = exchange["response"]
    found = []
    if status != expected["status"]:
        found.append(f"status {status}, recorded {expected['status']}")
    wanted = expected["body"]
    if isinstance(wanted, dict) and "swagger" in wanted and isinstance(body, dict):
        body, wanted = body.get("definitions"), wanted["definitions"]  # nobody reads the rest
    if body != wanted:
        found.append(f"body {json.dumps(body)[:2000]}, recorded {json.dumps(wanted)[:2000]}")
    found += [
        f"header {name}: {headers.get(name)}, recorded {value}"
        for name, value in expected["headers"].items()
        if headers.get(name) != value
    ]
    if "after" in exchange:
        rows = left_behind(db, exchange["after"]["sql"])
        if rows != exchange["after"]["rows"]:
            found.append(f"rows {json.dumps(rows)[:1000]}, recorded {json.dumps(exchange['after']['rows'])[:1000]}")
    return found
