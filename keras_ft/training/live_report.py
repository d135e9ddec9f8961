"""report.html while a phase trains: the curves and the epochs so far."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host import files
from keras_ft.report import live_page
from keras_ft.runs.run import Run

log = logging.getLogger("keras_ft")

# Between two pages at least, in seconds; and how often the time that one took.
_PAUSE, _TIMES = 2.0, 10


class LiveReport(keras.callbacks.Callback):
    """Writes a page that reloads itself, until the report takes its place.

    It takes at most a tenth of the time, so short epochs do without. A page that can't
    be written is no reason to end the training.
    """

    def __init__(self, run: Run, phase: str, rows: Sequence[Mapping[str, Any]]):
        """`rows` are those of history.csv, to which a callback before this one adds."""
        super().__init__()
        self._run, self._phase, self._rows = run, phase, rows
        self._due = 0.0  # when to write again

    def on_train_begin(self, logs=None):
        self._write()

    def on_epoch_end(self, epoch, logs=None):
        if time.perf_counter() >= self._due:
            self._write()

    def on_train_end(self, logs=None):
        self._write()

    def _write(self) -> None:
        if self._due == math.inf:
            return
        begin = time.perf_counter()
        try:
            files.write_text(self._run.paths.report, self._render())
        except Exception as error:
            log.warning("report.html can't be written while training: %s", error)
            self._due = math.inf
        else:
            end = time.perf_counter()
            self._due = end + max(_PAUSE, _TIMES * (end - begin))

    def _render(self) -> str:
        recipe, paths = self._run.recipe, self._run.paths
        done = sum(row["phase"] == self._phase for row in self._rows)
        return live_page.render(
            paths.folder.resolve().name,
            recipe.data.data,
            self._phase,
            (done, self.params["epochs"]),
            self._rows,
            MONITORS[recipe.selection.monitor],
        )
