"""Run as a script: `python -m tests.other_systems SYSTEM JOB SETTINGS`, a Python without the calls that SYSTEM lacks.

Calls and modules are taken away after Scrapy, Twisted and asyncio are imported: on Windows, these use others. Locks
are those of `msvcrt`, made from flock. What Windows refuses is refused: opening a folder, and renaming, deleting or
replacing a file that is open, or a folder with an open file in it. Descriptors opened without `O_BINARY` write CRLF.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import select
import socket
import sys
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import scrapy.crawler
import scrapy.utils.log
import supabase
import twisted.internet.asyncioreactor
import twisted.internet.process
import twisted.web.client  # noqa: F401
from scrapy.settings import default_settings
from scrapy.utils.misc import load_object

MODULES = ("fcntl", "pwd", "grp", "resource", "termios", "pty")
CALLS = (
    *("O_CLOEXEC", "O_DSYNC", "O_SYNC", "O_DIRECTORY", "O_NOFOLLOW", "major", "minor", "makedev"),
    *("writev", "readv", "pwrite", "pread", "posix_fallocate", "posix_fadvise", "sendfile", "geteuid", "getuid"),
    *("fork", "setsid", "killpg", "getpgid", "chown", "fchmod", "fchown", "statvfs", "mkfifo", "uname", "sync"),
)
O_BINARY = 0x8000  # Linux ignores it
_text: set[int] = set()  # descriptors that write CRLF


def become_macos() -> None:
    """Take away what Linux has and macOS has not."""
    for place, names in ((os, ("posix_fallocate", "posix_fadvise")), (mmap, ("MAP_POPULATE",)), (select, ("epoll",))):
        for name in names:
            delattr(place, name)
    del socket.TCP_INFO
    sys.platform = "darwin"


def become_windows() -> None:
    """Make this Python like one on Windows, as far as this package can see."""
    for group in ("EXTENSIONS", "SPIDER_MIDDLEWARES", "DOWNLOADER_MIDDLEWARES", "DOWNLOAD_HANDLERS"):
        found = getattr(default_settings, f"{group}_BASE")
        for path in (name for pair in found.items() for name in pair if isinstance(name, str) and "." in name):
            with contextlib.suppress(ImportError):  # an optional handler
                load_object(path)
    windows: Any = types.ModuleType("msvcrt")
    windows.LK_NBLCK = 2
    flock, exclusive = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB

    def locking(file: int, mode: int, number: int) -> None:
        assert (mode, number, os.lseek(file, 0, os.SEEK_CUR)) == (windows.LK_NBLCK, 1, 0)
        try:
            flock(file, exclusive)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    windows.locking = locking
    sys.modules["msvcrt"] = windows
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in CALLS:
        if hasattr(os, name):
            delattr(os, name)
    for name in ("poll", "epoll"):
        delattr(select, name)
    _refuse_like_windows()


def _refuse_like_windows() -> None:
    real_open, real_write, real_close = os.open, os.write, os.close

    def opened(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if Path(os.fsdecode(path)).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", path)
        number = real_open(path, flags, mode, **more)
        _text.discard(number)  # its last file may have been closed by a file object
        if not flags & O_BINARY:
            _text.add(number)
        return number

    def write(number: int, data: Any) -> int:
        if number not in _text:
            return real_write(number, data)
        real_write(number, bytes(data).replace(b"\n", b"\r\n"))
        return len(data)

    def close(fd: int) -> None:
        _text.discard(fd)
        real_close(fd)

    os.open, os.write, os.close = opened, write, close
    vars(os)["O_BINARY"] = O_BINARY
    for name in ("rename", "replace", "unlink", "remove", "rmdir"):
        setattr(os, name, _refusing(getattr(os, name)))


def _refusing(call: Callable[..., None]) -> Callable[..., None]:
    def refuses(*paths: Any, **more: Any) -> None:
        names = [os.path.abspath(os.fsdecode(path)) for path in paths]  # noqa: PTH100
        for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
            file = ""
            with contextlib.suppress(OSError):
                file = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
            for name in names:
                if file == name or file.startswith(f"{name}/"):
                    raise PermissionError(errno.EACCES, "The file is in use by another process", name)
        call(*paths, **more)

    return refuses


def import_all(_: dict[str, Any]) -> None:
    """Import every module of the package; say which fail."""
    import scrapy_supabase

    root = Path(scrapy_supabase.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = ".".join(path.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__"):
            try:
                import_module(name)
            except ImportError as error:
                print(f"{name}: {error!r}")


def crawl(settings: dict[str, Any]) -> None:
    """Crawl items that the setting `ITEMS` has."""
    items = settings.pop("ITEMS")

    class Spider(scrapy.Spider):
        name = "books"

        async def start(self) -> Any:
            for item in items:
                yield item

    process = scrapy.crawler.CrawlerProcess({"ADDONS": {"scrapy_supabase.Addon": 300}, "LOG_LEVEL": "INFO", **settings})
    crawler = process.create_crawler(Spider)
    process.crawl(crawler)
    process.start()
    assert crawler.stats
    print(json.dumps({name: value for name, value in crawler.stats.get_stats().items() if isinstance(value, int)}))


def script(settings: dict[str, Any]) -> None:
    """Upload rows without a spider."""
    from scrapy_supabase import upload_to_supabase

    client = supabase.create_client(settings["SUPABASE_URL"], settings["SUPABASE_KEY"])
    print(upload_to_supabase(client, settings["ITEMS"], settings["SUPABASE_TABLE"], chunk_size=10).uploaded)


def command(settings: dict[str, Any]) -> None:
    """Run `scrapy supabase …`, whose arguments the setting `ARGUMENTS` has."""
    from scrapy.cmdline import execute

    arguments = settings.pop("ARGUMENTS")
    options = [part for name, value in settings.items() for part in ("-s", f"{name}={value}")]
    execute(["scrapy", "supabase", *options, *arguments])


if __name__ == "__main__":
    assert psycopg.__version__
    assert not any(name.startswith("scrapy_supabase") for name in sys.modules)
    {"windows": become_windows, "macos": become_macos}[sys.argv[1]]()
    {"import": import_all, "crawl": crawl, "script": script, "command": command}[sys.argv[2]](json.loads(sys.argv[3]))
