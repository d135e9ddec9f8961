"""A team: the processes that train one model together, usually one alone.

Alone, every method returns at once what a single process would have. Otherwise all
workers must make the same calls in the same order.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ft.errors import UserError
from keras_ft.host import files, onednn
from keras_ft.host.startup import import_tensorflow
from keras_ft.system import lifeline
from keras_ft.system.workers import ALONE, Workers, load_workers

if TYPE_CHECKING:
    import tensorflow as tf

_MAX_TEXT = 4096
log = logging.getLogger("keras_ft")

# How long a file that another machine has written may take to appear: NFS remembers for
# up to a minute that there was none.
_APPEAR_SECONDS = 90.0


@dataclasses.dataclass(frozen=True)
class Team:
    """The workers that train together; without a strategy until connected."""

    workers: Workers = ALONE
    strategy: "tf.distribute.Strategy | None" = None

    @property
    def is_alone(self) -> bool:
        """Whether there is nobody to share with."""
        return self.workers.count == 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the workdir."""
        return self.workers.index == 0

    def connect(self, use_onednn: onednn.Choice) -> "Team":
        """Connects this process with the others, if any; waits until all have started.

        Must precede every operation of TensorFlow. From then on, until `disband`, this
        process ends when another worker does.

        Raises:
            UserError: They can't be reached, or this process has several GPUs.
        """
        if self.is_alone:
            return self
        import_tensorflow(use_onednn)
        return Team(self.workers, lifeline.connect(self.workers))

    def disband(self) -> None:
        """Waits until all workers are here; from then on each may end by itself."""
        if not self.is_alone:
            lifeline.has_parted.set()
            self.wait()

    def ending_together(self) -> contextlib.AbstractContextManager[None]:
        """In this block, an error because another worker ended ends this process."""
        if self.is_alone:
            return contextlib.nullcontext()
        return lifeline.ending_together(self.workers)

    @contextlib.contextmanager
    def chief_first(self) -> Iterator[None]:
        """The chief executes this block before the others: it fills caches for them."""
        if not self.is_chief:
            self.wait()
        yield
        if self.is_chief:
            self.wait()

    def chief_only(
        self, context: contextlib.AbstractContextManager[Any]
    ) -> contextlib.AbstractContextManager[Any]:
        """A context that the chief enters, and the others do not."""
        return context if self.is_chief else contextlib.nullcontext()

    def share(self, num_rows: int, unit: int = 1) -> range:
        """Which rows this worker computes: whole units of rows, but for the last.

        A unit must be computed together, such as a batch. The shares of all workers, in
        their order, are all rows.
        """
        num_units, count = -(-num_rows // unit), self.workers.count
        start, stop = (
            min(i * num_units // count * unit, num_rows)
            for i in (self.workers.index, self.workers.index + 1)
        )
        return range(start, stop)

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """The rows float32 or int32 [N, ...] of all workers in order; N may differ."""
        if self.strategy is None:
            return rows
        import tensorflow as tf

        return self.strategy.gather(tf.constant(rows), axis=0).numpy()

    def gather_bytes(self, rows: np.ndarray) -> np.ndarray:
        """Like `gather`, for rows of any dtype of fixed size: [N]."""
        if self.strategy is None:
            return rows
        # Collective operations have no bytes.
        numbers = rows.view(np.uint8).reshape(len(rows), rows.dtype.itemsize)
        gathered = self.gather(numbers.astype(np.int32)).astype(np.uint8)
        return np.ascontiguousarray(gathered).view(rows.dtype)[:, 0]

    def wait(self) -> None:
        """Waits until all workers are here."""
        self.gather(np.zeros([1], np.int32))

    def on_chief(self, compute: Callable[[], Any]) -> Any:
        """What `compute` returns on the chief, JSON below 4 kB; or its OSError."""
        if self.is_alone:
            return compute()
        answer = {}
        if self.is_chief:
            try:
                answer["value"] = compute()
            except OSError as error:
                answer["error"] = str(error)
        answer = json.loads(self._from_chief(json.dumps(answer)))
        if "error" in answer:
            raise OSError(answer["error"])
        return answer["value"]

    def _from_chief(self, text: str) -> str:
        rows = np.array([os.fsencode(text)], f"S{_MAX_TEXT}")
        return os.fsdecode(bytes(self.gather_bytes(rows)[0]))

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """At the end of this block all workers raise an OSError if one did."""
        error = None
        try:
            yield
        except OSError as own:
            error = own
        if not self.gather(np.array([error is None], np.int32)).all():
            raise error or OSError("another worker could not do its share; see its log")

    def check_same(self, values: Mapping[str, Any]) -> None:
        """Raises a UserError, by all workers, if one of the JSON values differs.

        An iterator among them is consumed only if there are several workers.
        """
        if self.is_alone:
            return
        digests = [
            hashlib.sha256(
                json.dumps(value, sort_keys=True, default=list).encode()
            ).digest()
            for value in values.values()
        ]
        rows = self.gather_bytes(np.array([b"".join(digests)], f"V{32 * len(digests)}"))
        by_value = np.stack([np.frombuffer(bytes(row), "V32") for row in rows], axis=1)
        for name, of_workers in zip(values, by_value, strict=True):
            others = [i for i, v in enumerate(of_workers) if v != of_workers[0]]
            if others:
                raise UserError(
                    f"All workers must have the same {name}. Received: others on "
                    f"{_list_workers(others)} than on worker 0"
                )

    def check_enough(self, fewest: int) -> None:
        """Raises a UserError if a split has fewer images than there are workers."""
        if fewest < self.workers.count:
            raise UserError(
                "train and val must have an image for each worker. Received: "
                f"{fewest} images, {self.workers.count} workers"
            )

    def check_shared(self, folder: Path, flag: str) -> None:
        """Raises a UserError, by all, if one can't see the chief's files there."""
        blind = self._find_blind(folder)
        if blind:
            raise UserError(
                f"{flag} must be a folder that all workers share, such as one on NFS. "
                f"Received: {folder}, where {_list_workers(blind)} can't see the files "
                "of worker 0"
            )

    def with_folder(self, folder: Path, flag: str) -> "Team":
        """The workers that share a folder: this team, or each worker alone."""
        if self._find_blind(folder):
            log.info("The workers do not share %s: each computes all features.", flag)
            return Team()
        return self

    def _find_blind(self, folder: Path) -> list[int]:
        if self.is_alone:
            return []
        name = self._from_chief(f"{files.PARTIAL}seen-by-all-{secrets.token_hex(8)}")
        path = folder / name
        if self.is_chief:
            path.touch()
        self.wait()
        seen = self.gather(np.array([path.exists()], np.int32))
        if self.is_chief:
            path.unlink()
        return [int(i) for i in np.flatnonzero(seen == 0)]

    def wait_for(self, path: Path) -> None:
        """Waits until a file that the chief has written appears on this machine."""
        until = time.monotonic() + _APPEAR_SECONDS
        while not (self.is_chief or path.exists()) and time.monotonic() < until:
            time.sleep(0.5)


def current_team() -> Team:
    """The team among which TensorFlow's current strategy divides a batch."""
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    is_multi = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return Team(load_workers(), strategy) if is_multi else Team()


def _list_workers(indices: list[int]) -> str:
    return f"worker{'s' * (len(indices) > 1)} {', '.join(map(str, indices))}"
