"""Messages about tables that a run creates (`SUPABASE_CREATE_TABLES`), or cannot create."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo
from scrapy.settings import Settings

from scrapy_supabase.assembly import Destination
from scrapy_supabase.checkup.check import check
from scrapy_supabase.errors import FatalError
from scrapy_supabase.models import Chunk, Row
from scrapy_supabase.monitoring.run import Run
from scrapy_supabase.settings.config import Config
from tests.fix_project import Project
from tests.messages import Said, of_records
from tests.test_messages_check import shown

Sql = Callable[..., list[tuple[Any, ...]]]
PASSWORD = "hunter2"


@dataclasses.dataclass
class Tag:
    """An item class."""

    id: int
    label: str | None = None


@dataclasses.dataclass
class Vector:
    """An item class with a type that the database does not have."""

    id: int
    place: str = dataclasses.field(default="", metadata={"sql_type": "t_nowhere"})


@pytest.fixture
def url(project: Project, sql: Sql) -> Iterator[str]:
    """The connection string of a role that may not create tables."""
    sql("drop role if exists t_scraper")
    sql(f"create role t_scraper login password '{PASSWORD}'; grant usage on schema public to t_scraper")
    yield make_conninfo(project.db_url, user="t_scraper", password=PASSWORD)
    sql("drop owned by t_scraper; drop role t_scraper")


def settings_of(project: Project, item_class: type | None, db_url: str | None) -> Settings:
    """Return the settings of a run over REST that creates tables."""
    kind = f"{__name__}.{item_class.__qualname__}" if item_class else "*"
    given = {
        "SUPABASE_CREATE_TABLES": True,
        "SUPABASE_URL": project.url,
        "SUPABASE_KEY": project.key,
        "SUPABASE_BACKEND": "rest",
        "SUPABASE_DB_URL": db_url,
        "SUPABASE_SPOOL_DIR": None,
        "SUPABASE_TABLES": {kind: {"table": "t", "on_conflict": "id"}},
        "BATCH_RETRY_DELAY": 0.01,
        "BATCH_RETRY_ATTEMPTS": 2,
        "BATCH_CHUNK_SIZE": "auto",
    }
    return Settings(given)


def found(settings: Settings) -> list[str]:
    """Return what `check` finds about the table."""
    return shown(
        (f.level.value, f.subject, f.text, f.remedy)
        for f in check(settings, in_project=False)
        if f.subject == "table t"
    )


def opened(settings: Settings) -> str:
    """Open a run; return the error that ends it, or an empty text."""
    config = Config.from_settings(settings, {})
    destination = Destination.find(config)
    try:
        destination.begin(config, Run("t"))
    except FatalError as error:
        return f"{error.reason}: {error}"
    finally:
        destination.close()
    return ""


def test_tables_are_created(said: Said, sql: Sql, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Each statement is in the log; `check` lists them before."""
    caplog.set_level(logging.INFO, "scrapy_supabase")
    settings = settings_of(project, Tag, project.db_url)
    findings = [found(settings)]
    assert opened(settings) == ""
    said("A table that is created", of_records(caplog, least=logging.INFO))
    sql("alter table t drop column label; notify pgrst, 'reload schema'")
    findings.append(found(settings))
    caplog.clear()
    assert opened(settings) == ""
    assert sql("select label from t") == []
    said("A column that is created", of_records(caplog, least=logging.INFO))
    entry = {"table": "t", "on_conflict": "id", "stamps": {"run": "run_id"}, "unseen": {"set": {"gone": True}}}
    settings.set("SUPABASE_TABLES", {f"{__name__}.Tag": entry})
    findings.append(found(settings))
    sql("drop table t; notify pgrst, 'reload schema'")
    findings.append(found(settings_of(project, None, project.db_url)))
    findings.append(found(settings_of(project, Tag, None)))
    titles = (
        "check of a table that a crawl creates",
        "check of a column that a crawl creates",
        "check of columns for unseen rows that a crawl creates",
        "check of a table that a crawl creates from its first rows",
        "check of a table that a crawl cannot create",
    )
    for title, lines in zip(titles, findings, strict=True):
        said(title, lines)


def test_tables_that_cannot_be_created(
    said: Said, sql: Sql, project: Project, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The message has the reason and the SQL, and no password."""
    caplog.set_level(logging.INFO, "scrapy_supabase")
    role = opened(settings_of(project, Tag, url))
    said("A role that may not create tables", [f"FatalError: {role}"])
    assert PASSWORD not in role
    said("A table that cannot be created over REST", [f"FatalError: {opened(settings_of(project, Tag, None))}"])
    dicts = opened(settings_of(project, None, None))
    said("A table for dicts that cannot be created over REST", [f"FatalError: {dicts}"])
    odd = opened(settings_of(project, Vector, project.db_url))
    said("A column of a type that the database does not have", [f"FatalError: {odd}"])
    caplog.clear()
    nowhere = make_conninfo(project.db_url, host="127.0.0.1", port="9", password=PASSWORD)
    gone = opened(settings_of(project, Tag, nowhere))
    said("A database that is not there", of_records(caplog, least=logging.INFO), [f"FatalError: {gone}"])
    assert PASSWORD not in caplog.text + gone
    wrong = opened(settings_of(project, Tag, make_conninfo(project.db_url, user="t_nobody")))
    assert wrong.startswith("supabase_unauthorized: 28000"), wrong
    assert sql("select to_regclass('t')") == [(None,)]


def test_names_that_cannot_be_created(said: Said, sql: Sql, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """Fields are left out; a table that cannot be created ends the run."""
    sql("select 1")
    caplog.set_level(logging.INFO, "scrapy_supabase")
    settings = settings_of(project, None, project.db_url)
    for table in ("t", "t" * 64):
        settings.set("SUPABASE_TABLES", {"*": {"table": table, "on_conflict": "id"}})
        destination = Destination.find(Config.from_settings(settings, {}))
        try:
            destination.begin(Config.from_settings(settings, {}), Run("t"))
            chunk = Chunk(1, (Row(table, ("ctid", "id", "x" * 64), None, b'{"id":1,"ctid":2}'),), "1")
            assert destination.creator is not None
            destination.creator.create(chunk)
        except FatalError as error:
            said("A table whose name is too long", [f"FatalError: {error}"])
        finally:
            destination.close()
    said("Fields whose names no column can have", of_records(caplog))


def test_the_database_is_gone_before_the_first_rows(said: Said, sql: Sql, project: Project) -> None:
    """The run ends, and its rows stay in the spool."""
    sql("select 1")
    config = Config.from_settings(settings_of(project, None, project.db_url), {})
    destination = Destination.find(config)
    creator = destination.creator
    assert creator is not None
    try:
        destination.begin(config, Run("t"))
        creator._url = make_conninfo(project.db_url, host="127.0.0.1", port="9")
        with pytest.raises(FatalError) as raised:
            creator.create(Chunk(1, (Row("t", ("id",), None, b'{"id":1}'),), "1"))
    finally:
        destination.close()
    assert raised.value.reason == "supabase_unavailable"
    said("A database that is gone before the first rows of a table", [f"FatalError: {raised.value}"])
