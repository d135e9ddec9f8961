"""The callback list of a phase."""

import csv
import math
import time
from pathlib import Path

import keras

from keras_ft.config import Phase, SelectionConfig, UserError

MONITOR_MODE = {
    "val_loss": "min",
    "val_accuracy": "max",
    "val_macro_f1": "max",
    "val_balanced_accuracy": "max",
}
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
)


class History(keras.callbacks.Callback):
    """Appends one row per epoch to a CSV file that all phases share.

    `keras.callbacks.CSVLogger` knows neither the phase nor the learning rate.

    Args:
        path: The file; a header is written where there is none yet.
        phase: Name of the phase.
    """

    def __init__(self, path: Path, phase: str):
        super().__init__()
        self.path = path
        self.phase = phase

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
        row |= {name: float(value) for name, value in logs.items()}
        is_new = not self.path.exists()
        with open(self.path, "a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, HISTORY_FIELDS, extrasaction="ignore")
            if is_new:
                writer.writeheader()
            writer.writerow(row)


class StopOnNaN(keras.callbacks.Callback):
    """Ends the run when a loss is no longer a finite number.

    `keras.callbacks.TerminateOnNaN` looks at training batches only and its error
    names no remedy.

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


def make_early_stopping(
    phase: Phase, selection: SelectionConfig
) -> keras.callbacks.EarlyStopping:
    """Stops after `patience` epochs without a better `monitor`; restores the best.

    Where patience is `auto` it grows with the phase: of many short epochs, one without
    progress says less.
    """
    return keras.callbacks.EarlyStopping(
        monitor=selection.monitor,
        mode=MONITOR_MODE[selection.monitor],
        patience=selection.patience or max(3, phase.epochs // 4),
        restore_best_weights=True,
        verbose=1,
    )


def make_callbacks(
    phase: Phase, selection: SelectionConfig, workdir: Path
) -> list[keras.callbacks.Callback]:
    """Callbacks of one phase, in the order in which they must run.

    Args:
        phase: The phase.
        selection: `monitor`, `patience`, `tensorboard`.
        workdir: Where history.csv and TensorBoard's logs go.

    Returns:
        NaN check, history, early stopping, and TensorBoard if asked for.
    """
    callbacks = [
        StopOnNaN(phase.name),
        History(workdir / "history.csv", phase.name),
        make_early_stopping(phase, selection),
    ]
    if selection.tensorboard:
        logs = str(workdir / "tensorboard" / phase.name)
        callbacks.append(keras.callbacks.TensorBoard(logs))
    return callbacks
