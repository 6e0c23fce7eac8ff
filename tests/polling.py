"""Waiting for what another process does: by looking, with a deadline, never by a guess of how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def eventually(condition: Callable[[], bool], within: float = 10.0) -> bool:
    """Look until `condition` holds; False if it does not `within` seconds."""
    pause = threading.Event()
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.01)
    return True
