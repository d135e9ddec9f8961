"""What workers check together before they train: that nothing differs between them.

As in `collectives`, every worker must make the same calls in the same order.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.system.collectives import (
    current_workers,
    from_chief,
    gather,
    gather_bytes,
    wait,
)

# How long a file that another machine has written may take to appear: NFS remembers for
# up to a minute that there was none.
_APPEAR_SECONDS = 90.0


def check_same(values: Mapping[str, Any]) -> None:
    """Checks that values are the same for all workers.

    Args:
        values: JSON values by what they are, for the error.

    Raises:
        UserError: They differ; by all workers.
    """
    digests = [
        hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
        for value in values.values()
    ]
    rows = gather_bytes(np.array([b"".join(digests)], f"V{32 * len(digests)}"))
    by_value = np.stack([np.frombuffer(bytes(row), "V32") for row in rows], axis=1)
    for name, of_workers in zip(values, by_value, strict=True):
        others = [i for i, v in enumerate(of_workers) if v != of_workers[0]]
        if others:
            raise UserError(
                f"All workers must have the same {name}. Received: others on "
                f"{_list_workers(others)} than on worker 0"
            )


def find_blind(folder: Path) -> list[int]:
    """The workers that do not see what the chief writes in a folder."""
    workers = current_workers()
    if workers.count == 1:
        return []
    name = from_chief(f"{files.PARTIAL}seen-by-all-{secrets.token_hex(8)}")
    path = folder / name
    if workers.is_chief:
        path.touch()
    wait()
    seen = gather(np.array([path.exists()], np.int32))
    if workers.is_chief:
        path.unlink()
    return [int(i) for i in np.flatnonzero(seen == 0)]


def check_shared(folder: Path, flag: str) -> None:
    """Checks that all workers see what the chief writes in a folder.

    Raises:
        UserError: Some do not; by all workers.
    """
    blind = find_blind(folder)
    if blind:
        raise UserError(
            f"{flag} must be a folder that all workers share, such as one on NFS. "
            f"Received: {folder}, where {_list_workers(blind)} can't see the files of "
            "worker 0"
        )


def wait_for(path: Path) -> None:
    """Waits until a file that another worker has written appears on this machine."""
    until = time.monotonic() + _APPEAR_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.5)


def _list_workers(indices: list[int]) -> str:
    return f"worker{'s' * (len(indices) > 1)} {', '.join(map(str, indices))}"
