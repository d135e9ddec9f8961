"""By how much a phase is better than another one, and how sure that is.

Val often has less than a hundred images, and then differs by chance by more than phases
do. Both phases answer the same images, so their difference varies less than either.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_ft.data.examples import Examples
from keras_ft.evaluation.monitor import Monitor
from keras_ft.kinds.measure import average, summarize
from keras_ft.training.phase_result import PhaseResult

_SAMPLES = 200


def compare(
    result: PhaseResult,
    before: PhaseResult,
    val: Examples,
    monitor: Monitor,
    task_weights: Mapping[str, float],
) -> PhaseResult:
    """Returns the result with its gain over an earlier phase.

    The standard error is that of a paired bootstrap over the images of val (Efron and
    Tibshirani, 1993, chapter 6): both phases are measured on the same 200 samples.
    """
    rng = np.random.default_rng(0)
    everything = np.arange(len(val))

    def gain(rows: np.ndarray) -> float:
        values = [
            _measure(phase, val, rows, monitor, task_weights)
            for phase in (before, result)
        ]
        return monitor.gain(*values)

    with warnings.catch_warnings():
        # A sample may lack the labels of a task.
        warnings.simplefilter("ignore", RuntimeWarning)
        samples = [gain(rng.choice(everything, len(val))) for _ in range(_SAMPLES)]
        standard_error = float(np.nanstd(samples))
    return dataclasses.replace(
        result, gain=gain(everything), standard_error=standard_error
    )


def _measure(
    result: PhaseResult,
    val: Examples,
    rows: np.ndarray,
    monitor: Monitor,
    task_weights: Mapping[str, float],
) -> float:
    """The monitored metric of a phase on some of the images of val."""
    by_task: dict[str, Any] = {}
    for task, target in zip(val.tasks, val.targets, strict=True):
        probabilities = result.probabilities["val"][task.name]
        if monitor.is_calibrated:
            probabilities = result.calibrated[task.name].probabilities["val"]
        by_task[task.name] = summarize(task, target[rows], probabilities[rows])
    values: Any = average(by_task, task_weights)
    return values[monitor.key]
