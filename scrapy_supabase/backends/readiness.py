"""A wait until a socket can be read or written."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence

_HAS_POLL = hasattr(select, "poll")  # not on Windows, whose `select` has no limit of 1,024 descriptors


def wait_until_ready(
    readers: Sequence[socket.socket | int], timeout: float, writers: Sequence[socket.socket | int] = ()
) -> bool:
    """Wait until one of the `readers` can be read, or one of the `writers` written; return False after `timeout` s.

    A socket that its peer has closed can be read. Raises `OSError` or `ValueError` for one that is closed.
    """
    if not _HAS_POLL:
        return any(select.select(readers, writers, (), timeout))
    poll = select.poll()
    for each in readers:
        poll.register(each, select.POLLIN | (select.POLLOUT if each in writers else 0))
    for each in writers:
        if each not in readers:
            poll.register(each, select.POLLOUT)
    return bool(poll.poll(timeout * 1000))
