"""A forked process has its own arguments, folder, environment and files, and its exit code is known."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import fork_server


def tell() -> None:
    """Entry: print what this process has."""
    atexit.register(print, "the end")
    print(json.dumps([sys.argv, os.getcwd(), dict(os.environ), sys.stdin.read(), sys.path[0]]))  # noqa: PTH109
    print(sorted(map(int, os.listdir("/proc/self/fd"))), file=sys.stderr)  # 3: the folder itself  # noqa: PTH208
    sys.exit(3)


def sleep() -> None:
    """Entry: do nothing for a minute."""
    time.sleep(60)


def test_a_process_is_its_own(tmp_path: Path) -> None:
    """Its exit handlers run."""
    env = {"A": "1", "PYTHONPATH": str(fork_server.ROOT)}
    done = fork_server.run("tests.test_fork_server:tell", "a", "b c", cwd=tmp_path, env=env, text="é\n")
    said, end = done.stdout.splitlines()
    assert json.loads(said) == [["a", "b c"], str(tmp_path), env, "é\n", str(tmp_path)]
    assert (done.returncode, done.stderr, end) == (3, "[0, 1, 2, 3]\n", "the end")


def test_signals(tmp_path: Path) -> None:
    """Waiting ends at the timeout; the exit code tells the signal."""
    with (tmp_path / "log").open("w") as log:
        process = fork_server.start("tests.test_fork_server:sleep", stdout=log)
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.kill()
        assert process.wait(10) == process.poll() == -signal.SIGKILL
        process.kill()  # it may be another process's number by now: nothing is sent
