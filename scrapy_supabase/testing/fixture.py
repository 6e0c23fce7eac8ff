"""`LocalSupabaseFixture`: what a test does with the fixture `local_supabase`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrapy_supabase.testing.crawl import CrawlResult, check, run

if TYPE_CHECKING:
    from scrapy import Spider

    from scrapy_supabase.testing.stack import SessionStack

_SHOWN = 200  # lines of a crawl's log in the report of a failed test


class LocalSupabaseFixture:
    """A Supabase on this machine, clean at the start of every test.

    `near` and `root` are the folders where the Scrapy project is looked for, from `near` upward; `show` takes title and
    text of what a failed test reports.
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
        """The secret key: role `service_role`, which passes row-level security."""
        return self._stack.supabase.service_role_key

    @property
    def anon_key(self) -> str:
        """The public key: role `anon`."""
        return self._stack.supabase.anon_key

    @property
    def db_url(self) -> str:
        """A connection string for the superuser `postgres`."""
        return self._stack.supabase.db_url

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that make a crawler upload here, and nowhere else. `crawl` adds them by itself."""
        return {
            "SUPABASE_ENABLED": True,
            "SUPABASE_URL": self.url,
            "SUPABASE_KEY": self.key,
            "SUPABASE_DB_URL": None,
            "SUPABASE_SPOOL_DIR": str(self._spool),
        }

    def sql(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run SQL as `postgres`, with a `%s` for each parameter; return its rows, of several statements the last's.

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

        `arguments` are the spider's (`-a`), `settings` stand above the project's and the spider's own. Raises
        `CrawlError` where the crawl could not run, took longer than `timeout` seconds, was closed by the pipeline, or a
        callback of the spider failed; and where a row was rejected or is left, unless `check_rows` is False.
        """
        __tracebackhide__ = True
        given = {**self.settings, **settings}
        result = run(spider, given, arguments or {}, self._folder, timeout)
        self._show("crawl", "\n".join(result.log.splitlines()[-_SHOWN:]))
        check(result, rows=check_rows)
        return result

    def close(self) -> None:
        """Called when the test is over."""
        if self._connection is not None:
            self._connection.close()


def environment(fixture: LocalSupabaseFixture) -> dict[str, str | None]:
    """Environment variables for code that reads them, such as `init_supabase()`; None: not set."""
    return {"SUPABASE_URL": fixture.url, "SUPABASE_KEY": fixture.key, "SUPABASE_DB_URL": None}


def _project_folder(near: Path) -> Path | None:
    return next((folder for folder in (near, *near.parents) if (folder / "scrapy.cfg").exists()), None)
