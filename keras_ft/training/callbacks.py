"""The callback list of a phase."""

import itertools
import math
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_ft.config.phases import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.errors import UserError
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host import files
from keras_ft.runs.paths import RunPaths
from keras_ft.training.checkpoint import Checkpoint, CheckpointWriter

HISTORY_FIELDS = (
    "phase",
    "epoch",
    "seconds",
    "learning_rate",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "macro_f1",
    "balanced_accuracy",
    "val_macro_f1",
    "val_balanced_accuracy",
    "calibrated_loss",
    "val_calibrated_loss",
)


class History(keras.callbacks.Callback):
    """Writes one row per epoch to a CSV file that all phases share.

    `keras.callbacks.CSVLogger` has no columns for the phase and the learning rate. The
    file is replaced as a whole, so that it never ends in half a row.

    Args:
        path: The file. Rows of later epochs of this phase are dropped: those epochs
            have no checkpoint and are repeated.
        phase: Name of the phase.
        epochs: Number of epochs of the phase that are finished.
    """

    def __init__(self, path: Path, phase: str, epochs: int):
        super().__init__()
        self.path = path
        self.phase = phase
        rows = files.read_rows(path) if path.exists() else []
        self.rows = [
            row for row in rows if row["phase"] != phase or int(row["epoch"]) <= epochs
        ]
        self.epochs = epochs

    def set_params(self, params):
        super().set_params(params)
        # All callbacks share the dict: it tells those of the user's what they are in.
        params |= {"phase": self.phase, "initial_epoch": self.epochs}

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        row = {
            "phase": self.phase,
            "epoch": epoch + 1,
            "seconds": round(time.perf_counter() - self._start, 3),
            "learning_rate": float(
                keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
            ),
        }
        self.rows.append(row | {name: float(value) for name, value in logs.items()})
        of_tasks = sorted(set(logs) - set(HISTORY_FIELDS))  # if there are several
        fields = (*HISTORY_FIELDS, *of_tasks)
        # Rows of a run that an earlier version began lack columns.
        rows = ([row.get(field, "") for field in fields] for row in self.rows)
        files.write_csv(self.path, itertools.chain([fields], rows))


class Progress(keras.callbacks.ProgbarLogger):
    """Keras's progress bar, without the metrics of single tasks: they may be dozens."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, _without_tasks(logs))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, _without_tasks(logs))


def _without_tasks(logs):
    return {name: value for name, value in logs.items() if name in HISTORY_FIELDS}


class StopOnNaN(keras.callbacks.Callback):
    """Ends the run when a loss is no longer a finite number.

    `keras.callbacks.TerminateOnNaN` checks training batches only, and its error
    suggests no remedy.

    Args:
        phase: Name of the phase.

    Raises:
        UserError: At the end of the batch or epoch in which it happens.
    """

    def __init__(self, phase: str):
        super().__init__()
        self.phase = phase
        self.epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        self._check("loss", logs)

    def on_epoch_end(self, epoch, logs=None):
        self._check("val_loss", logs)

    def _check(self, name, logs):
        value = float(logs[name])
        if not math.isfinite(value):
            raise UserError(
                f"Training diverged: {name} is {value} in epoch {self.epoch} of phase "
                f"{self.phase}. Lower --{self.phase}_learning_rate."
            )


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Stops after `patience` epochs without a better `monitor`; restores the best.

    Keras's own, with a state that another process can restore.
    """

    _STATE = ("best", "best_epoch", "wait", "stopped_epoch")

    def get_state(self) -> dict[str, float]:
        """All but the best weights, as JSON values."""
        return {name: float(getattr(self, name)) for name in self._STATE}

    def set_state(
        self, state: dict[str, float], best_weights: list[np.ndarray]
    ) -> None:
        """Restores a state; call it after training has started."""
        self.best = state["best"]
        for name in self._STATE[1:]:
            setattr(self, name, int(state[name]))
        self.best_weights = best_weights


class KeepCheckpoints(keras.callbacks.Callback):
    """Writes checkpoints after epochs, from which another process can resume.

    An epoch that ends while one is being written has none, except the last: writing
    takes longer than a short epoch.

    Must come after early stopping, whose state is part of the checkpoint.
    `keras.callbacks.BackupAndRestore` saves neither that state nor the best weights.

    Args:
        writer: Writes the checkpoints of the phase.
        stopping: The phase's early stopping.
        saved: The checkpoint to resume from, if any.
    """

    def __init__(
        self,
        writer: CheckpointWriter,
        stopping: EarlyStopping,
        saved: Checkpoint | None,
    ):
        super().__init__()
        self.writer = writer
        self.stopping = stopping
        self.saved = saved

    def on_train_begin(self, logs=None):
        self._start = time.perf_counter()
        self._before = self.saved.state["seconds"] if self.saved else 0.0
        if self.saved:
            state = self.saved.state
            # A phase that had stopped is resumed only if more epochs are requested.
            wait = {"wait": 0} if state["stopped"] else {}
            # Without weights of their own, the best epoch is that of the checkpoint.
            best = self.saved.arrays.get("best") or self.model.get_weights()
            self.stopping.set_state(state | wait, best)

    def on_epoch_end(self, epoch, logs=None):
        is_last = self.model.stop_training or epoch + 1 == self.params["epochs"]
        if self.writer.is_busy and not is_last:
            return
        state = {
            **self.stopping.get_state(),
            "seconds": self._before + time.perf_counter() - self._start,
            "stopped": self.model.stop_training,
            "epochs": self.params["epochs"],
        }
        arrays = {
            "model": _read(self.model.variables),
            "optimizer": _read(self.model.optimizer.variables),
        }
        if self.stopping.best_epoch != epoch:
            arrays["best"] = self.stopping.best_weights
        self.writer.write(Checkpoint(epoch + 1, arrays, state))


def _read(variables):
    """The values of variables on this worker, without asking the others.

    They are the same everywhere, but for those of metrics, which each epoch resets.
    """
    strategy = tf.distribute.get_strategy()
    return [strategy.experimental_local_results(v.value)[0].numpy() for v in variables]


# The callbacks that every worker must run; the others write, or show progress.
COMMON = (StopOnNaN, EarlyStopping)


def make_early_stopping(phase: Phase, selection: SelectionConfig) -> EarlyStopping:
    """Early stopping of a phase.

    If patience is `auto`, it grows with the phase: one epoch of many without progress
    means less.
    """
    return EarlyStopping(
        monitor=selection.monitor,
        mode=MONITORS[selection.monitor].direction,
        patience=selection.patience or max(3, phase.epochs // 4),
        restore_best_weights=True,
        verbose=1,
    )


def make_callbacks(
    phase: Phase,
    selection: SelectionConfig,
    paths: RunPaths,
    saved: Checkpoint | None,
    writer: CheckpointWriter,
) -> list[keras.callbacks.Callback]:
    """Callbacks of one phase, in the order in which they must run.

    Args:
        phase: The phase.
        selection: `monitor`, `patience`, `tensorboard`.
        paths: The files of the workdir.
        saved: The checkpoint to resume from, if any.
        writer: Writes the checkpoints of the phase.

    Returns:
        Progress, NaN check, history, early stopping, checkpoints, and TensorBoard if
        requested.
    """
    stopping = make_early_stopping(phase, selection)
    callbacks = [
        Progress(),
        StopOnNaN(phase.name),
        History(paths.history, phase.name, saved.epoch if saved else 0),
        stopping,
        KeepCheckpoints(writer, stopping, saved),
    ]
    if selection.tensorboard:
        logs = str(paths.tensorboard / phase.name)
        callbacks.append(keras.callbacks.TensorBoard(logs))
    return callbacks
