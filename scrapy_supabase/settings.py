"""The only reader of Scrapy's settings and of the environment: one frozen `Config`, every mistake said at once."""

from __future__ import annotations

import base64
import difflib
import os
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from scrapy.settings import BaseSettings
from scrapy.utils.misc import load_object
from scrapy.utils.project import data_path

from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import SNAPSHOT_STAMPS, Mode, TableSpec
from scrapy_supabase.schema import UnknownColumns

LOCAL = "local"
MOST_ROWS = 1000  # PostgREST's and Supabase's usual limit for what one request may touch
SNAPSHOT_VERSION = "snapshot_version"
STAMPS = ("run_id", "row_id", "now", "hour", "date", *SNAPSHOT_STAMPS, "spider", "url")
_FROM_ENVIRONMENT = ("BATCH_CHUNK_SIZE", "BATCH_RETRY_ATTEMPTS", "BATCH_RETRY_DELAY", "SUPABASE_URL", "SUPABASE_KEY")
_TABLE_KEYS = ("table", "on_conflict", "columns", "mode", "stamps", "snapshots", "row_id_column")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings, checked. Seconds, bytes and rows are plain numbers; `warnings` are to be logged once."""

    url: str
    key: str = field(repr=False)
    routes: Mapping[type | None, TableSpec]
    enabled: bool = True
    schema: str = "public"
    insert_fallback: bool = True
    unknown_columns: UnknownColumns = field(default_factory=UnknownColumns)
    chunk_rows: int = 100
    chunk_bytes: int = 1024 * 1024
    flush_interval: float = 5.0
    attempts: int = 3
    delay: float = 1.0
    timeout: float = 65.0
    concurrent_uploads: int = 4
    close_timeout: float = 60.0
    max_outage: float | None = None
    spool_dir: Path | None = None
    spool_fsync: bool = False
    spool_max_bytes: int = 1024**3
    runs_table: str | None = None
    local_dir: Path = Path()
    migrations: Path | None = None
    proxy: str | None = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The project's host, for log lines."""
        return self.url if self.url == LOCAL else urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def role(self) -> str:
        """The database role of the key, as far as the key tells."""
        return role_of(self.key)

    @property
    def tables(self) -> dict[str, TableSpec]:
        """Table name → what the settings say of it."""
        return {spec.name: spec for spec in self.routes.values()}

    @classmethod
    def from_settings(
        cls, settings: BaseSettings, environ: Mapping[str, str] | None = None, *, tables: bool = True
    ) -> Config:
        """Read everything. Raises `ConfigurationError` that lists every wrong value and what is allowed.

        With `tables=False`, what the settings say of tables is not read.
        """
        reader = _Reader(settings, os.environ if environ is None else environ)
        config = cls(**_read(reader, tables=tables))
        reader.check()
        return config

    @classmethod
    def for_table(cls, settings: BaseSettings, table: str | None, given: Mapping[str, Any]) -> Config:
        """The settings for rows of one table (by default `SUPABASE_TABLE`); what is `given` stands above them.

        `given` has keys of `SUPABASE_TABLES`, and `BATCH_CHUNK_SIZE`. Raises `ConfigurationError`.
        """
        routed = settings.get("SUPABASE_TABLES")
        tables = list(routed.values()) if isinstance(routed, Mapping) else []
        table = table or settings.get("SUPABASE_TABLE")
        if not table:
            raise ConfigurationError("Which table? Name it with --table, or set SUPABASE_TABLE.")
        own = next((spec for spec in tables if isinstance(spec, Mapping) and spec.get("table") == table), {})
        more = {name: value for name, value in given.items() if name in _TABLE_KEYS and value is not None}
        stamps = own.get("stamps", settings.get("SUPABASE_STAMPS") or {})
        if isinstance(stamps, Mapping):  # a row of a file comes from no page
            more["stamps"] = {column: stamp for column, stamp in stamps.items() if stamp != "url"}
        changed = settings.copy()
        changed.set("SUPABASE_TABLE", None, "cmdline")
        changed.set("SUPABASE_TABLES", {"*": {**own, "table": table, **more}}, "cmdline")
        if given.get("BATCH_CHUNK_SIZE") is not None:
            changed.set("BATCH_CHUNK_SIZE", given["BATCH_CHUNK_SIZE"], "cmdline")
        return cls.from_settings(changed)


def project_of(url: str | None, key: str | None, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """URL and key for a script: those given, else those of the environment. Raises `ConfigurationError`."""
    given = {name: value for name, value in (("SUPABASE_URL", url), ("SUPABASE_KEY", key)) if value is not None}
    reader = _Reader(BaseSettings(given), os.environ if environ is None else environ)
    found = _url(reader), _key(reader)
    reader.check()
    return found


def script_config(
    url: str,
    key: str,
    schema: str,
    table: str,
    *,
    mode: Mode,
    on_conflict: str | Sequence[str] | None,
    snapshots: bool,
    chunk_rows: int | None,
    **more: Any,
) -> Config:
    """Return the `Config` of an upload to one table without Scrapy's settings. Raises `ConfigurationError`."""
    given = {} if chunk_rows is None else {"BATCH_CHUNK_SIZE": chunk_rows}
    reader = _Reader(BaseSettings(given), os.environ)
    url = url.rstrip("/")
    values = {
        "schema": schema,
        "chunk_rows": _chunk_rows(reader),
        "attempts": _attempts(reader),
        "delay": _delay(reader),
        "flush_interval": 0.0,
        "max_outage": 60.0,  # there is no spool in which rows could wait longer
        "proxy": _proxy(url),
        **more,
    }
    if not isinstance(table, str) or not table:
        reader.wrong("table_name", table, "a table's name, a text that is not empty", "")
    key_columns = reader.names_of("on_conflict", on_conflict or ())
    reader.check()
    spec = table_spec(table, mode, key_columns, {}, {}, snapshots=snapshots)
    return Config(url=url, key=key, routes={None: spec}, **values)


def local_folder() -> Path:
    """Where the local Supabase of this project keeps its data: `.scrapy/supabase-local`, as a rule."""
    from scrapy_supabase.local.place import default_folder

    return default_folder(Path(data_path("supabase-local")))


def role_of(key: str) -> str:
    """The role in a legacy key (a JWT, read without a check), or that of an `sb_…` key; `service_role` if unknown."""
    if key.startswith("sb_publishable_"):
        return "anon"
    try:
        payload = key.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["role"])
    except (IndexError, KeyError, TypeError, ValueError, msgspec.MsgspecError):
        return "service_role"


def uses_url_stamp(settings: BaseSettings) -> bool:
    """Whether any stamp is `url`, without a check of anything else."""
    tables = settings.get("SUPABASE_TABLES")
    of_tables = (
        [table.get("stamps") for table in tables.values() if isinstance(table, Mapping)]
        if isinstance(tables, Mapping)
        else []
    )
    return any(
        "url" in stamps.values()
        for stamps in [settings.get("SUPABASE_STAMPS"), *of_tables]
        if isinstance(stamps, Mapping)
    )


class _Reader:
    """Reads one setting at a time and collects what is wrong."""

    def __init__(self, settings: BaseSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._environ = environ
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def check(self) -> None:
        """Raise `ConfigurationError` that lists what is wrong."""
        if self.problems:
            listed = "\n".join(f"  - {problem}" for problem in self.problems)
            number = len(self.problems)
            raise ConfigurationError(f"{number} wrong setting{'s' * (number > 1)} for scrapy-supabase:\n{listed}")

    def raw(self, name: str, default: Any = None) -> Any:
        value = self._settings.get(name)
        if value is None and name in _FROM_ENVIRONMENT:
            value = self._environ.get(name) or None
        return default if value is None else value

    def is_set(self, name: str) -> bool:
        return name in self._settings

    def names(self) -> list[str]:
        return [name for name in self._settings if isinstance(name, str)]

    def wrong(self, name: str, value: Any, allowed: str, default: T) -> T:
        shown = "a secret" if name == "SUPABASE_KEY" and value is not None else _shown(value)
        self.problems.append(f"{name} is {shown}: it must be {allowed}.")
        return default

    def number(self, name: str, default: T, convert: Callable[[Any], T], least: float, allowed: str) -> T:
        value = self.raw(name, default)
        try:
            if isinstance(value, bool):
                return self.wrong(name, value, allowed, default)
            number = convert(value)
            if number != float(value) or not number >= least or number == float("inf"):
                return self.wrong(name, value, allowed, default)
        except (TypeError, ValueError, OverflowError):
            return self.wrong(name, value, allowed, default)
        return number

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw(name, default)
        try:
            return self._settings.getbool(name, default) if self.is_set(name) else bool(value)
        except (TypeError, ValueError):
            return self.wrong(name, value, "True or False", default)

    def text(self, name: str, default: str) -> str:
        value = self.raw(name, default)
        if not isinstance(value, str) or not value.strip():
            return self.wrong(name, value, "a text that is not empty", default)
        return value.strip()

    def names_of(self, name: str, value: Any) -> tuple[str, ...]:
        names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(part, str) and part for part in names):
            return self.wrong(name, value, "column names: a list, or a text with commas", ())
        return tuple(dict.fromkeys(names))

    def text_map(self, name: str, value: Any) -> dict[str, str]:
        if not isinstance(value, Mapping) or not all(isinstance(p, str) and p for pair in value.items() for p in pair):
            return self.wrong(name, value, "a dict of text to text", {})
        return dict(value)


def _read(reader: _Reader, *, tables: bool) -> dict[str, Any]:
    enabled = reader.flag("SUPABASE_ENABLED", True)
    key = _key(reader)
    url = _url(reader)
    seconds = "a number of seconds"
    values: dict[str, Any] = {
        "enabled": enabled,
        "url": url,
        "key": key,
        "routes": _routes(reader) if tables else {},
        "schema": reader.text("SUPABASE_SCHEMA", "public"),
        "insert_fallback": reader.flag("SUPABASE_INSERT_FALLBACK", True),
        "unknown_columns": _unknown_columns(reader),
        "chunk_rows": _chunk_rows(reader),
        "chunk_bytes": reader.number(
            "BATCH_CHUNK_BYTES", 1024 * 1024, int, 1024, "a whole number of bytes, 1024 or more"
        ),
        "flush_interval": reader.number("BATCH_FLUSH_INTERVAL", 5.0, float, 0, f"{seconds}, or 0 for never"),
        "attempts": _attempts(reader),
        "delay": _delay(reader),
        "timeout": reader.number("SUPABASE_TIMEOUT", 65.0, float, 0.001, f"{seconds}, more than 0"),
        "concurrent_uploads": reader.number("SUPABASE_CONCURRENT_UPLOADS", 4, int, 1, "a whole number, 1 or more"),
        "close_timeout": reader.number("SUPABASE_CLOSE_TIMEOUT", 60.0, float, 0, f"{seconds}, 0 or more"),
        "max_outage": _max_outage(reader),
        "spool_dir": _spool_dir(reader),
        "spool_fsync": reader.flag("SUPABASE_SPOOL_FSYNC", False),
        "spool_max_bytes": reader.number(
            "SUPABASE_SPOOL_MAX_BYTES", 1024**3, int, 1024, "a whole number of bytes, 1024 or more"
        ),
        "runs_table": reader.text("SUPABASE_RUNS_TABLE", "") if reader.raw("SUPABASE_RUNS_TABLE") else None,
        "local_dir": local_folder() if url == LOCAL else Path(),
        "migrations": _folder(reader, "SUPABASE_MIGRATIONS"),
        "proxy": _proxy(url),
    }
    _warn_of_misspelt(reader)
    values["warnings"] = tuple(reader.warnings)
    return values


def _key(reader: _Reader) -> str:
    value = reader.raw("SUPABASE_KEY", "")
    if reader.raw("SUPABASE_URL") == LOCAL:
        return ""  # the local stack makes its own
    if not isinstance(value, str) or not value.strip():
        allowed = (
            "the project's secret key (Supabase dashboard > Project Settings > API keys), best set in the environment"
        )
        return reader.wrong("SUPABASE_KEY", None, allowed, "")
    if any(not " " < character < "\x7f" for character in value.strip()):
        return reader.wrong("SUPABASE_KEY", value, "a key without spaces or other characters that keys do not have", "")
    return value.strip()


def _url(reader: _Reader) -> str:
    value = reader.raw("SUPABASE_URL")
    allowed = 'the project\'s URL, such as https://abcdefgh.supabase.co, or "local"'
    if not isinstance(value, str):
        return reader.wrong("SUPABASE_URL", value, allowed, LOCAL)
    value = value.strip().rstrip("/")
    if value == LOCAL:
        return value
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        return reader.wrong("SUPABASE_URL", value, allowed, LOCAL)
    value = value.removesuffix("/rest/v1")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        reader.warnings.append(
            f"SUPABASE_URL is {value}: over http, the key and the rows can be read on the way. Use https."
        )
    return value


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def _chunk_rows(reader: _Reader) -> int:
    number = reader.number("BATCH_CHUNK_SIZE", 100, int, 1, f"a whole number of rows, 1 to {MOST_ROWS}")
    if number > MOST_ROWS:
        reader.warnings.append(f"BATCH_CHUNK_SIZE is {number}: {MOST_ROWS} rows a request is the most; that is used.")
    return min(number, MOST_ROWS)


def _attempts(reader: _Reader) -> int:
    return reader.number("BATCH_RETRY_ATTEMPTS", 3, int, 1, "a whole number of tries, 1 or more")


def _delay(reader: _Reader) -> float:
    return reader.number("BATCH_RETRY_DELAY", 1.0, float, 0, "a number of seconds, 0 or more")


def _unknown_columns(reader: _Reader) -> UnknownColumns:
    value = reader.text("SUPABASE_UNKNOWN_COLUMNS", "drop")
    return UnknownColumns(value) if value in ("drop", "reject") else UnknownColumns("collect", value)


def _spool_dir(reader: _Reader) -> Path | None:
    if not reader.is_set("SUPABASE_SPOOL_DIR"):
        return Path(data_path("supabase"))
    value = reader.raw("SUPABASE_SPOOL_DIR")
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not str(value):
        return reader.wrong("SUPABASE_SPOOL_DIR", value, "a folder, or None for no spool", None)
    return Path(value)


def _max_outage(reader: _Reader) -> float | None:
    if reader.raw("SUPABASE_MAX_OUTAGE") is None:
        return None
    return reader.number("SUPABASE_MAX_OUTAGE", 0.0, float, 0, "a number of seconds, 0 or more, or None for any")


def _folder(reader: _Reader, name: str) -> Path | None:
    value = reader.raw(name)
    if value is None:
        return None
    if not isinstance(value, (str, Path)) or not Path(value).is_dir():
        return reader.wrong(name, value, "a folder that exists", None)
    return Path(value)


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _routes(reader: _Reader) -> dict[type | None, TableSpec]:
    common: dict[str, Any] = {
        "mode": reader.raw("SUPABASE_MODE", "upsert"),
        "on_conflict": reader.raw("SUPABASE_ON_CONFLICT", ()),
        "stamps": reader.raw("SUPABASE_STAMPS", {}),
        "snapshots": reader.flag("SUPABASE_DAILY_SNAPSHOTS", False),
        "row_id_column": reader.raw("SUPABASE_ROW_ID_COLUMN"),
    }
    names = {
        "mode": "SUPABASE_MODE",
        "on_conflict": "SUPABASE_ON_CONFLICT",
        "stamps": "SUPABASE_STAMPS",
        "row_id_column": "SUPABASE_ROW_ID_COLUMN",
    }
    routes: dict[type | None, TableSpec] = {}
    if reader.raw("SUPABASE_TABLE") is not None:
        routes[None] = _spec(reader, names, {**common, "table": reader.raw("SUPABASE_TABLE")})
    tables = reader.raw("SUPABASE_TABLES", {})
    if not isinstance(tables, Mapping):
        tables = reader.wrong(
            "SUPABASE_TABLES", tables, "a dict of item class (or its import path, or '*') to table", {}
        )
    for target, value in tables.items():
        name = f"SUPABASE_TABLES[{target if isinstance(target, str) else getattr(target, '__qualname__', target)!r}]"
        own = {"table": value} if isinstance(value, str) else value
        if not isinstance(own, Mapping) or not set(own) <= set(_TABLE_KEYS):
            reader.wrong(name, value, f"a table's name, or a dict with the keys {', '.join(_TABLE_KEYS)}", None)
            continue
        paths = {key: f"{name}[{key!r}]" if key in own else names.get(key, "") for key in _TABLE_KEYS}
        # A table has one key: what is said of it alone stands above what is said of all.
        others = {"row_id_column": "on_conflict", "on_conflict": "row_id_column"}
        general = {key: value for key, value in common.items() if others.get(key) not in own}
        routes[_item_class(reader, name, target)] = _spec(reader, paths, {**general, **own})
    if not routes:
        reader.problems.append(
            "SUPABASE_TABLE is not set: set it to the table that takes the items, or SUPABASE_TABLES."
        )
    _check_same_table(reader, routes)
    return routes


def _item_class(reader: _Reader, name: str, target: Any) -> type | None:
    if target == "*":
        return None
    try:
        found = load_object(target) if isinstance(target, str) else target
    except (ImportError, NameError, ValueError) as error:
        found = None
        reader.problems.append(f"{name}: the class cannot be imported ({error}).")
    if found is not None and not isinstance(found, type):
        reader.wrong(name, found, "an item class, its import path, or '*'", None)
    return found if isinstance(found, type) else type("Unknown", (), {})


def _spec(reader: _Reader, names: Mapping[str, str], values: Mapping[str, Any]) -> TableSpec:
    table = values.get("table")
    if not isinstance(table, str) or not table:
        table = reader.wrong(
            names.get("table", "SUPABASE_TABLE"), table, "a table's name, a text that is not empty", ""
        )
    try:
        mode = Mode(values["mode"])
    except ValueError:
        mode = reader.wrong(names["mode"], values["mode"], "one of upsert, insert, ignore", Mode.UPSERT)
    columns = reader.text_map(names.get("columns", ""), values.get("columns", {}))
    for column in sorted({c for c in columns.values() if list(columns.values()).count(c) > 1}):
        reader.problems.append(f"{names['columns']} sends two fields to column {column!r}: each needs its own.")
    stamps = reader.text_map(names["stamps"], values["stamps"])
    for column, stamp in stamps.items():
        if stamp not in STAMPS:
            reader.wrong(f"{names['stamps']}[{column!r}]", stamp, f"one of {', '.join(STAMPS)}", None)
    on_conflict = reader.names_of(names["on_conflict"], values.get("on_conflict", ()))
    snapshots = values["snapshots"]
    row_id = values.get("row_id_column")
    if row_id is not None:
        if not isinstance(row_id, str) or not row_id:
            reader.wrong(names["row_id_column"], row_id, "the name of a uuid column, or None", None)
        elif on_conflict or snapshots:
            other = names["on_conflict"] if on_conflict else "SUPABASE_DAILY_SNAPSHOTS"
            reader.problems.append(
                f"{names['row_id_column']} is set, and so is {other}: the rows of {table!r} have one key or the other."
            )
        else:
            mode, on_conflict, stamps = Mode.IGNORE, (row_id,), {**stamps, row_id: "row_id"}
    return table_spec(table, mode, on_conflict, columns, stamps, snapshots=snapshots)


def table_spec(
    name: str,
    mode: Mode,
    on_conflict: tuple[str, ...],
    columns: Mapping[str, str],
    stamps: Mapping[str, str],
    *,
    snapshots: bool,
) -> TableSpec:
    """What is asked of a table; with `snapshots`, the rows of each run carry its date and version, also in the key."""
    if snapshots:
        stamps = {**dict(zip(SNAPSHOT_STAMPS, SNAPSHOT_STAMPS, strict=True)), **stamps}
        if on_conflict:
            on_conflict = tuple(dict.fromkeys([*on_conflict, *SNAPSHOT_STAMPS]))
    return TableSpec(name, mode, on_conflict, columns, stamps, snapshots)


def _check_same_table(reader: _Reader, routes: Mapping[type | None, TableSpec]) -> None:
    first: dict[str, TableSpec] = {}
    for spec in routes.values():
        other = first.setdefault(spec.name, spec)
        if (spec.mode, spec.on_conflict) != (other.mode, other.on_conflict):
            reader.problems.append(
                f"SUPABASE_TABLES names table {spec.name!r} twice with another mode or on_conflict: they must be equal."
            )


def _warn_of_misspelt(reader: _Reader) -> None:
    for name in reader.names():
        if not name.startswith(("SUPABASE_", "BATCH_")) or name in KNOWN:
            continue
        close = difflib.get_close_matches(name, KNOWN, 1, 0.85)
        if close:
            reader.warnings.append(f"{name} is not a setting of scrapy-supabase. Did you mean {close[0]}?")


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    text = repr(value)
    return f"{text[:80]}{'…' if len(text) > 80 else ''} ({type(value).__name__})"


KNOWN = frozenset(
    {
        "BATCH_CHUNK_BYTES",
        "BATCH_CHUNK_SIZE",
        "BATCH_FLUSH_INTERVAL",
        "BATCH_RETRY_ATTEMPTS",
        "BATCH_RETRY_DELAY",
        "SUPABASE_CLOSE_TIMEOUT",
        "SUPABASE_CONCURRENT_UPLOADS",
        "SUPABASE_DAILY_SNAPSHOTS",
        "SUPABASE_ENABLED",
        "SUPABASE_INSERT_FALLBACK",
        "SUPABASE_KEY",
        "SUPABASE_MAX_OUTAGE",
        "SUPABASE_MIGRATIONS",
        "SUPABASE_MODE",
        "SUPABASE_ON_CONFLICT",
        "SUPABASE_ROW_ID_COLUMN",
        "SUPABASE_RUNS_TABLE",
        "SUPABASE_SCHEMA",
        "SUPABASE_SPOOL_DIR",
        "SUPABASE_SPOOL_FSYNC",
        "SUPABASE_SPOOL_MAX_BYTES",
        "SUPABASE_STAMPS",
        "SUPABASE_TABLE",
        "SUPABASE_TABLES",
        "SUPABASE_TIMEOUT",
        "SUPABASE_UNKNOWN_COLUMNS",
        "SUPABASE_URL",
    }
)
"""Every setting there is; a test compares them with docs/reference/settings.md."""


def database_url(settings: BaseSettings, environ: Mapping[str, str] | None = None) -> str | None:
    """The PostgreSQL connection string of the setting or the environment, or None."""
    value = settings.get("SUPABASE_DB_URL") or (os.environ if environ is None else environ).get("SUPABASE_DB_URL")
    return str(value) if value else None
