"""Locks by which processes, also on several machines, take turns."""

import fcntl
import time
from typing import IO, Any


def lock_file(stream: IO[Any], seconds: float = 0.0) -> bool:
    """Locks an open file, until it is closed or the process ends, however it ends.

    Waits some seconds for another process; returns whether this one has the lock now.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        time.sleep(0.5)
