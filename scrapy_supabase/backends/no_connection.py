"""The texts with which PostgreSQL, PgBouncer and Supavisor refuse a connection: they come without a code.

PgBouncer uses the same texts in answer to a statement, with the code 08P01, whatever the reason.
"""

from __future__ import annotations

import re

PGBOUNCER = "08P01"  # its code for every error; PostgreSQL uses it for violations of its protocol
CREDENTIALS = "Check user, password and database in SUPABASE_DB_URL against the project's connection strings."
_REFUSALS = (
    # pattern of the text, the SQLSTATE it stands for, the remedy. In parentheses: Supavisor's lib/supavisor/errors;
    # PgBouncer's texts are in its client.c, janitor.c and objects.c
    (
        r"\((?:ENOTFOUND|ENOIDENTIFIER)\)|tenant or user not found",
        "28000",
        (
            "Copy the connection string from the project's dashboard (Connect): the pooler's host depends on the "
            "project's region, and its user is postgres.PROJECT. Restore a paused project first."
        ),
    ),
    (
        r"\(ESSLREQUIRED\)|no encryption|SSL off",
        "28000",
        "Add sslmode=require to SUPABASE_DB_URL: the project accepts encrypted connections only.",
    ),
    (
        r"\(EADDRNOTALLOWED\)",
        "28000",
        "Add this machine's address in the project's dashboard: Database settings > Network restrictions.",
    ),
    (r"\(EBANNED\)", "28000", "The project is blocked: see its dashboard."),
    (
        r"unsupported startup parameter",
        "0A000",
        (
            "Remove the parameter from SUPABASE_DB_URL (options may also come from the environment: PGOPTIONS), and "
            "set its value with ALTER ROLE … SET. Or add its name to ignore_startup_parameters of PgBouncer, which "
            "then ignores the value."
        ),
    ),
    (
        r"not allowed in statement pooling mode",
        "0A000",
        "Set pool_mode = transaction in PgBouncer: check and SUPABASE_CREATE_TABLES need transactions.",
    ),
    (r"database \".*\" does not exist|no such database", "3D000", CREDENTIALS),
    (
        (
            r"authentication failed|no password supplied|role \".*\" does not exist|not permitted to log in"
            r"|no pg_hba\.conf entry|permission denied to set role|no such user|login rejected"
        ),
        "28000",
        CREDENTIALS,
    ),
    (
        (
            r"\((?:EMAX|ECHECKOUT)[A-Z]*\)|too many (clients|connections)|connection slots|max.?client"
            r"|query_wait_timeout|query_timeout"
        ),
        "53300",
        "",
    ),
    (
        (
            r"is starting up|(is|server) shutting down|is not yet accepting connections|in recovery mode"
            r"|database \".*\" is disabled"
        ),
        "57P03",
        "",
    ),
    (
        r"server login has been failing|client_login_timeout",
        "57P03",
        "PgBouncer cannot open a connection to the database: its log has the reason.",
    ),
)
_DIRECT_HOST = r"\bdb\.[a-z0-9]+\.supabase\.\w+"
_NO_ROUTE = (
    r"network is unreachable|cannot assign requested address|no route to host|(translate|resolve) host"
    r"|name or service not known|nodename nor servname|no address associated"
)
_POOLER = (
    "Copy the pooler's connection string from the project's dashboard (Connect): direct hosts "
    "(db.PROJECT.supabase.co) have IPv6 addresses only, unless the project has the IPv4 add-on."
)


def explain(message: str) -> tuple[str, str]:
    """Return the SQLSTATE for a refused connection, and the remedy; 08001 if the text is not known."""
    for pattern, code, remedy in _REFUSALS:
        if re.search(pattern, message, re.IGNORECASE):
            return code, remedy
    if re.search(_DIRECT_HOST, message) and re.search(_NO_ROUTE, message, re.IGNORECASE):
        return "08001", _POOLER
    return "08001", ""


def is_from_pooler(code: str, message: str) -> bool:
    """Return whether an answer to a statement comes from a pooler that did not send it to the database."""
    if code == PGBOUNCER and explain(message)[0] != "08001":
        return True
    return code in ("XX000", PGBOUNCER) and re.match(r"\(E[A-Z]+\)", message) is not None
