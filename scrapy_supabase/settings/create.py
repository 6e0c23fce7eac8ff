"""The setting that lets crawls create tables, and the connection by which they do so."""

from __future__ import annotations

import msgspec

from scrapy_supabase.settings.reader import Reader
from scrapy_supabase.settings.server import LOCAL, ServerConfig, read_db_url


class CreateConfig(msgspec.Struct, frozen=True):
    """Whether tables and columns are created, and the connection string for that; None: there is none."""

    enabled: bool = False
    db_url: str | None = None

    def __repr__(self) -> str:
        """Without the connection string, which may contain a password."""
        return f"CreateConfig(enabled={self.enabled!r})"


def read_create(reader: Reader, server: ServerConfig) -> CreateConfig:
    """Read the setting. The connection string may be set for this alone, while rows go over the REST API."""
    if not reader.flag("SUPABASE_CREATE_TABLES", False):
        return CreateConfig()
    if server.db_url or LOCAL in (server.url, server.db_url):
        return CreateConfig(True, server.db_url or LOCAL)
    return CreateConfig(True, read_db_url(reader))
