"""The callbacks of a phase."""

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import tqdm

from keras_ft.config.recipe import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host import files
from keras_ft.host.progress import make_bar, show
from keras_ft.runs.run import Run
from keras_ft.training.live_report import LiveReport
from keras_ft.training.trained_part import TrainedPart

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
        self.seconds = round(time.perf_counter() - self._start, 3)
        if not math.isfinite(float(logs["loss"]) + logs["val_loss"]):
            return
        row = {"phase": self.phase, "epoch": epoch + 1, "seconds": self.seconds}
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        values = {"learning_rate": rate, **logs}
        self.rows.append(row | {name: float(value) for name, value in values.items()})
        of_tasks = sorted(set(logs) - set(HISTORY_FIELDS))  # if there are several
        fields = (*HISTORY_FIELDS, *of_tasks)
        # Rows of a run that an earlier version began lack columns.
        rows = ([row.get(field, "") for field in fields] for row in self.rows)
        files.write_csv(self.path, itertools.chain([fields], rows))


class EpochTable(keras.callbacks.Callback):
    """Shows a row per epoch; on a terminal, while an epoch lasts, a bar below them.

    The best value is that of the phase so far, the time left is that of the phase if it
    is not stopped early. Single tasks, of which there may be dozens, have no columns.
    """

    def __init__(self, history: History, selection: SelectionConfig):
        super().__init__()
        self.history = history  # comes before in the list of callbacks
        self.monitor = MONITORS[selection.monitor]
        self.shown = {"loss": ("loss", 4), "accuracy": ("acc.", 3)}
        self.shown["val_accuracy"] = ("val acc.", 3)
        self.shown.pop(self.monitor.name, None)  # last, next to the best
        title = self.monitor.name.replace("_", " ").replace("accuracy", "acc.")
        self.shown[self.monitor.name] = (title, self.monitor.digits)
        self.widths = [max(len(title), 6) for title, _ in self.shown.values()]

    def on_train_begin(self, logs=None):
        titles = [title for title, _ in self.shown.values()]
        show(self._to_row("", "epoch", [*titles, "best"], "left"))

    def on_epoch_begin(self, epoch, logs=None):
        steps, epochs = self.params["steps"], self.params["epochs"]
        title = f"{self.history.phase} {epoch + 1}/{epochs}"
        self._bar = make_bar(title, steps * epochs, "step", steps * epoch)

    def on_train_batch_end(self, batch, logs=None):
        if not self._bar.disable:
            loss = f"loss {_to_text(logs['loss'], 4)}"
            best = self._find_best()
            self._bar.set_postfix_str(f"{loss}, best {best}", refresh=False)
            self._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self._bar.close()  # callbacks of the user may print
        epochs = self.params["epochs"]
        left = self.history.seconds * (epochs - epoch - 1)
        # Of an epoch that has diverged, val has few values.
        values = [
            _to_text(logs.get(name, math.nan), digits)
            for name, (_, digits) in self.shown.items()
        ]
        left = tqdm.tqdm.format_interval(left).removeprefix("0")
        number = f"{epoch + 1}/{epochs}"
        show(
            self._to_row(self.history.phase, number, [*values, self._find_best()], left)
        )

    def _to_row(self, phase: str, epoch: str, values: Sequence[str], left: str) -> str:
        cells = zip(values, [*self.widths, 6], strict=True)
        middle = "".join(f"  {value:>{width}}" for value, width in cells)
        return f"{phase:8} {epoch:>6}{middle}  {left:>7}"

    def _find_best(self) -> str:
        rows = (row for row in self.history.rows if row["phase"] == self.history.phase)
        values = [float(row[self.monitor.name]) for row in rows]
        best = self.monitor.find_best(values) if values else None
        return "-" if best is None else _to_text(best, self.monitor.digits)


def _to_text(value: float, digits: int) -> str:
    """A number in six characters, or few more."""
    value = float(value)
    text = f"{value:.{digits}f}"[:6].rstrip(".")
    return text if abs(value) < 1e6 or not math.isfinite(value) else f"{value:.0e}"


def make_writers(
    run: Run, phase: Phase, first_epoch: int
) -> list[keras.callbacks.Callback]:
    """What writes and shows the progress: history.csv, a table, a page, TensorBoard."""
    if not run.compute.team.is_chief:
        return []
    history = History(run.paths.history, phase.name, first_epoch)
    writers = [history, EpochTable(history, run.recipe.selection)]
    if run.recipe.export.report:
        writers.append(LiveReport(run, phase.name, history.rows))
    if run.recipe.selection.tensorboard:
        logs = str(run.paths.tensorboard / phase.name)
        writers.append(keras.callbacks.TensorBoard(logs))
    return writers
