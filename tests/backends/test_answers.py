"""How answers are classified: what each of them is taken for, without a server."""

from __future__ import annotations

import json
import re

import psycopg.errors
import pytest

from scrapy_supabase.backends.answers import classify, classify_connection, classify_sql
from scrapy_supabase.errors import (
    BadRowsError,
    FatalError,
    MissingReferenceError,
    SchemaDriftError,
    ServerError,
    TooLargeError,
    TransientError,
    UnknownError,
    UpsertRefusedError,
)


def answer(status: int, code: str, message: str = "refused", table: str = "t", **more: str) -> ServerError:
    """Return the error for PostgREST's answer to rows for `table`."""
    return classify(status, json.dumps({"code": code, "message": message, **more}).encode(), table=table)


DEFERRABLE = "ON CONFLICT does not support deferrable unique constraints/exclusion constraints as arbiters"


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "22023", "recipe ingredients must be an array", BadRowsError),
        (400, "44000", 'new row violates check option for view "v"', BadRowsError),
        (409, "23503", "violates foreign key constraint", MissingReferenceError),
        (500, "P0001", "no", BadRowsError),
        (500, "P0002", "query returned no rows", UnknownError),
        (400, "42601", "ltree syntax error", UnknownError),
        (500, "55000", "record is not assigned yet", UnknownError),
        (400, "0A000", "not supported", UnknownError),
        (400, "0A000", 'cannot insert into column "a" of view "t"', SchemaDriftError),
        (400, "0A000", 'cannot update column "a" of view "another"', UnknownError),
        (400, "AB123", "a code of somebody's own", UnknownError),
        (400, "PGRST102", "Empty or invalid json", UnknownError),
        (406, "PGRST116", "Cannot coerce the result to a single JSON object", UnknownError),
        (500, "55000", DEFERRABLE, UpsertRefusedError),
        (500, "57014", "canceling statement due to statement timeout", TooLargeError),
        (500, "25P04", "terminating connection due to transaction timeout", TooLargeError),
        (500, "25P03", "terminating connection due to idle-in-transaction timeout", TransientError),
        (500, "57P05", "terminating connection due to idle-session timeout", TransientError),
        (500, "40000", "transaction rollback", TransientError),
        (500, "40002", "transaction integrity constraint violation", TransientError),
        (500, "40003", "statement completion unknown", TransientError),
        (400, "PT400", "no", BadRowsError),
        (422, "PT422", "no", BadRowsError),
        (404, "PT404", "no", UnknownError),
        (429, "PT429", "slow down", TransientError),
        (503, "PT503", "later", TransientError),
        (500, "PT500", "later", TransientError),
        (501, "PT501", "no", UnknownError),
        (200, "PT200", "no", UnknownError),
        (503, "53200", "out of memory", TransientError),
        (503, "53100", "could not extend file: No space left on device", FatalError),
        (405, "25006", "cannot execute INSERT in a read-only transaction", UnknownError),
        (403, "28000", "raised by somebody", UnknownError),
        (401, "PGRST301", "JWT expired", FatalError),
    ],
)
def test_codes(status: int, code: str, message: str, kind: type[ServerError]) -> None:
    """The code decides; one that is not known to concern every request is an `UnknownError`."""
    error = answer(status, code, message)
    assert type(error) is kind
    assert type(classify_sql(code, message, table="t")) is kind  # no code of these is judged by the status


def test_every_other_sqlstate_is_not_known_to_be_about_everything() -> None:
    """Of PostgreSQL's other codes, only a full disk is fatal whatever the message."""
    codes = [code for code in dir(psycopg.errors) if re.fullmatch(r"[0-9A-Z]{5}", code)]
    codes += list(psycopg.errors._sqlcodes)
    assert len(codes) > 200
    assert {code for code in codes if type(classify_sql(code, "refused")) is FatalError} == {"53100"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, TransientError) for status in (408, 420, 429, 499, 500, 502, 503, 504, 507, 520, 525, 526, 527)),
        *((status, TransientError) for status in (529, 530, 544, 598)),
        (413, TooLargeError),
        *((status, FatalError) for status in (401, 402, 404, 414, 431, 540)),
        *((status, UnknownError) for status in (400, 403, 405, 409, 422, 501, 505)),
    ],
)
def test_statuses_without_a_code(status: int, kind: type[ServerError]) -> None:
    """The status decides for a page and for JSON without a code or with a gateway's own."""
    assert type(classify(status, b"<h1>no</h1>")) is kind
    assert type(classify(status, b'{"message": "no"}')) is kind
    assert type(classify(status, b'{"code": %d, "message": "no"}' % status)) is kind
    assert type(classify(status, b'{"code": "%d", "message": "no"}' % status)) is kind


@pytest.mark.parametrize(("code", "status"), [("over_request_rate_limit", 429), ("123", 420), ("own", 503)])
def test_a_code_of_somebodys_own_is_judged_by_its_status(code: str, status: int) -> None:
    """`RAISE SQLSTATE 'PGRST'` (a rate limit in `db-pre-request`, say) and gateways: no code that is in a list."""
    error = answer(status, code)
    assert isinstance(error, TransientError)
    assert (error.code, error.overload) == (code, True)
    refused = answer(402, code)
    assert type(refused) is UnknownError
    assert (refused.code, refused.reason) == (code, "supabase_payment_required")


@pytest.mark.parametrize(
    ("status", "code", "overload", "reachable", "ambiguous", "splittable", "tries"),
    [
        (503, "57P01", False, False, False, False, None),
        (503, "08006", False, False, False, False, None),
        (503, "08007", False, False, True, False, None),
        (503, "PGRST000", False, False, False, False, None),
        (503, "PGRST001", False, False, False, False, None),
        (503, "PGRST002", False, False, False, False, None),
        (504, "PGRST003", True, False, False, False, None),
        (503, "53300", True, False, False, False, None),
        (429, "PT429", True, False, False, False, None),
        (500, "40001", False, True, False, False, None),
        (500, "40P01", False, True, False, False, None),
        (500, "40003", False, True, True, False, None),
        (500, "55P03", False, True, False, False, None),
        (500, "XX000", False, True, False, False, 2),
        (500, "PGRSTX00", False, True, False, False, 2),
        (429, "http_429", True, False, False, False, None),
        (503, "http_503", True, False, False, False, None),
        (502, "http_502", False, False, False, False, None),
        (504, "http_504", False, False, True, True, None),
        (598, "http_598", False, False, True, True, None),
    ],
)
def test_what_a_transient_answer_tells(
    status: int, code: str, overload: bool, reachable: bool, ambiguous: bool, splittable: bool, tries: int | None
) -> None:
    """The error knows whether the server is reachable or overloaded, rows may be stored, and fewer rows may help."""
    error = classify(status, b"") if code.startswith("http_") else answer(status, code)
    assert isinstance(error, TransientError)
    told = (error.overload, error.reachable, error.ambiguous, error.splittable, error.tries)
    assert told == (overload, reachable, ambiguous, splittable, tries)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (answer(401, "22023", 'role "nobody" does not exist'), "supabase_unauthorized"),
        (answer(403, "42501", 'permission denied to set role "web"'), "supabase_unauthorized"),
        (answer(403, "42501", "permission denied for table t"), "supabase_permission_denied"),
        (answer(403, "42501", "permission denied for sequence t_id_seq"), "supabase_permission_denied"),
        (answer(404, "42P01", 'relation "public.t" does not exist'), "supabase_no_table"),
        (classify_sql("42P01", "Could not find the table 'public.t'", table="t"), "supabase_no_table"),
        (classify(414, b"<h1>Request-URI Too Large</h1>"), "supabase_request_too_long"),
        (classify(431, b""), "supabase_request_too_long"),
    ],
)
def test_fatal_for_what_the_words_say(error: ServerError, reason: str) -> None:
    """A message about the key or the rows' table is fatal."""
    assert type(error) is FatalError
    assert error.reason == reason


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (403, "42501", "permission denied for table audit"),
        (403, "42501", "permission denied for schema private"),
        (403, "42501", "permission denied for function f"),
        (403, "42501", "only the editor may"),
        (404, "42P01", 'relation "audit" does not exist'),
        (404, "42P01", 'relation "public.audit_t" does not exist'),
        (404, "42P01", 'missing FROM-clause entry for table "t"'),
    ],
)
def test_what_a_trigger_did_elsewhere_is_not_about_the_table(status: int, code: str, message: str) -> None:
    """The message names another table: only a probe can show whether the error is fatal."""
    error = answer(status, code, message)
    assert type(error) is UnknownError
    assert not error.stale_schema


@pytest.mark.parametrize(
    ("error", "kind", "stale"),
    [
        (answer(404, "PGRST205", "Could not find the table 'public.t' in the schema cache"), FatalError, True),
        (answer(404, "42P01", 'relation "public.t" does not exist'), FatalError, True),
        (answer(400, "PGRST204", "Could not find the 'a' column of 't' in the schema cache"), SchemaDriftError, True),
        (answer(400, "42703", 'column "a" of relation "t" does not exist'), SchemaDriftError, False),
        (
            answer(400, "42804", 'column "a" is of type integer but expression is of type text'),
            BadRowsError,
            True,
        ),
        (answer(400, "42804", "returned record type does not match expected record type"), BadRowsError, False),
        (answer(400, "42703", 'record "new" has no field "a"'), UnknownError, False),
    ],
)
def test_what_a_stale_schema_cache_may_have_said(error: ServerError, kind: type[ServerError], stale: bool) -> None:
    """Such an answer is worth one wait; an answer from a trigger is not."""
    assert type(error) is kind
    assert error.stale_schema is stale


REFUSED = 'connection to server at "aws-0-eu-west-1.pooler.supabase.com" (1.2.3.4), port 6543 failed: FATAL:  '
DIRECT = 'connection to server at "db.abcdefgh.supabase.co" (2a05:d018::1), port 5432 failed: '


@pytest.mark.parametrize(
    ("message", "code", "remedy"),
    [
        (REFUSED + "(ENOTFOUND) tenant/user postgres.abcdefgh not found", "28000", "postgres.PROJECT"),
        (REFUSED + "Tenant or user not found", "28000", "postgres.PROJECT"),
        (REFUSED + "(ESSLREQUIRED) SSL connection is required for user: postgres", "28000", "sslmode=require"),
        (REFUSED + 'no pg_hba.conf entry for host "1.2.3.4", user "u", no encryption', "28000", "sslmode=require"),
        (REFUSED + "(EADDRNOTALLOWED) address not in tenant allow_list: {1, 2, 3, 4}", "28000", "Network restrictions"),
        (REFUSED + 'password authentication failed for user "postgres"', "28000", "Check user, password"),
    ],
)
def test_poolers_that_refuse_a_connection(message: str, code: str, remedy: str) -> None:
    """A refusal is fatal, with a remedy."""
    error = classify_connection(message)
    assert type(error) is FatalError
    assert (error.code, error.reason) == (code, "supabase_unauthorized")
    assert remedy in error.remedy


@pytest.mark.parametrize(
    "words",
    [
        "(EMAXCLIENTSESSION) max clients reached in session mode - max clients are limited to pool_size: 15",
        "(EMAXCLIENTCONN) max client connections reached, limit: 200",
        "(EMAXCONN) max connections reached",
        "(ECHECKOUTTIMEOUT) Pool checkout timeout.",
    ],
)
def test_poolers_that_are_full(words: str) -> None:
    """A full pooler is an overload, for a new connection and within a session."""
    for error in (classify_connection(REFUSED + words), classify_sql("XX000", words)):
        assert isinstance(error, TransientError)
        assert (error.code, error.overload, error.reachable) == ("53300", True, False)


@pytest.mark.parametrize(
    ("words", "code", "lost"),
    [
        ("query_wait_timeout", "53300", False),
        ("no more connections allowed (max_client_conn)", "53300", False),
        ("server login has been failing, try again later (server_login_retry)", "57P03", False),
        ('database "postgres" is disabled', "57P03", False),
        ("server conn crashed?", "08P01", True),
        ("query timeout", "08P01", True),
    ],
)
def test_pgbouncer_in_answer_to_a_statement(words: str, code: str, lost: bool) -> None:
    """Its code is always 08P01: the words decide whether the rows may be stored, and whether it is busy."""
    error = classify_sql("08P01", words)
    assert isinstance(error, TransientError)
    assert (error.code, error.ambiguous, error.busy) == (code, lost, not lost)
    assert error.unanswered
    assert error.splittable is (words == "query timeout")


@pytest.mark.parametrize(
    "message",
    [
        DIRECT + "Network is unreachable",
        DIRECT + "Cannot assign requested address",
        'could not translate host name "db.abcdefgh.supabase.co" to address: Name or service not known',
        "failed to resolve host 'db.abcdefgh.supabase.co': [Errno -5] No address associated with hostname",
    ],
)
def test_direct_hosts_have_ipv6_addresses_only(message: str) -> None:
    """The remedy names the pooler; for other hosts the same message is an ordinary outage."""
    error = classify_connection(message)
    assert isinstance(error, TransientError)
    assert "the pooler's connection string" in error.remedy
    elsewhere = classify_connection(message.replace("db.abcdefgh.supabase.co", "db.example.com"))
    assert isinstance(elsewhere, TransientError)
    assert elsewhere.remedy == ""


def test_nothing_depends_on_details_or_hint() -> None:
    """PostgREST 16 leaves them out with `client-error-verbosity=minimal`."""
    words = 'insert or update on table "t" violates foreign key constraint "t_author_fkey"'
    full = answer(409, "23503", words, details='Key (author)=(5) is not present in table "t_author".', hint="none")
    minimal = answer(409, "23503", words)
    assert isinstance(full, MissingReferenceError)
    assert isinstance(minimal, MissingReferenceError)
    assert (full.parent, minimal.parent) == ("t_author", "")
