"""The settings of the server: its address and credentials, and the project and role derived from them."""

from __future__ import annotations

import base64
import os
import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from scrapy.settings import BaseSettings

from scrapy_supabase.settings.folders import local_folder
from scrapy_supabase.settings.reader import Reader

LOCAL = "local"
REST, DATABASE = "rest", "database"  # the values of `SUPABASE_BACKEND`


class ServerConfig(msgspec.Struct, frozen=True):
    """A server, addressed by URL and key or by a connection string. `timeout` is in seconds."""

    url: str
    key: str = ""
    db_url: str | None = None
    schema: str = "public"
    timeout: float = 65.0
    proxy: str | None = None
    local_dir: Path = Path()
    migrations: Path | None = None

    def __repr__(self) -> str:
        """Without the key, the connection string and the proxy, which may contain passwords."""
        return f"ServerConfig(url={self.url!r}, schema={self.schema!r})"

    @property
    def host(self) -> str:
        """The name of the project in log lines and in the spool."""
        return project_host(self.url, self.db_url)

    @property
    def address(self) -> str:
        """The way to the server with host and port, such as `REST API, port 443` on the `host`."""
        if self.db_url:
            parts = database_parts(self.db_url)
            return f"database connection to {parts.get('host', 'localhost')}, port {parts.get('port', 5432)}"
        parts_of_url = urlsplit(self.url)
        return f"REST API, port {parts_of_url.port or {'http': 80}.get(parts_of_url.scheme, 443)}"

    @property
    def role(self) -> str:
        """The database role that uploads, derived from the connection string or the key."""
        return database_role(self.db_url) if self.db_url else role_of(self.key)


def read_server(reader: Reader) -> ServerConfig:
    """Read the settings of the server."""
    database = _uses_database(reader)
    key, url = read_key(reader, database), read_url(reader, database)
    db_url = read_db_url(reader, required=True) if database else None
    defaults = ServerConfig(url)
    return ServerConfig(
        url=url,
        key=key,
        db_url=db_url,
        schema=reader.text("SUPABASE_SCHEMA", defaults.schema),
        timeout=reader.number("SUPABASE_TIMEOUT", defaults.timeout, float, 0.001, "a number of seconds, more than 0"),
        proxy=proxy_of(url),
        local_dir=local_folder() if LOCAL in (url, db_url) else Path(),
        migrations=_migrations(reader),
    )


def _uses_database(reader: Reader) -> bool:
    """Return whether rows go over a database connection.

    Without `SUPABASE_BACKEND`, a connection string in the environment does not override a URL: the `.env` of many
    projects has both.
    """
    backend = reader.raw("SUPABASE_BACKEND")
    if backend in (REST, DATABASE):
        return bool(backend == DATABASE)
    if backend is not None:
        reader.wrong("SUPABASE_BACKEND", backend, f'"{REST}" or "{DATABASE}"', None)
    if reader.raw("SUPABASE_DB_URL") is None:
        return False
    return reader.is_setting("SUPABASE_DB_URL") or reader.raw("SUPABASE_URL") is None


def database_url(settings: BaseSettings, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the connection string of the setting or the environment, or None. Raises `ConfigurationError`."""
    reader = Reader(settings, os.environ if environ is None else environ)
    db_url = read_db_url(reader)
    reader.check()
    return db_url


def hosted_project(settings: BaseSettings, environ: Mapping[str, str] | None = None) -> str:
    """Return the host of `SUPABASE_URL`; empty if it is not set or is "local"."""
    url = Reader(settings, os.environ if environ is None else environ).raw("SUPABASE_URL")
    return "" if not isinstance(url, str) or url == LOCAL else project_host(url, None)


def names_local(settings: BaseSettings, environ: Mapping[str, str] | None = None) -> bool:
    """Return whether `SUPABASE_URL` is "local"."""
    return bool(Reader(settings, os.environ if environ is None else environ).raw("SUPABASE_URL") == LOCAL)


def local_migrations(settings: BaseSettings, environ: Mapping[str, str] | None = None) -> Path | None:
    """Return the folder of `SUPABASE_MIGRATIONS`, or None. Raises `ConfigurationError`."""
    reader = Reader(settings, os.environ if environ is None else environ)
    folder = _migrations(reader)
    reader.check()
    return folder


_OTHER_NAMES = tuple(f"SUPABASE_{kind}_KEY" for kind in ("SECRET", "SERVICE_ROLE", "SERVICE"))
"""Names that Supabase's documentation and many projects give the variable with the secret key."""


def read_key(reader: Reader, database: bool = False) -> str:
    """Return the key; empty if none is needed."""
    value = reader.raw("SUPABASE_KEY", "")
    if reader.raw("SUPABASE_URL") == LOCAL:
        return ""  # the local Supabase creates its own
    if not value and database:
        return ""
    if not isinstance(value, str) or not value.strip():
        other = next((name for name in _OTHER_NAMES if name in reader.variables()), None)
        key = f'"${other}"' if other else "sb_secret_…"
        reader.problems.append(
            "SUPABASE_KEY is missing. It must be the project's secret key (Supabase dashboard > Project Settings > "
            f"API keys). Set it in the environment: export SUPABASE_KEY={key}"
        )
        return ""
    if any(not " " < character < "\x7f" or character in "\"'" for character in value.strip()):
        allowed = "a key without quotation marks, spaces, control or non-ASCII characters"
        return reader.wrong("SUPABASE_KEY", value, allowed, "")
    return value.strip()


def read_url(reader: Reader, database: bool = False) -> str:
    """Return the project's URL without the path of the REST API; empty if a database connection needs none."""
    value = reader.raw("SUPABASE_URL")
    if value is None and database:
        return ""
    allowed = 'the project\'s URL, such as https://abcdefgh.supabase.co, or "local"'
    if not isinstance(value, str):
        return reader.wrong("SUPABASE_URL", value, allowed, LOCAL)
    value = value.strip().rstrip("/")
    if value == LOCAL:
        return value
    if value.startswith(("postgresql:", "postgres:")):
        allowed += ". A connection string belongs in SUPABASE_DB_URL"
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or re.search(r"\s", value):
        return reader.wrong("SUPABASE_URL", value, allowed, LOCAL)
    if parts.hostname in _DASHBOARD:
        return reader.wrong("SUPABASE_URL", value, _url_instead_of(parts.path), LOCAL)
    value = value.partition("/rest/v1")[0]
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        shown = f"http://{parts.netloc.rpartition('@')[2]}"
        reader.warnings.append(f"SUPABASE_URL is {shown}: http sends the key and the rows unencrypted. Use https.")
    return value


_DASHBOARD = ("supabase.com", "www.supabase.com", "app.supabase.com", "app.supabase.io")


def _url_instead_of(page: str) -> str:
    """Return what the URL must be instead of a page of the dashboard, such as `/dashboard/project/abcdefgh/editor`."""
    found = re.search(r"/project/([a-z0-9]+)", page)
    url = f"https://{found[1]}.supabase.co" if found else "such as https://abcdefgh.supabase.co"
    return f"the project's API URL, {url}, not a page of the Supabase dashboard"


def _is_loopback(host: str) -> bool:
    return host in ("", "localhost", "::1") or host.startswith(("/", "127.")) or host.endswith(".localhost")


def read_db_url(reader: Reader, *, required: bool = False) -> str | None:
    """Return the connection string, or None. If it is `required`, that of the local Supabase is the default."""
    value = reader.raw("SUPABASE_DB_URL")
    if value is None and required and reader.raw("SUPABASE_URL") == LOCAL:
        value = LOCAL
    if value is None and not required:
        return None
    if value == LOCAL:
        return LOCAL
    allowed = (
        'a connection string such as postgresql://postgres:PASSWORD@HOST:5432/postgres, or "local". In the password, '
        "special characters must be percent-encoded (@ as %40, / as %2F)"
    )
    if not isinstance(value, str) or not _looks_like_conninfo(value):
        return reader.wrong("SUPABASE_DB_URL", value, allowed, None)
    try:
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        reader.problems.append(
            "SUPABASE_DB_URL needs psycopg, which is not installed. Run: pip install 'scrapy-supabase[postgres]'"
        )
        return None
    try:
        parts = conninfo_to_dict(value)
    except Exception:  # noqa: BLE001 (an error of psycopg, whose text may contain the password)
        return reader.wrong("SUPABASE_DB_URL", value, allowed, None)
    hosts, ports = str(parts.get("host", "")), str(parts.get("port", ""))
    if set(hosts) & set("@ ") or not all(port.isdigit() or not port for port in ports.split(",")):
        return reader.wrong("SUPABASE_DB_URL", value, allowed, None)  # usually a part of the password
    if reader.raw("SUPABASE_URL") == LOCAL and not all(map(_is_loopback, hosts.split(","))):
        reader.problems.append(
            'SUPABASE_URL is "local", but SUPABASE_DB_URL names another server: set both to "local", or remove one.'
        )
    return value


def _looks_like_conninfo(url: str) -> bool:
    return "=" in url or url.startswith(("postgresql://", "postgres://"))


def _migrations(reader: Reader) -> Path | None:
    value = reader.raw("SUPABASE_MIGRATIONS")
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not Path(value).is_dir():
        return reader.wrong("SUPABASE_MIGRATIONS", value, "a folder that exists", None)
    return Path(value).absolute()


def database_parts(db_url: str) -> Mapping[str, Any]:
    """Return host, port, user and so on of a valid connection string."""
    from psycopg.conninfo import conninfo_to_dict

    return conninfo_to_dict(db_url)


def project_host(url: str, db_url: str | None) -> str:
    """Return the name of the project: the host of its URL, or the one derived from the database's address.

    A direct connection and one by a pooler return the same name as the project's URL.
    """
    if url or not db_url:
        return url if url == LOCAL else urlsplit(url).netloc.rpartition("@")[2]
    if db_url == LOCAL:
        return LOCAL
    parts = database_parts(db_url)
    host, user = str(parts.get("host", "localhost")), str(parts.get("user", ""))
    if host.endswith(".pooler.supabase.com") and "." in user:
        return f"{user.partition('.')[2]}.supabase.co"
    if host.startswith("db.") and host.endswith(".supabase.co"):
        return host.removeprefix("db.")
    return f"{host}:{parts.get('port', 5432)}/{parts.get('dbname', user)}"


def proxy_of(url: str) -> str | None:
    """Return the HTTP proxy of the environment for `url`, or None."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def claims_of(key: str) -> dict[str, Any] | None:
    """Return the claims of a legacy key (a JWT), without checking its signature; None for any other key."""
    try:
        payload = key.split(".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)), type=dict[str, Any])
    except (IndexError, ValueError, msgspec.MsgspecError):
        return None


def role_of(key: str) -> str:
    """Return the role of a key, `service_role` if unknown. A legacy key contains its role."""
    if key.startswith("sb_publishable_"):
        return "anon"
    claims = claims_of(key)
    return str(claims["role"]) if claims and "role" in claims else "service_role"


def database_role(db_url: str) -> str:
    """Return the role of a connection string, by default `postgres`. A pooler's user is `role.project`."""
    if db_url == LOCAL:
        return "postgres"
    parts = database_parts(db_url)
    return str(parts.get("user") or "postgres").partition(".")[0]
