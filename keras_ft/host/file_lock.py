"""Locks by which processes, also on several machines, take turns."""

import errno
import fcntl
import logging
import time
from typing import IO, Any

log = logging.getLogger("keras_ft")

# What a file system without locks answers, such as Lustre's by default.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


def lock_file(
    stream: IO[Any], seconds: float = 0.0, without_locks: bool = True
) -> bool:
    """Locks an open file, until it is closed or the process ends, however it ends.

    Waits some seconds for another process; returns whether this one has the lock now.
    On a file system without locks it is `without_locks`: True means to go on, with a
    warning.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if without_locks:
                log.warning(
                    "The file system of %s has no locks (%s): let no other process use "
                    "the same folder.",
                    stream.name,
                    error.strerror,
                )
            return without_locks
        time.sleep(0.5)
