"""How much memory a process may use."""

import os
from pathlib import Path

# Of containers and batch systems, in bytes: cgroups of version 2 and 1.
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_limit() -> int:
    """The memory of the machine or, if that is less, of the container, in bytes."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        text = path.read_text().strip() if path.exists() else ""
        if text.isdecimal():  # not `max`
            limits.append(int(text))
    return min(limits)
