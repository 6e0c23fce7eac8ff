"""Worker threads: as many as are busy at once, each a daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class WorkerPool:
    """Threads that do jobs in the order in which they are submitted. For one owner."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._number = 0

    def submit(self, job: Job, *, busy: int) -> None:
        """Do a job in a thread; `busy` jobs, this one counted, are not done yet."""
        if self._number < busy:
            self._number += 1
            # A daemon: a server that never answers must not keep the process from ending.
            threading.Thread(target=self._work, name=f"supabase-upload-{self._number}", daemon=True).start()
        self._jobs.put(job)

    def close(self) -> None:
        """Let the threads end. One that is in a job ends after it; it never keeps the process alive."""
        for _ in range(self._number):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # a thread that waits must not keep the rows of its last chunk
