"""How much memory a process may use."""

import os
from pathlib import Path

_ROOT = Path("/")


def memory_limit() -> int:
    """The memory of the machine or, if that is less, of the container or batch job.

    In bytes. The latter two are cgroups (https://docs.kernel.org/admin-guide/cgroup-v2),
    whose limits apply to all groups within them.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    groups = _ROOT / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.exists() else []:
        _, controllers, group = line.split(":", 2)  # of version 2: none
        if controllers in ("", "memory"):
            name = "memory.limit_in_bytes" if controllers else "memory.max"
            root = _ROOT / "sys/fs/cgroup" / controllers
            own = root / group.removeprefix("/")
            # A container may see its own group as the root.
            for folder in {root, own, *own.parents} - {*root.parents}:
                path = folder / name
                text = path.read_text().strip() if path.exists() else ""
                if text.isdecimal():  # not `max`
                    limits.append(int(text))
    return min(limits)
