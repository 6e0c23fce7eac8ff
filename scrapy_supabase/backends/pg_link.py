"""One connection to a database, with its prepared statements."""

from __future__ import annotations

from typing import Any

import psycopg


class Link:
    """A connection, and the statements prepared on it. `direct`: it leads to the database itself, not to a pooler."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.pgconn = connection.pgconn
        self.direct = False
        self.prepared: dict[bytes, bytes] = {}  # statement → its name
        self.dropped = 0  # number of statements that were deallocated

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
