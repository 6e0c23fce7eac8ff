"""One connection to a database, and what is known of it."""

from __future__ import annotations

from typing import Any

import psycopg


class Link:
    """A connection, whether it is to the database itself, and the statements that are prepared on it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.pgconn = connection.pgconn
        self.direct = False
        self.prepared: dict[bytes, bytes] = {}  # statement → its name
        self.dropped = 0  # statements that were prepared

    def close(self) -> None:
        """Hang up."""
        self.connection.close()
