"""A forked child does not own its parent's folder in the spool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from scrapy_supabase.spool.run_folders import RunFolder
from tests.fix_crawl import ROOT

PARENT = """
import os, sys, time
from pathlib import Path
from scrapy_supabase.spool.run_folders import RunFolder

folder = RunFolder.make(Path(sys.argv[1]), "run")
child = os.fork()
if not child:
    folder.leave()  # as an end in order does: it is not the child's to remove
    os.write(1, b"ready\\n")
    time.sleep(60)
    os._exit(0)
os.write(1, b"%d\\n" % child)
time.sleep(60)
"""


def test_a_child_that_outlives_its_killed_parent(tmp_path: Path) -> None:
    """The folder is locked while the parent lives, and free afterwards, whatever the child does."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "spool")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = {process.stdout.readline().strip(), process.stdout.readline().strip()}
    (child,) = lines - {"ready"}
    try:
        run = tmp_path / "spool" / "run"
        assert run.is_dir()
        assert RunFolder.adopt(run) is None
        process.kill()
        process.wait()
        os.kill(int(child), 0)  # it lives
        adopted = RunFolder.adopt(run)
        assert adopted is not None
        adopted.release()
    finally:
        os.kill(int(child), signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()
