"""`LocalSupabaseFixture`: the value of the pytest fixture `local_supabase`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy_supabase.testing.crawl import CrawlResult, check, run

if TYPE_CHECKING:
    from scrapy import Spider

    from scrapy_supabase.testing.stack import SessionStack

_LOG_LINES = 200  # of a crawl, in the report of a failed test


class LocalSupabaseFixture:
    """A Supabase on this machine, clean at the start of every test.

    The Scrapy project is looked for from the folder `near` upward; without one, crawls run in `root`. `show` takes
    title and text of a section in the report of a failed test.
    """

    def __init__(
        self, stack: SessionStack, *, spool: Path, near: Path, root: Path, show: Callable[[str, str], object]
    ) -> None:
        self._stack = stack
        self._spool = spool
        self._folder = _project_folder(near) or root
        self._show = show
        self._connection: Any = None

    def __repr__(self) -> str:
        return f"<local_supabase {self.url}>"

    @property
    def url(self) -> str:
        """The project's URL."""
        return self._stack.supabase.url

    @property
    def key(self) -> str:
        """The secret key, for the role `service_role`, which bypasses row-level security."""
        return self._stack.supabase.service_role_key

    @property
    def anon_key(self) -> str:
        """The public key, for the role `anon`."""
        return self._stack.supabase.anon_key

    @property
    def db_url(self) -> str:
        """A connection string for the superuser `postgres`."""
        return self._stack.supabase.db_url

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that make a crawler upload here, and nowhere else. `crawl` adds them itself."""
        return {
            "SUPABASE_ENABLED": True,
            "SUPABASE_URL": self.url,
            "SUPABASE_KEY": self.key,
            "SUPABASE_DB_URL": None,
            "SUPABASE_SPOOL_DIR": str(self._spool),
        }

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL as `postgres`, with a `%s` for each parameter; return the rows of the last statement.

        Raises `psycopg.Error`.
        """
        if self._connection is None:
            self._connection = self._stack.connect()
        cursor = self._connection.execute(query.encode(), parameters or None)
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []

    def crawl(
        self,
        spider: type[Spider] | str,
        *,
        arguments: Mapping[str, Any] | None = None,
        check_rows: bool = True,
        timeout: float = 120.0,
        **settings: Any,
    ) -> CrawlResult:
        """Crawl with a spider class, or the project's spider of that name, in a process of its own; wait for its end.

        `arguments` are the spider's (`-a`); `settings` override those of the project and the spider. Raises
        `CrawlError` if the crawl could not run, took longer than `timeout` seconds, was closed by the pipeline, or a
        callback of the spider failed; also if a row was rejected or not uploaded, unless `check_rows` is False.
        """
        __tracebackhide__ = True
        overrides = {**self.settings, **settings}
        result = run(spider, overrides, arguments or {}, self._folder, timeout)
        self._show("crawl", "\n".join(result.log.splitlines()[-_LOG_LINES:]))
        check(result, rows=check_rows)
        return result

    def close(self) -> None:
        """Close the connection of `sql` at the end of the test."""
        if self._connection is not None:
            self._connection.close()


def environment(fixture: LocalSupabaseFixture) -> dict[str, str | None]:
    """Return environment variables for code that reads them, such as `init_supabase()`; None means not set."""
    return {"SUPABASE_URL": fixture.url, "SUPABASE_KEY": fixture.key, "SUPABASE_DB_URL": None}


def _project_folder(near: Path) -> Path | None:
    return next((folder for folder in (near, *near.parents) if (folder / "scrapy.cfg").exists()), None)
