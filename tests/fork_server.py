"""Processes without the second that Python needs to import Scrapy: a server imports it once, and forks for each.

    process = start("tests.crawl:main", text=job, stdout=log)
    done = scrapy("supabase", "check", cwd=folder)

Each process has its own arguments, folder, environment and files, and ends as any Python does, with its exit handlers.
Of the environment, what Python reads when it starts is the server's (PYTHONWARNINGS, LANG), except PYTHONPATH. As a
script, this is the server: it reads jobs from a socket, whose number is its argument.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from scrapy.exceptions import NotConfigured, ScrapyDeprecationWarning
from scrapy.settings import default_settings
from scrapy.utils.misc import load_object

ROOT = Path(__file__).parents[1]
PRELOADED = ("scrapy.cmdline", "scrapy_supabase.assembly", "psycopg", "tests.crawl")


class Forked:
    """A started process, with the methods and attributes of a `Popen` that tests use."""

    def __init__(self, status: int) -> None:
        self._status = os.fdopen(status, "r")
        self.returncode: int | None = None
        self.pid = int(self._status.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the exit code, -N after the signal N.

        Raises:
            TimeoutExpired: It runs for longer than `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                assert timeout is not None
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            with self._status:
                code = self._status.readline()
            assert code, "the fork server has ended"
            self.returncode = int(code)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


_servers: dict[str, tuple[socket.socket, subprocess.Popen[bytes]]] = {}


def _server(python: str) -> socket.socket:
    """The connection to this process's server that runs `python`. The server ends when the connection does."""
    if python not in _servers or _servers[python][1].poll() is not None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [python, "-m", "tests.fork_server", str(theirs.fileno())]
            env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            null = subprocess.DEVNULL
            server = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=null, stdout=null, pass_fds=[theirs.fileno()], process_group=0
            )
        _servers[python] = ours, server
    return _servers[python][0]


@atexit.register
def _end() -> None:
    for connection, server in _servers.values():
        connection.close()
        server.wait()


def start(
    entry: str,
    *argv: str,
    text: bytes = b"",
    stdout: IO[Any],
    stderr: IO[Any] | None = None,
    python: str = sys.executable,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
) -> Forked:
    """Call the function `entry` ("module:name") in a process of its own.

    `argv` becomes its `sys.argv`, `text` its standard input (a file); `stderr` is `stdout` unless it is given.
    """
    job = {"entry": entry, "argv": argv, "cwd": str(cwd), "env": dict(os.environ) if env is None else env}
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as stdin:
        stdin.write(text)
        stdin.seek(0)
        files = [stdin.fileno(), stdout.fileno(), (stderr or stdout).fileno(), writer]
        socket.send_fds(_server(python), [json.dumps(job).encode()], files)
    os.close(writer)
    return Forked(reader)


def run(
    entry: str, *argv: str, timeout: float = 60, text: str | bytes = b"", **options: Any
) -> subprocess.CompletedProcess[str]:
    """Call `entry`, wait for its end, and return what it wrote.

    Raises:
        TimeoutExpired: It ran for longer than `timeout` seconds, and was killed.
    """
    given = text.encode() if isinstance(text, str) else text
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start(entry, *argv, text=given, stdout=out, stderr=err, **options)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        written = [os.pread(file.fileno(), 1 << 30, 0).decode() for file in (out, err)]
    return subprocess.CompletedProcess(argv, code, *written)


def scrapy(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `scrapy …`, as its script does; `options` as in `run`."""
    return run("scrapy.cmdline:execute", "scrapy", *arguments, **options)


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each job, and say how each ended. Return the job in the process that is to do it, None at the end."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                pid, status = key.data
                selector.unregister(key.fileobj)
                os.close(key.fd)
                with suppress(BrokenPipeError), os.fdopen(status, "wb") as file:  # nobody waits for its end
                    file.write(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            message, files, _, _ = socket.recv_fds(control, 1 << 20, 4, socket.MSG_CMSG_CLOEXEC)
            if not message:
                for running in [each.data[0] for each in selector.get_map().values() if each.data]:
                    os.kill(running, signal.SIGKILL)
                return None
            *streams, status = files
            if pid := os.fork():
                with suppress(BrokenPipeError):  # an interrupted test
                    os.write(status, b"%d\n" % pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, status))
                for stream in streams:
                    os.close(stream)
                continue
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            selector.close()
            control.close()
            os.closerange(3, 1 << 10)
            job: dict[str, Any] = json.loads(message)
            return job


def preload() -> None:
    """Import what a crawl needs, and what Scrapy's default settings name (a quarter of a second)."""
    for name in PRELOADED:
        importlib.import_module(name)
    for value in vars(default_settings).values():
        for name in [*value, *value.values()] if isinstance(value, dict) else [value]:
            if isinstance(name, str) and name.startswith("scrapy."):
                with suppress(NotConfigured, ImportError):
                    load_object(name)
    # A crawl chooses its reactor, and does not import supabase.
    assert not {"twisted.internet.reactor", "supabase"} & set(sys.modules)


def main() -> None:
    """Be the server, or a process that it forked."""
    for category in (DeprecationWarning, ScrapyDeprecationWarning):
        warnings.filterwarnings("error", category=category, module=r"scrapy_supabase(\.|$)")
    preload()
    gc.freeze()  # else the garbage collector copies all these pages when a process ends (0.4 s, instead of 0.06)
    job = serve(socket.socket(fileno=int(sys.argv[1])))
    if job is None:
        return
    os.environ.clear()
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    sys.path[:1] = [job["cwd"], *filter(None, job["env"].get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = job["argv"] or [job["entry"]]
    module, name = job["entry"].split(":")
    getattr(importlib.import_module(module), name)()


if __name__ == "__main__":
    main()
