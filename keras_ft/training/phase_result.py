"""The result of a finished phase, kept until its run has finished."""

import dataclasses
import logging

import numpy as np

from keras_ft.config.phases import Phase
from keras_ft.runs.paths import RunPaths
from keras_ft.training.checkpoint import DAMAGED, load_arrays, write_arrays

log = logging.getLogger("keras_ft")


@dataclasses.dataclass(frozen=True)
class PhaseResult:
    """A phase's best epoch.

    Attributes:
        name: `head` or `finetune`.
        epoch: The best epoch, from 1.
        epochs: Number of epochs that were trained.
        seconds: Duration, the predictions for val and test included.
        features_seconds: Part of it spent on computing or finding cached features.
        monitored: Best value of `--monitor`.
        probabilities: float32 [N, K] of that epoch's model in float32, by split: val
            and test.
    """

    name: str
    epoch: int
    epochs: int
    seconds: float
    features_seconds: float
    monitored: float
    probabilities: dict[str, np.ndarray]


def write_result(paths: RunPaths, result: PhaseResult) -> None:
    """Writes the result of a finished phase to the checkpoints."""
    state = dataclasses.asdict(result)
    arrays = state.pop("probabilities")
    write_arrays(paths.checkpoints / f"{result.name}.npz", arrays, state)


def load_result(paths: RunPaths, phase: Phase) -> PhaseResult | None:
    """Reads a phase's result; None if it has not finished or the file is damaged."""
    path = paths.checkpoints / f"{phase.name}.npz"
    if not path.exists():
        return None
    try:
        arrays, state = load_arrays(path)
    except DAMAGED as error:
        log.warning("%s is damaged (%s): phase %s repeats.", path, error, phase.name)
        return None
    return PhaseResult(probabilities=arrays, **state)
