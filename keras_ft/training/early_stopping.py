"""When a phase ends, and which of its epochs are kept."""

import dataclasses
import logging
import math

import keras
import numpy as np

from keras_ft.config.recipe import Phase
from keras_ft.config.schema import SelectionConfig
from keras_ft.errors import UserError
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.system.team import current_team

log = logging.getLogger("keras_ft")


class Diverged(UserError):
    """Training diverged before the first epoch of a phase had ended."""


@dataclasses.dataclass(frozen=True)
class GoodEpoch:
    """An epoch, from 0, its monitored value, and all weights of the network."""

    epoch: int
    value: float
    weights: list[np.ndarray]


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Stops after `patience` epochs without a better `monitor`, or at divergence.

    The patience counts from the last epoch that is better than all before it and than
    `to_beat`, the model of an earlier phase; an epoch that makes progress is never the
    last. The weights of the best epoch are restored in any case.

    `auto` patience grows with the phase: one epoch of many without progress means less.
    In a phase that trains the backbone, it counts from the middle of the schedule: at
    its highest rates, the network is worse than at its start, and what it has learned
    shows when the rate falls.
    `keras.callbacks.TerminateOnNaN` checks training batches only, and restores nothing.

    Args:
        phase: What is trained.
        selection: What is monitored.
        to_beat: The monitored value of an earlier phase.
        num_kept: How many of the best epochs are kept.

    Attributes:
        kept: The best epochs, the best one first.
        diverged: Where a loss was not finite, in one sentence; empty if none was.

    Raises:
        Diverged: A loss was not finite, and no epoch has ended.
    """

    def __init__(
        self,
        phase: Phase,
        selection: SelectionConfig,
        to_beat: float | None = None,
        num_kept: int = 1,
    ):
        self.metric = MONITORS[selection.monitor]
        super().__init__(
            monitor=self.metric.name,
            baseline=to_beat,
            mode=self.metric.direction,
            patience=selection.patience or max(3, phase.epochs // 4),
            restore_best_weights=True,
        )
        is_auto = selection.patience is None
        self.first = phase.epochs // 2 if is_auto and phase.stages else 0
        self.phase = phase.name
        self.num_kept = num_kept
        self.kept: list[GoodEpoch] = []
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
            if epoch <= self.first:
                self.wait = 0
            super().on_epoch_end(epoch, logs)
            self._keep(epoch, float(logs[self.monitor]))

    def _keep(self, epoch, value):
        better = [e for e in self.kept if not self.metric.is_better(value, e.value)]
        if len(better) < self.num_kept:
            is_best = self.best_epoch == epoch  # whose weights Keras has copied
            weights = self.best_weights if is_best else self.model.get_weights()
            worse = self.kept[len(better) :]
            kept = [*better, GoodEpoch(epoch, value, weights), *worse]
            self.kept = kept[: self.num_kept]

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if not self.diverged:
            log.info(
                "The best epoch of phase %s is %d, with %s %s.",
                self.phase,
                self.best_epoch + 1,
                self.monitor,
                self.metric.format(self.best),
            )

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
