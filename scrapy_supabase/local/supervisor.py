"""The parent process of PostgreSQL and the gateway, which stops them when its owner has ended, for whatever reason.

Run as a script by `python -I -S`, with the standard library only, so that it starts in 20 ms. Its standard input is a
pipe from the owner: the first line has its orders (JSON); end of file means that the owner is done, or dead. It has a
session of its own, so that Ctrl-C in a terminal does not stop the database before the crawl has uploaded its rows.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_POLL_INTERVAL = 0.25  # seconds between checks of the child processes


def main() -> int:
    """Start PostgreSQL and the gateway, pass on the gateway's output, and stop both when nobody uses them."""
    orders = json.loads(sys.stdin.buffer.readline())
    folder = Path(orders["folder"])
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with (folder / "supervisor.log").open("a", encoding="utf-8") as log:
        postgres = _start_postgres(orders, folder)
        gateway = _start_gateway(orders, folder)
        try:
            while not stopping and _alive(postgres, gateway, log) and not _has_owner_ended(gateway):
                pass
            while not stopping and _alive(postgres, gateway, log) and _in_use(folder):
                time.sleep(_POLL_INTERVAL)
        finally:
            _stop(gateway, signal.SIGTERM)
            _stop(postgres, signal.SIGINT, signal.SIGQUIT)
    (folder / "state.json").unlink(missing_ok=True)
    _report("stopped")
    return 0


def _start_postgres(orders: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    log = os.open(folder / "postgres.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    user = orders["user"]
    identity = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
    try:
        return subprocess.Popen(
            orders["postgres"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=orders["environment"],
            cwd=orders["data"],
            preexec_fn=_die_with_parent,
            **identity,
        )
    finally:
        os.close(log)


def _die_with_parent() -> None:
    """Ask the kernel (Linux) to send PostgreSQL SIGINT, a fast shutdown, if this supervisor is killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)


def _start_gateway(orders: dict[str, Any], folder: Path) -> subprocess.Popen[bytes]:
    log = os.open(folder / "gateway.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        gateway = subprocess.Popen(
            orders["gateway"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=orders["gateway_environment"],
        )
    finally:
        os.close(log)
    with contextlib.suppress(BrokenPipeError):
        assert gateway.stdin is not None  # noqa: S101 (for the type checker)
        gateway.stdin.write(json.dumps(orders["gateway_orders"]).encode() + b"\n")
        gateway.stdin.flush()
    return gateway


def _alive(postgres: subprocess.Popen[bytes], gateway: subprocess.Popen[bytes], log: Any) -> bool:
    for name, process in (("postgres", postgres), ("gateway", gateway)):
        if process.poll() is not None:
            print(f"{time.strftime('%F %T')} {name} ended by itself ({process.returncode})", file=log, flush=True)
            _report(f"ended {name} {process.returncode}")
            return False
    return True


def _has_owner_ended(gateway: subprocess.Popen[bytes]) -> bool:
    """Wait a moment for the owner's end of file, and pass on a line of the gateway; return whether the owner ended."""
    readable, _, _ = select.select([sys.stdin, *filter(None, [gateway.stdout])], [], [], _POLL_INTERVAL)
    if gateway.stdout in readable and gateway.stdout is not None:
        line = gateway.stdout.readline()
        if line:
            _report(line.decode().strip())
    return sys.stdin in readable and not os.read(sys.stdin.fileno(), 1)


def _in_use(folder: Path) -> bool:
    """Return whether another process holds a lease. If none does, keep the lock, so that none can take one."""
    import fcntl  # POSIX only

    guard = os.open(folder / "leases.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(guard, fcntl.LOCK_EX)
    for lease in (folder / "leases").iterdir():
        descriptor = os.open(lease, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lease.unlink(missing_ok=True)
        except BlockingIOError:
            _report("shared")
            os.close(guard)
            return True
        finally:
            os.close(descriptor)
    return False


def _stop(process: subprocess.Popen[bytes], *signals: int) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    for number in (*signals, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return


def _report(line: str) -> None:
    with contextlib.suppress(OSError):
        os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
