"""A pool of worker threads that grows with the number of jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class WorkerPool:
    """Daemon threads that take jobs in the order of submission. Not thread-safe: one owner submits."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._number = 0

    def submit(self, job: Job, *, busy: int) -> None:
        """Run a job in a thread. `busy` is the number of unfinished jobs, this one included."""
        if self._number < busy:
            self._number += 1
            # A daemon, so that a server that never answers cannot keep the process alive.
            threading.Thread(target=self._work, name=f"supabase-upload-{self._number}", daemon=True).start()
        self._jobs.put(job)

    def close(self) -> None:
        """End the threads. A busy one ends after its job; it does not keep the process alive."""
        for _ in range(self._number):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # an idle thread must not keep the rows of its last chunk in memory
