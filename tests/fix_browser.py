"""A real browser: headless Chromium of the system, driven by Playwright. It looks at pages that are files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pytest
from playwright.sync_api import Page, sync_playwright

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "No Chromium is on PATH, and the report is not looked at. As root: apt-get install chromium"


def chromium() -> str | None:
    """Where Chromium is."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


class Seen:
    """A page that is open, what its console said and what it asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked_for: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked_for.append(request.url))


class Browser:
    """A context manager. One browser; each page is opened in a profile of its own."""

    def __enter__(self) -> Browser:
        program = chromium()
        if program is None:
            raise FileNotFoundError(INSTALL)
        self._playwright = sync_playwright().start()
        sandbox = os.geteuid() != 0  # as root, Chromium has none
        self._browser = self._playwright.chromium.launch(executable_path=program, chromium_sandbox=sandbox)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._browser.close()
        self._playwright.stop()

    @contextmanager
    def look_at(self, file: Path, *, width: int = 1024, height: int = 800, dark: bool = False) -> Iterator[Seen]:
        """Open a file."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        try:
            seen = Seen(context.new_page())
            seen.page.goto(file.resolve().as_uri())
            yield seen
        finally:
            context.close()

    def shoot(self, file: Path, image: Path, *, width: int = 1024, height: int = 800, dark: bool = False) -> None:
        """Make a picture of the upper part of a page."""
        with self.look_at(file, width=width, height=height, dark=dark) as seen:
            seen.page.screenshot(path=image)


@pytest.fixture(scope="module")  # while Playwright is there, this thread has a running event loop
def browser() -> Iterator[Browser]:
    """Chromium. Without one, the tests that need it are skipped, but not where CI runs them."""
    if chromium() is None:
        if os.environ.get("CI"):
            pytest.fail(INSTALL)
        pytest.skip(INSTALL)
    with Browser() as opened:
        yield opened
