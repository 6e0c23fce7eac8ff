"""Requests made at random from the recorded ones: every failure has a code, no text becomes SQL, no thread dies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fix_golden import TwoSchemas
from tests.golden_exchanges import DATA, Exchange, exchanges, send
from tests.polling import eventually

# What takes a second each is left out.
RECORDED = [e for e in exchanges("postgrest-14.17.jsonl") if "slow" not in json.dumps(e["request"])]
SQL = ["'", '"', ";", "--", "/*", "\\", "$1", "$$", "'; drop table books; --", '"; drop table books; --', "') or (1=1"]
SIGNS = ["", " ", "*", "%", "(", ")", ",", ".", ":", "{", "}", "->", "->>", "::", "€", "\x00", "😀", "-1"]
OPERATORS = ["eq.", "not.eq.", "in.(", "is.null", "like(any).{", "fts(english).", "cs.{", "isdistinct.", "and", "or"]
VALUES = [*SQL, *SIGNS, *OPERATORS, "9" * 30, "1e400", "NaN", "null", "[" * 2000, "and(" * 300]


def pieces(part: str) -> list[str]:
    """All names, or all values, of recorded parameters."""
    found: set[str] = set()
    for each in RECORDED:
        for name, value in each["request"]["params"].items():
            found |= {name} if part == "names" else set(value if isinstance(value, list) else [value])
    return sorted(found)


def headers(name: str) -> list[str]:
    """All values of a recorded header."""
    return sorted({e["request"]["headers"][name] for e in RECORDED if name in e["request"]["headers"]})


PREFER = sorted({part.strip() for header in headers("Prefer") for part in header.split(",")})
BODIES = sorted({e["request"]["body"] for e in RECORDED if e["request"]["body"] and len(e["request"]["body"]) < 2000})
PATHS = sorted({e["request"]["path"] for e in RECORDED})
OBJECTS = (
    "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
    "where n.nspname not like 'pg_%' order by c.oid"
)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A recorded request with parts of others, of all that is odd, or cut."""

    def odd(text: str) -> str:
        at = draw(st.integers(0, len(text)))
        return text[:at] + draw(st.sampled_from(VALUES)) + text[at + draw(st.integers(0, 2)) :]

    names = st.sampled_from([*pieces("names"), "select", "order", "columns", "on_conflict", "limit", "offset"])
    values = st.sampled_from(pieces("values"))
    request = dict(draw(st.sampled_from(RECORDED))["request"])
    params = dict(request["params"])
    for _ in range(draw(st.integers(0, 3))):
        name, value = draw(names), draw(values)
        params[odd(name) if draw(st.booleans()) else name] = odd(value) if draw(st.booleans()) else value
    request["params"] = params
    given = {"Content-Type": draw(st.sampled_from([*headers("Content-Type"), "application/json"]))}
    given["Prefer"] = ", ".join(draw(st.lists(st.sampled_from([*PREFER, "max-affected=x", ";'"]), max_size=4)))
    given["Accept"] = draw(st.sampled_from([*headers("Accept"), "*/*", "*/*"]))
    given["Content-Profile"] = given["Accept-Profile"] = draw(st.sampled_from(["public", "public", "second", "'"]))
    request["headers"] = given
    if draw(st.booleans()):
        request["method"] = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]))
    if draw(st.booleans()):
        request["path"] = draw(st.sampled_from(PATHS))
    body = draw(st.sampled_from(BODIES)) if draw(st.booleans()) else request["body"]
    request["body"] = odd(body) if body and draw(st.booleans()) else body
    request.pop("body_base64", None)
    return request


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(request=requests())
def test_every_failure_has_a_code(two_schemas: TwoSchemas, request: Exchange) -> None:
    """Every failure has a code of PostgREST or PostgreSQL, no SQL syntax error, and no table is dropped."""
    stack, db = two_schemas
    there = db.execute(OBJECTS).fetchall()
    status, _, body = send(stack, request)
    if status >= 400 and request["method"] != "HEAD":
        assert body["code"], body
        assert body["code"] != "PGRSTX00", body
        assert body["code"] != "42601" or "tsquery" in body["message"], f"what was asked became SQL: {body}"
    assert db.execute(OBJECTS).fetchall() == there
    if status < 400 and request["method"] not in ("GET", "HEAD", "OPTIONS"):
        db.execute((DATA / "fixture2.sql").read_bytes())


def test_no_thread_has_died(two_schemas: TwoSchemas, open_folder: Path) -> None:
    """No exception is logged, and the listener still notices a changed default."""
    stack, db = two_schemas
    db.execute("create table alive (id int, n int default 1); grant all on alive to service_role")
    request = {
        "role": "service_role",
        "method": "POST",
        "path": "/alive",
        "params": {"columns": "id,n", "select": "n"},
        "headers": {"Content-Type": "application/json", "Prefer": "return=representation,missing=default"},
        "body": '[{"id": 1}]',
    }
    assert eventually(lambda: send(stack, request)[2] == [{"n": 1}])
    db.execute("alter table alive alter n set default 2")
    assert eventually(lambda: send(stack, request)[2] == [{"n": 2}])
    db.execute("drop table alive")
    log = (open_folder / "two schemas" / "gateway.log").read_text()  # other tests use this gateway, too
    assert "Traceback" not in log, log
