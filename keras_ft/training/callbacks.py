"""The callbacks of a phase."""

import itertools
import logging
import math
import time
from pathlib import Path

import keras

from keras_ft.config.recipe import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.errors import UserError
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host import files
from keras_ft.runs.run import Run
from keras_ft.system.team import current_team
from keras_ft.training.trained_part import TrainedPart

log = logging.getLogger("keras_ft")

HISTORY_FIELDS = (
    "phase",
    "epoch",
    "seconds",
    "learning_rate",
    "loss",
    "accuracy",
    "val_loss",
    "val_accuracy",
    "val_macro_f1",
    "val_balanced_accuracy",
    "val_calibrated_loss",
)


class Validate(keras.callbacks.Callback):
    """Adds the metrics of val to the logs of an epoch, before other callbacks see them.

    They are computed by the functions that compute metrics.json, and not by Keras. It
    also tells all callbacks the phase: their `params` have `phase` and `initial_epoch`,
    the number of epochs that are finished, above 0 in a resumed phase.
    """

    def __init__(self, part: TrainedPart, phase: str, epoch: int):
        super().__init__()
        self.part = part
        self.told = {"phase": phase, "initial_epoch": epoch}

    def set_params(self, params):
        params |= self.told  # the dict that all callbacks get
        super().set_params(params)

    def on_epoch_end(self, epoch, logs=None):
        weights = self.part.task_weights
        if len(weights) > 1:  # Keras computes the accuracy of each task only
            values = (logs[f"{task}_accuracy"] * weights[task] for task in weights)
            logs["accuracy"] = sum(values)
        logs |= self.part.measure_val()


class History(keras.callbacks.Callback):
    """Writes one row per epoch to a CSV file that all phases share.

    `keras.callbacks.CSVLogger` has no columns for the phase and the learning rate. The
    file is replaced as a whole, so that it never ends in half a row. Rows of this phase
    after its first `first_epoch` epochs are dropped: those epochs have no checkpoint
    and are repeated. An epoch in which training diverged has no row.
    """

    def __init__(self, path: Path, phase: str, first_epoch: int):
        super().__init__()
        self.path = path
        self.phase = phase
        rows = files.read_rows(path) if path.exists() else []
        self.rows = [
            row
            for row in rows
            if row["phase"] != phase or int(row["epoch"]) <= first_epoch
        ]

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(float(logs["loss"]) + logs["val_loss"]):
            return
        seconds = round(time.perf_counter() - self._start, 3)
        row = {"phase": self.phase, "epoch": epoch + 1, "seconds": seconds}
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        values = {"learning_rate": rate, **logs}
        self.rows.append(row | {name: float(value) for name, value in values.items()})
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


class Diverged(UserError):
    """Training diverged before the first epoch of a phase had ended."""


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Stops after `patience` epochs without a better `monitor`, or at divergence.

    The patience counts from the last epoch that is better than all before it and than
    `to_beat`, the model of an earlier phase; an epoch that makes progress is never the
    last. The weights of the best epoch are restored in any case.

    `auto` patience grows with the phase: one epoch of many without progress means less.
    `keras.callbacks.TerminateOnNaN` checks training batches only, and restores nothing.

    Attributes:
        diverged: Where a loss was not finite, in one sentence; empty if none was.

    Raises:
        Diverged: A loss was not finite, and no epoch has ended.
    """

    def __init__(
        self, phase: Phase, selection: SelectionConfig, to_beat: float | None = None
    ):
        super().__init__(
            monitor=selection.monitor,
            baseline=to_beat,
            mode=MONITORS[selection.monitor].direction,
            patience=selection.patience or max(3, phase.epochs // 4),
            restore_best_weights=True,
            verbose=1,
        )
        self.phase = phase.name
        self.diverged = ""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        # Workers have losses of their own, and must stop together.
        if current_team().is_alone:
            self._check(logs, "loss")

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs, "val_loss")
        if not self.diverged:
            super().on_epoch_end(epoch, logs)

    def _check(self, logs, name):
        value = float(logs[name])
        if math.isfinite(value) or self.diverged:
            return
        where = f"{name} is {value} in epoch {self.epoch} of phase {self.phase}"
        remedy = f"Lower --{self.phase}_learning_rate."
        if self.best_weights is None:
            raise Diverged(f"Training diverged: {where}. {remedy}")
        self.diverged = (
            f"Training diverged: {where}. The phase ended with its best epoch, "
            f"{self.best_epoch + 1}. {remedy}"
        )
        self.model.stop_training = True
        log.warning(self.diverged)


def make_writers(
    run: Run, phase: Phase, first_epoch: int
) -> list[keras.callbacks.Callback]:
    """What shows the progress and writes it: progress bar, history.csv, TensorBoard."""
    if not run.compute.team.is_chief:
        return []
    writers = [Progress(), History(run.paths.history, phase.name, first_epoch)]
    if run.recipe.selection.tensorboard:
        logs = str(run.paths.tensorboard / phase.name)
        writers.append(keras.callbacks.TensorBoard(logs))
    return writers
