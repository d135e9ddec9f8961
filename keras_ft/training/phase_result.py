"""The result of a finished phase: in memory, and in `WORKDIR/checkpoints`."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_ft.data.examples import Examples
from keras_ft.evaluation.monitor import replaces
from keras_ft.host.typed_json import check_type
from keras_ft.kinds.calibration import Calibrated
from keras_ft.kinds.calibration import calibrate as calibrate_task
from keras_ft.kinds.task import Task
from keras_ft.runs.paths import RunPaths
from keras_ft.training.checkpoint import DAMAGED, load_arrays, write_arrays

log = logging.getLogger("keras_ft")

# float32 [N, K] for each task
Probabilities = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PhaseResult:
    """A phase's best epoch, or the mean of its best ones.

    Attributes:
        name: `head` or `finetune`.
        epoch: The best of the `epochs` that were trained, from 1.
        seconds: Duration, the predictions for val and test included.
        features_seconds: Part of it spent on computing or finding cached features.
        probabilities: Of that epoch's model in float32, by split: val and test.
        calibrated: The same, calibrated on val, by task.
        averaged: The epochs whose mean its weights are, from 1.
        solved: Whether its heads were solved, so that no epoch has them.
        gain: By how much it is better on val than the best phase before it, in the
            monitored metric; positive is better. None of the first phase.
        standard_error: Of the gain, over the images of val.
        diverged: How training diverged, after this epoch or in the next phase; empty if
            it did not.
    """

    name: str
    epoch: int
    epochs: int
    seconds: float
    features_seconds: float
    monitored: float
    probabilities: dict[str, Probabilities]
    calibrated: Mapping[str, Calibrated]
    averaged: tuple[int, ...] = ()
    solved: bool = False
    gain: float | None = None
    standard_error: float | None = None
    diverged: str = ""

    @property
    def is_chosen(self) -> bool:
        """Whether it replaces the phases before it, if there are any."""
        if self.gain is None or self.standard_error is None:
            return True
        return replaces(self.gain, self.standard_error)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, with the thresholds that were chosen on val."""
        return tuple(of_task.task for of_task in self.calibrated.values())


def calibrate(
    val: Examples, probabilities: Mapping[str, Probabilities]
) -> dict[str, Calibrated]:
    """Calibrates the probabilities of each task, by split, on val."""
    return {
        task.name: calibrate_task(
            task, target, {split: p[task.name] for split, p in probabilities.items()}
        )
        for task, target in zip(val.tasks, val.targets, strict=True)
    }


def write_result(paths: RunPaths, result: PhaseResult) -> None:
    """Writes the result of a finished phase to the checkpoints."""
    state = {**vars(result)}
    del state["calibrated"]
    write_arrays(_path(paths, result.name), state.pop("probabilities"), state)


def load_result(paths: RunPaths, phase: str, val: Examples) -> PhaseResult | None:
    """Reads a phase's result; None if it has not finished or the file is damaged."""
    path = _path(paths, phase)
    if not path.exists():
        return None
    try:
        probabilities, state = load_arrays(path)
        check_type(state, PhaseResult)
        # An earlier version kept the heads of the best epoch beside them.
        state.setdefault("solved", bool(probabilities.pop("trained_heads", None)))
        state["averaged"] = tuple(state.get("averaged", ()))
        return PhaseResult(
            probabilities=probabilities,
            calibrated=calibrate(val, probabilities),
            **state,
        )
    except (*DAMAGED, TypeError) as error:
        log.warning("%s is damaged (%s): phase %s repeats.", path, error, phase)
        return None


def remove_result(paths: RunPaths, phase: str) -> None:
    """Removes a phase's result, if there is one."""
    _path(paths, phase).unlink(missing_ok=True)


def _path(paths: RunPaths, phase: str) -> Path:
    return paths.checkpoints / f"{phase}.npz"
