"""Every exchange recorded on a real PostgREST is repeated on the local REST API."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from scrapy_supabase.local import LocalSupabase
from tests.fix_golden import TwoSchemas
from tests.fix_local import Connection
from tests.golden_exchanges import DATA, Exchange, differences, exchanges, left_behind, send

OLDER = exchanges("postgrest-14.jsonl")  # PostgREST 14.14, PostgreSQL 15
NEWER = exchanges("postgrest-14.17.jsonl")  # PostgREST 14.17, PostgreSQL 18, two schemas
EMBEDDING = exchanges("embedding.jsonl")

_FAULT = "a fault of PostgREST: what it could not read is cut off, and the rest stored or found; a 400 is right"
# What differs, and why; everything else is alike in status, body, recorded headers and rows left behind. Of the
# OpenAPI document, `definitions` are compared.
ALLOWED = {
    "no key": "hosted Supabase answers 401 before PostgREST sees it; so does the gateway",
    "root as anon": "hosted Supabase gives the OpenAPI document to secret keys only",
    "things: NUL in a value": _FAULT,
    "things: a value with NUL ends there": _FAULT,
    "columns= with an unquoted euro sign": _FAULT,
}
# How they differ: status and code or message.
DIFFERENT = {
    "no key": (401, "No API key found in request"),
    "root as anon": (403, "42501"),
    "things: NUL in a value": (400, "22021"),
    "things: a value with NUL ends there": (400, "22021"),
    "columns= with an unquoted euro sign": (400, "PGRST100"),
}


@pytest.fixture(scope="module")
def golden(local_stack: LocalSupabase) -> Iterator[LocalSupabase]:
    """The stack with the first recording's tables; they are gone afterwards."""
    with psycopg.connect(local_stack.db_url, autocommit=True) as connection:
        # The OpenAPI document is compared whole: nothing else may be there.
        connection.execute("drop schema public cascade; create schema public")
        connection.execute((DATA / "schema.sql").read_bytes())
        yield local_stack
        connection.execute("drop schema public cascade; create schema public")
        connection.execute("grant usage on schema public to public, anon, authenticated, service_role")


def judge(stack: LocalSupabase, db: Connection, exchange: Exchange) -> None:
    """Compare, except for allowed differences, which must be as listed."""
    name = exchange["name"]
    if name not in ALLOWED:
        assert differences(stack, db, exchange) == []
        return
    status, _, body = send(stack, exchange["request"])
    assert (status, body.get("code", body["message"])) == DIFFERENT[name]
    if "after" in exchange:
        assert left_behind(db, exchange["after"]["sql"]) == []  # nothing was stored


@pytest.mark.parametrize("exchange", OLDER, ids=[e["name"] for e in OLDER])
def test_the_answer_is_the_recorded_one(golden: LocalSupabase, db: Connection, exchange: Exchange) -> None:
    """Status, body, headers and rows are those of PostgREST 14.14."""
    db.execute((DATA / "fixture.sql").read_bytes())
    judge(golden, db, exchange)


@pytest.mark.parametrize("exchange", NEWER, ids=[e["name"] for e in NEWER])
def test_the_answer_is_that_of_14_17(two_schemas: TwoSchemas, exchange: Exchange) -> None:
    """Status, body, headers and rows are those of PostgREST 14.17, also in a second schema."""
    stack, db = two_schemas
    db.execute((DATA / "fixture2.sql").read_bytes())
    judge(stack, db, exchange)


@pytest.mark.parametrize("exchange", EMBEDDING, ids=[e["name"] for e in EMBEDDING])
def test_embedding_is_refused_with_a_sentence(two_schemas: TwoSchemas, exchange: Exchange) -> None:
    """An unsupported feature is a 501 with a sentence, never a wrong success; else the answer is PostgREST's."""
    stack, db = two_schemas
    db.execute((DATA / "fixture2.sql").read_bytes())
    status, _, body = send(stack, exchange["request"])
    if status != 501:
        assert exchange["response"]["status"] >= 400
        assert differences(stack, db, exchange) == []
        return
    assert body["code"] == "PGRST127"
    assert body["message"] == "The local gateway does not have embedding of related tables."


def test_differences_are_few_and_of_the_recordings() -> None:
    """The list of allowed differences names exchanges that exist, each with its reason."""
    assert set(ALLOWED) <= {exchange["name"] for exchange in [*OLDER, *NEWER]}
    assert set(ALLOWED) == set(DIFFERENT)
    assert len(ALLOWED) <= 15
    assert all(ALLOWED.values())
