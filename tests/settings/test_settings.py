"""The settings: a wrong configuration is reported in one error, with what is allowed and without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import supabase
from scrapy.settings import Settings

from scrapy_supabase.backends.postgrest import PostgrestBackend
from scrapy_supabase.errors import ConfigurationError
from scrapy_supabase.models import Mode
from scrapy_supabase.schema.table_spec import TableSpec
from scrapy_supabase.settings.config import IN_ORDER, KNOWN, TABLE_SETTINGS, Config
from scrapy_supabase.settings.server import role_of

GOOD = {"SUPABASE_URL": "https://abc.supabase.co", "SUPABASE_KEY": "sb_secret_x", "SUPABASE_TABLE": "t"}


def config(environ: dict[str, str] | None = None, **settings: Any) -> Config:
    """Read valid settings with these changes; None removes a setting."""
    given = {name: value for name, value in {**GOOD, **settings}.items() if value is not None}
    return Config.from_settings(Settings(given), environ or {})


def test_defaults() -> None:
    """The defaults are those of the reference page."""
    found = config()
    upload = found.upload
    assert (upload.chunk_rows, upload.attempts, upload.delay, upload.concurrency) == (100, 3, 1.0, 4)
    assert found.spool.folder == Path(".scrapy/supabase").absolute()
    assert found.tables.specs == {"t": TableSpec("t")}
    assert found.warnings == ()


def test_a_project_without_a_scrapy_cfg_has_a_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapyd runs projects without one. Scrapy's NotConfigured must not escape: it would disable the pipeline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCRAPY_SETTINGS_MODULE", "tests.crawl")
    assert config().spool.folder == Path(".scrapy/supabase").absolute()
    assert config(SUPABASE_URL="local").server.local_dir.name.startswith(("supabase-local", *"0123456789abcdef"))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("BATCH_CHUNK_SIZE", 0, "1 to 1000"),
        ("BATCH_CHUNK_SIZE", "ten", "1 to 1000"),
        ("BATCH_CHUNK_SIZE", 2.5, "1 to 1000"),
        ("BATCH_CHUNK_SIZE", True, "1 to 1000"),
        ("BATCH_CHUNK_BYTES", -1, "1024 or more"),
        ("BATCH_FLUSH_INTERVAL", -1, "0 for never"),
        ("BATCH_RETRY_ATTEMPTS", 0, "1 or more"),
        ("BATCH_RETRY_DELAY", "soon", "0 or more"),
        ("BATCH_RETRY_DELAY", float("nan"), "0 or more"),
        ("SUPABASE_CLOSE_TIMEOUT", float("inf"), "0 or more"),
        ("SUPABASE_CONCURRENT_UPLOADS", 0, "1 or more"),
        ("SUPABASE_TIMEOUT", 0, "more than 0"),
        ("SUPABASE_DB_URL", 5, "a connection string such as"),
        ("SUPABASE_DB_URL", "s3cret", "a connection string such as"),
        ("SUPABASE_DB_URL", "https://user:s3cret@host", "a connection string such as"),
        ("SUPABASE_DB_URL", "postgresql://user:a/s3cret@host/db", "percent-encoded"),
        ("SUPABASE_DB_URL", "postgresql://user:a@s3cret@host/db", "percent-encoded"),
        ("SUPABASE_DB_URL", "postgresql://user:a%zs3cret@host/db", "percent-encoded"),
        ("SUPABASE_DB_URL", "host=h password=a s3cret", "a connection string such as"),
        ("SUPABASE_CREATE_TABLES", "perhaps", "True or False"),
        ("SUPABASE_INSERT_FALLBACK", "perhaps", "True or False"),
        ("SUPABASE_MIGRATIONS", "/nowhere", "a folder that exists"),
        ("SUPABASE_MODE", "replace", "upsert, insert, ignore"),
        ("SUPABASE_MONITOR_MAX_FAILED_RATE", 1.5, "from 0 for none to 1"),
        ("SUPABASE_MONITOR_MAX_FAILED_RATE", "1 %", "from 0 for none to 1"),
        ("SUPABASE_MONITOR_MAX_SPOOLED_ROWS", -1, "0 or more"),
        ("SUPABASE_LEASE_TIME", 0.5, "1 or more"),
        ("SUPABASE_MONITOR_MAX_UPLOAD_AGE", "long", "0 or more"),
        ("SUPABASE_ON_CONFLICT", 5, "column names"),
        ("SUPABASE_ON_CONFLICT", "a,,b", "column names"),
        ("SUPABASE_SCHEMA", "", "not empty"),
        ("SUPABASE_SPOOL_DIR", 5, "a folder, or None"),
        ("SUPABASE_STAMPS", {"a": "yesterday"}, "one of run_id, row_id, now"),
        ("SUPABASE_STAMPS", ["now"], "a dict"),
        ("SUPABASE_TABLE", 5, "not empty"),
        ("SUPABASE_TABLES", "t", "a dict"),
        (
            "SUPABASE_TABLES",
            {"*": {"tabel": "t"}},
            "no option 'tabel'. Did you mean 'table'? Its options are table, on_conflict",
        ),
        ("SUPABASE_TABLES", {"nowhere.Item": "t"}, "cannot be imported"),
        ("SUPABASE_TABLES", {"*": {"table": "t", "columns": {"a": "c", "b": "c"}}}, "give each its own column"),
        ("SUPABASE_UNKNOWN_COLUMNS", 5, "not empty"),
        ("SUPABASE_URL", "abc.supabase.co", "the project's URL"),
        ("SUPABASE_URL", "ftp://abc", "the project's URL"),
        ("SUPABASE_URL", "https://abc:port", "the project's URL"),
        ("SUPABASE_KEY", "two words", "a key without quotation marks, spaces"),
    ],
)
def test_a_wrong_value_is_reported(name: str, value: Any, allowed: str) -> None:
    """The error names the setting, prints the value and says what is allowed."""
    with pytest.raises(ConfigurationError) as raised:
        config(None, **{name: value})
    message = str(raised.value)
    assert message.startswith("1 wrong setting for scrapy-supabase:\n  - " + name)
    assert allowed in message
    assert "s3cret" not in message
    assert (
        name in ("SUPABASE_KEY", "SUPABASE_DB_URL")
        or not isinstance(value, (str, int))
        or repr(value) in message
        or "imported" in message
    )


def test_all_missing_settings_are_in_one_error() -> None:
    """URL, key and table are reported together."""
    with pytest.raises(ConfigurationError, match="3 wrong settings") as raised:
        config(SUPABASE_URL=None, SUPABASE_KEY=None, SUPABASE_TABLE=None)
    assert all(f"{name} is missing" in str(raised.value) for name in GOOD)


def test_the_key_is_never_printed() -> None:
    """Neither an error nor the repr contains it."""
    with pytest.raises(ConfigurationError) as raised:
        config(SUPABASE_KEY="my secret")
    assert "my secret" not in str(raised.value)
    assert "sb_secret_x" not in repr(config())


def test_the_url_is_the_part_before_the_rest_api() -> None:
    """The URL of the REST API or of one of its tables, as the dashboard shows them, names the project."""
    for path in ("", "/", "/rest/v1", "/rest/v1/", "/rest/v1/books"):
        assert config(SUPABASE_URL=f"https://abc.supabase.co{path}").server.url == "https://abc.supabase.co"


def test_the_environment_is_the_fallback() -> None:
    """Environment variables are used for settings that are not set."""
    environ = {
        "SUPABASE_KEY": "sb_secret_env",
        "BATCH_CHUNK_SIZE": "7",
        "BATCH_RETRY_DELAY": "0.5",
        "SUPABASE_TABLE": "x",
    }
    found = config(environ, SUPABASE_KEY=None, BATCH_RETRY_DELAY=2)
    assert (found.server.key, found.upload.chunk_rows, found.upload.delay) == ("sb_secret_env", 7, 2.0)
    assert list(found.tables.specs) == ["t"]


def test_warnings_do_not_stop_the_crawl() -> None:
    """Too many rows, http and a misspelt name are warnings."""
    found = config(
        BATCH_CHUNK_SIZE=5000, SUPABASE_URL="http://db.example.com", SUPABASE_TABEL="x", SUPABASE_BUCKET="mine"
    )
    assert found.upload.chunk_rows == 1000
    assert [warning.partition(" is ")[0] for warning in found.warnings] == [
        "SUPABASE_URL",
        "BATCH_CHUNK_SIZE",
        "SUPABASE_TABEL",
    ]
    assert config(SUPABASE_URL="http://127.0.0.1:54321").warnings == ()


def test_tables_override_common_settings() -> None:
    """An entry of SUPABASE_TABLES overrides only the keys that it has."""
    found = config(
        SUPABASE_MODE="ignore",
        SUPABASE_ON_CONFLICT="a, b",
        SUPABASE_TABLES={dict: {"table": "d", "mode": "insert", "columns": {"x": "y"}}, "builtins.object": "o"},
    )
    assert found.tables.routes == {
        None: TableSpec("t", Mode.IGNORE, ("a", "b")),
        dict: TableSpec("d", Mode.INSERT, ("a", "b"), {"x": "y"}),
        object: TableSpec("o", Mode.IGNORE, ("a", "b")),
    }


def test_routes_to_one_table_must_agree() -> None:
    """Two routes to one table must have the same mode and key."""
    with pytest.raises(ConfigurationError, match="names table 't' twice"):
        config(SUPABASE_TABLES={dict: {"table": "t", "mode": "insert"}})


def test_every_known_setting_is_read() -> None:
    """A wrong value for any setting in `KNOWN` raises an error."""
    odd = object()
    for name in sorted(KNOWN - {"SUPABASE_ENABLED"}):
        with pytest.raises(ConfigurationError, match=name):
            config(None, **{name: odd})


def test_the_order_of_problems() -> None:
    """Problems are listed in the order of `IN_ORDER`, and those of tables table by table."""
    with pytest.raises(ConfigurationError) as raised:
        config(None, **dict.fromkeys(KNOWN, object()))
    listed = [problem.partition(" is ")[0] for problem in raised.value.problems]
    first, last = IN_ORDER.index(TABLE_SETTINGS[0]), IN_ORDER.index(TABLE_SETTINGS[-1]) + 1
    assert listed[:first] + listed[last:] == [*IN_ORDER[:first], *IN_ORDER[last:]]
    assert set(listed[first:last]) == set(TABLE_SETTINGS)


@pytest.mark.parametrize(
    ("key", "role"),
    [
        ("sb_secret_abc", "service_role"),
        ("sb_publishable_abc", "anon"),
        ("e30.eyJyb2xlIjoiYW5vbiJ9.x", "anon"),
        ("e30.e30.x", "service_role"),
        ("garbage", "service_role"),
    ],
)
def test_the_role_of_a_key(key: str, role: str) -> None:
    """The SQL in messages names this role."""
    assert role_of(key) == role


@pytest.mark.parametrize("key", ["e30.eyJyb2xlIjoiYW5vbiJ9.x", "sb_secret_abc", "sb_publishable_abc"])
def test_url_and_headers_are_those_of_supabase_py(key: str) -> None:
    """supabase-py defines how a project is addressed."""
    client = supabase.create_client("https://abc.supabase.co", key)
    ours = PostgrestBackend("https://abc.supabase.co", key)
    sent = {name.lower(): value for name, value in ours._headers.items()}
    theirs = {name.lower(): value for name, value in client.options.headers.items()}
    assert {name: sent[name] for name in ("apikey", "authorization")} == {
        name: theirs[name] for name in ("apikey", "authorization")
    }
    assert str(client.rest_url).removeprefix("https://abc.supabase.co") + "/" == ours._prefix


@pytest.mark.parametrize(
    ("db_url", "host", "role"),
    [
        ("postgresql://postgres:p@db.abc.supabase.co:5432/postgres", "abc.supabase.co", "postgres"),
        (
            "postgresql://postgres.abc:p@aws-0-eu-west-1.pooler.supabase.com:6543/postgres",
            "abc.supabase.co",
            "postgres",
        ),
        ("postgresql://scraper.abc:p@aws-0-eu-west-1.pooler.supabase.com:5432/postgres", "abc.supabase.co", "scraper"),
        ("postgresql://me:p@192.0.2.1:5433/shop", "192.0.2.1:5433/shop", "me"),
        ("host=192.0.2.1 user=me password=p", "192.0.2.1:5432/me", "me"),
        ("local", "local", "postgres"),
    ],
)
def test_a_connection_string_alone_is_enough(db_url: str, host: str, role: str) -> None:
    """No key is needed. API, database and poolers of a project have the same project name."""
    found = config(SUPABASE_URL=None, SUPABASE_KEY=None, SUPABASE_DB_URL=db_url)
    assert (found.server.host, found.server.role) == (host, role)
    assert db_url == "local" or "p@" not in repr(found)
    assert config({"SUPABASE_DB_URL": db_url}, SUPABASE_URL=None, SUPABASE_KEY=None).server.db_url == db_url


def test_a_connection_string_does_not_rename_the_project() -> None:
    """Spooled rows belong to the project of SUPABASE_URL, also with a database connection."""
    assert config(SUPABASE_DB_URL="postgresql://me:p@192.0.2.1/shop").server.host == "abc.supabase.co"


def test_local_and_another_database_are_an_error() -> None:
    """Rows meant for this machine must not go elsewhere; a variable of the environment does not take them there."""
    elsewhere = "postgresql://me:p@192.0.2.1/shop"
    with pytest.raises(ConfigurationError, match="names another server"):
        config(SUPABASE_DB_URL=elsewhere, SUPABASE_URL="local")
    assert config({"SUPABASE_DB_URL": elsewhere}, SUPABASE_URL="local").server.db_url is None


DATABASE = "postgresql://me:p@192.0.2.1/shop"
URL = "https://abc.supabase.co"


@pytest.mark.parametrize(
    ("settings", "environ", "expected"),
    [
        ({"SUPABASE_URL": URL}, {}, None),
        ({"SUPABASE_URL": URL}, {"SUPABASE_DB_URL": DATABASE}, None),
        ({}, {"SUPABASE_URL": URL, "SUPABASE_DB_URL": DATABASE}, None),
        ({"SUPABASE_DB_URL": DATABASE}, {"SUPABASE_URL": URL}, DATABASE),
        ({"SUPABASE_URL": URL, "SUPABASE_DB_URL": DATABASE}, {}, DATABASE),
        ({}, {"SUPABASE_DB_URL": DATABASE}, DATABASE),
        ({"SUPABASE_BACKEND": "rest", "SUPABASE_URL": URL, "SUPABASE_DB_URL": DATABASE}, {}, None),
        ({"SUPABASE_BACKEND": "database", "SUPABASE_URL": URL}, {"SUPABASE_DB_URL": DATABASE}, DATABASE),
        ({"SUPABASE_URL": URL}, {"SUPABASE_DB_URL": DATABASE, "SUPABASE_BACKEND": "database"}, DATABASE),
        ({"SUPABASE_BACKEND": "database", "SUPABASE_URL": "local"}, {}, "local"),
    ],
)
def test_the_backend(settings: dict[str, str], environ: dict[str, str], expected: str | None) -> None:
    """`SUPABASE_BACKEND` decides; else a connection string, unless a URL is set and it is only in the environment."""
    found = Config.from_settings(Settings({"SUPABASE_KEY": "sb_secret_x", "SUPABASE_TABLE": "t", **settings}), environ)
    assert found.server.db_url == expected


@pytest.mark.parametrize(("backend", "missing"), [("rest", "SUPABASE_URL"), ("database", "SUPABASE_DB_URL")])
def test_a_backend_without_its_server(backend: str, missing: str) -> None:
    """The error names the missing setting."""
    other: dict[str, Any] = {"SUPABASE_DB_URL": DATABASE, "SUPABASE_URL": None} if backend == "rest" else {}
    with pytest.raises(ConfigurationError, match=f"{missing} is missing"):
        config(SUPABASE_BACKEND=backend, **other)


def test_settings_as_text() -> None:
    """Scrapyd, Scrapy Cloud, `-s` and the environment have only text: JSON, numbers, booleans and `None`."""
    as_text: dict[str, Any] = {
        "SUPABASE_TABLES": '{"builtins.dict": {"table": "books", "on_conflict": ["url"]}, "*": "t"}',
        "SUPABASE_STAMPS": '{"run": "run_id"}',
        "SUPABASE_ON_CONFLICT": '["a", "b"]',
        "SUPABASE_SPOOL_DIR": "None",
        "SUPABASE_SPOOL_FSYNC": "true",
        "SUPABASE_MAX_OUTAGE": "None",
        "SUPABASE_CONCURRENT_UPLOADS": "2",
    }
    for found in (config(**as_text), config(as_text)):
        assert found.tables.routes[dict] == TableSpec("books", on_conflict=("url",), stamps={"run": "run_id"})
        assert found.tables.specs["t"].on_conflict == ("a", "b")
        assert (found.spool.folder, found.spool.fsync) == (None, True)
        assert (found.upload.max_outage, found.upload.concurrency) == (None, 2)


def test_a_setting_overrides_the_environment_also_with_none() -> None:
    """`SUPABASE_SPOOL_DIR = None` means no spool, whatever the container sets."""
    settings = Settings({"SUPABASE_URL": URL, "SUPABASE_KEY": "k", "SUPABASE_TABLE": "t", "SUPABASE_SPOOL_DIR": None})
    assert Config.from_settings(settings, {"SUPABASE_SPOOL_DIR": "/spool"}).spool.folder is None


def test_a_wrong_value_is_reported_once() -> None:
    """Not once per table that uses it."""
    with pytest.raises(ConfigurationError, match="1 wrong setting") as raised:
        config(SUPABASE_MODE="upset", SUPABASE_TABLES={"builtins.dict": "a", "builtins.list": "b"})
    assert str(raised.value).count("upset") == 1


def test_the_chunk_size() -> None:
    """A number is fixed; "auto" lets chunks grow."""
    found = config(BATCH_CHUNK_SIZE="auto").upload
    assert (found.chunk_rows, found.most_chunk_rows) == (100, 1000)
    found = config(BATCH_CHUNK_SIZE="250").upload
    assert (found.chunk_rows, found.most_chunk_rows) == (250, 250)
