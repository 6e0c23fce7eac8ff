"""The texts with which PostgreSQL, PgBouncer and Supavisor refuse a connection: they come without a code."""

from __future__ import annotations

import re

CREDENTIALS = "Check user, password and database in SUPABASE_DB_URL against the project's connection strings."
_REFUSALS = (
    # pattern of the text, the SQLSTATE it stands for, the remedy. In parentheses: Supavisor's lib/supavisor/errors
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
    (r"database \".*\" does not exist|no such database", "3D000", CREDENTIALS),
    (
        (
            r"authentication failed|no password supplied|role \".*\" does not exist|not permitted to log in"
            r"|no pg_hba\.conf entry|permission denied to set role"
        ),
        "28000",
        CREDENTIALS,
    ),
    (r"\((?:EMAX|ECHECKOUT)[A-Z]*\)|too many (clients|connections)|connection slots|max.?client", "53300", ""),
    (r"is starting up|is shutting down|is not yet accepting connections|in recovery mode", "57P03", ""),
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
    """Return whether an answer to a statement comes from a pooler, in PostgreSQL's form."""
    return code in ("XX000", "08P01") and re.match(r"\(E[A-Z]+\)", message) is not None
