"""Checkpoints, from which a run that was killed resumes, in `WORKDIR/checkpoints`.

Each file is an .npz archive. It has a checksum of each array, which is compared when
the array is read, and no pickle, so reading it runs no code.
"""

import dataclasses
import json
import logging
import re
import time
import zipfile
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import keras
import numpy as np
import tensorflow as tf

from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.host.archives import check_archive
from keras_ft.host.typed_json import check_type, parse_json
from keras_ft.system.team import current_team
from keras_ft.training.early_stopping import EarlyStopping, GoodEpoch

log = logging.getLogger("keras_ft")

Groups = dict[str, dict[str, np.ndarray]]

_KEPT = 2
_STATE = "state"
# Raised by NumPy if an archive is damaged.
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class _State(TypedDict):
    """What a checkpoint has besides arrays; four values are of `EarlyStopping`."""

    seconds: float
    stopped: bool
    epochs: int
    best: float
    best_epoch: float
    wait: float
    stopped_epoch: float
    kept: NotRequired[dict[str, float]]  # good epochs but the best, and their values


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A phase after its first `epoch` epochs; `state` is a `_State`."""

    epoch: int
    arrays: dict[str, list[np.ndarray]]
    state: dict[str, Any]


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after each epoch, and goes on from the newest one.

    An epoch that ends while one is being written has none, except the last: writing
    takes longer than a short epoch, and is done beside it. The end of the `with` block
    waits for the last one.

    Must come after early stopping, whose state is part of a checkpoint.
    `keras.callbacks.BackupAndRestore` saves neither that state nor the best weights,
    and does not write atomically.

    Attributes:
        epoch: Number of epochs that are finished.
        seconds: Time spent on those that an earlier process finished.

    Raises:
        OSError: By the next call, or at the end: a checkpoint could not be written.
    """

    _STOPPING = ("best", "best_epoch", "wait", "stopped_epoch")

    def __init__(self, folder: Path, phase: str, stopping: EarlyStopping):
        super().__init__()
        self.folder = folder
        self.phase = phase
        self.stopping = stopping
        self._saved = load_checkpoint(folder, phase)
        self.epoch = self._saved.epoch if self._saved else 0
        self.seconds = self._saved.state["seconds"] if self._saved else 0.0
        self._team = current_team()
        self._team.check_same({f"checkpoint of phase {phase}": self.epoch})
        self._pool = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if kind is None and self._writing:
            self._writing.result()

    def restore(self, model: keras.Model) -> int:
        """Gives a compiled model the newest state; returns the epoch to begin with."""
        # Otherwise Keras makes its variables within the first step, which would then be
        # traced twice.
        model.optimizer.build(model.trainable_variables)
        if self._saved is None:
            return 0
        arrays, state = self._saved.arrays, self._saved.state
        variables = [*model.variables, *model.optimizer.variables]
        values = [*arrays.get("model", ()), *arrays.get("optimizer", ())]
        if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            raise UserError(
                "The checkpoints of a run must be of its own network. Received: others "
                f"in {self.folder}; restore them, or give --overwrite to start again"
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        log.info("Phase %s resumes after epoch %d.", self.phase, self.epoch)
        return state["epochs"] if state["stopped"] else self.epoch

    def on_train_begin(self, logs=None):
        self._start = time.perf_counter()
        if self._saved:
            for name in self._STOPPING:
                value = self._saved.state[name]
                setattr(self.stopping, name, value if name == "best" else int(value))
            # Without weights of their own, the best epoch is that of the checkpoint.
            best = self._saved.arrays.get("best") or self.model.get_weights()
            self.stopping.best_weights = best
            self._restore_kept(self._saved)

    def _restore_kept(self, saved):
        stopping = self.stopping
        stopping.kept = [
            GoodEpoch(stopping.best_epoch, stopping.best, stopping.best_weights)
        ]
        for epoch, value in saved.state.get("kept", {}).items():
            weights = saved.arrays.get(epoch) or self.model.get_weights()
            stopping.kept.append(GoodEpoch(int(epoch), value, weights))

    def on_epoch_end(self, epoch, logs=None):
        self.epoch = epoch + 1
        has_ended = self.model.stop_training
        is_last = has_ended or self.epoch == self.params["epochs"]
        is_busy = self._writing is not None and not self._writing.done()
        if not self._team.is_chief or (is_busy and not is_last):
            return
        if self.stopping.diverged:  # a resumed run repeats the epoch
            return
        state = {
            "seconds": self.seconds + time.perf_counter() - self._start,
            "stopped": has_ended,
            "epochs": self.params["epochs"],
            **{name: float(getattr(self.stopping, name)) for name in self._STOPPING},
            "kept": {},
        }
        arrays = {
            "model": _read(self.model.variables),
            "optimizer": _read(self.model.optimizer.variables),
        }
        if self.stopping.best_epoch != epoch:
            arrays["best"] = self.stopping.best_weights
        for good in self.stopping.kept[1:]:
            state["kept"][str(good.epoch)] = good.value
            if good.epoch != epoch:
                arrays[str(good.epoch)] = good.weights
        if self._writing:
            self._writing.result()
        checkpoint = Checkpoint(self.epoch, arrays, state)
        self._writing = self._pool.submit(
            write_checkpoint, self.folder, self.phase, checkpoint
        )


def _read(variables):
    """The values of variables on this worker, without asking the others."""
    strategy = tf.distribute.get_strategy()
    return [strategy.experimental_local_results(v.value)[0].numpy() for v in variables]


def write_checkpoint(folder: Path, phase: str, checkpoint: Checkpoint) -> None:
    """Writes a phase's checkpoint and removes all but the newest two."""
    path = folder / f"{phase}-{checkpoint.epoch:05}.npz"
    groups = {
        name: {str(i): array for i, array in enumerate(group)}
        for name, group in checkpoint.arrays.items()
    }
    write_arrays(path, groups, checkpoint.state)
    for old in _find(folder, phase)[:-_KEPT]:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: Path, phase: str) -> Checkpoint | None:
    """Reads a phase's newest checkpoint, or if that is damaged, the one before."""
    for path in reversed(_find(folder, phase)):
        try:
            groups, state = load_arrays(path)
            check_type(state, _State)
        except DAMAGED as error:
            log.warning("%s is damaged (%s): the one before is used.", path, error)
            continue
        arrays = {name: list(group.values()) for name, group in groups.items()}
        return Checkpoint(int(path.stem.rpartition("-")[2]), arrays, state)
    return None


def write_arrays(path: Path, groups: Groups, state: dict[str, Any]) -> None:
    """Writes arrays and JSON values to an .npz file, completely or not at all."""
    path.parent.mkdir(exist_ok=True)
    with files.replacing(path) as partial, open(partial, "wb") as stream:
        content: dict[str, Any] = {_STATE: np.array(json.dumps(state))}
        for group, arrays in groups.items():
            content |= {f"{group}/{name}": array for name, array in arrays.items()}
        np.savez(stream, **content)


def load_arrays(path: Path) -> tuple[Groups, dict[str, Any]]:
    """Reads what `write_arrays` wrote, in order; raises one of `DAMAGED` if it is."""
    check_archive(path)
    with np.load(path, allow_pickle=False) as stored:
        arrays = dict(stored)
    state = parse_json(str(arrays.pop(_STATE)), dict)
    groups: Groups = {}
    for key, array in arrays.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = array
    return groups, state


def _find(folder: Path, phase: str) -> list[Path]:
    """A phase's checkpoints, the oldest first."""
    pattern = re.compile(rf"{re.escape(phase)}-\d+\.npz")
    return sorted(path for path in folder.glob("*.npz") if pattern.fullmatch(path.name))
