"""The result of a finished phase, kept until its run has finished."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from keras_ft.config.phases import Phase
from keras_ft.kinds.task import Task
from keras_ft.runs.paths import RunPaths
from keras_ft.training.checkpoint import DAMAGED, load_arrays, write_arrays

log = logging.getLogger("keras_ft")

# float32 [N, K] for each task
Probabilities = dict[str, np.ndarray]


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
        probabilities: Of that epoch's model in float32, by split: val and test.
    """

    name: str
    epoch: int
    epochs: int
    seconds: float
    features_seconds: float
    monitored: float
    probabilities: dict[str, Probabilities]


def write_result(paths: RunPaths, result: PhaseResult) -> None:
    """Writes the result of a finished phase to the checkpoints."""
    state = dataclasses.asdict(result)
    arrays = {
        f"{split}/{task}": of_task
        for split, probabilities in state.pop("probabilities").items()
        for task, of_task in probabilities.items()
    }
    write_arrays(paths.checkpoints / f"{result.name}.npz", arrays, state)


def load_result(
    paths: RunPaths, phase: Phase, tasks: Sequence[Task]
) -> PhaseResult | None:
    """Reads a phase's result; None if it has not finished or the file is damaged."""
    path = paths.checkpoints / f"{phase.name}.npz"
    if not path.exists():
        return None
    try:
        arrays, state = load_arrays(path)
    except DAMAGED as error:
        log.warning("%s is damaged (%s): phase %s repeats.", path, error, phase.name)
        return None
    probabilities: dict[str, Probabilities] = {}
    for key, of_task in arrays.items():
        split, _, task = key.partition("/")
        # Earlier versions had one task and did not name it.
        probabilities.setdefault(split, {})[task or tasks[0].name] = of_task
    return PhaseResult(probabilities=probabilities, **state)
