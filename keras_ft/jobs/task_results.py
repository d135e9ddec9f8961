"""The results of each task: calibration and metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.kinds.calibration import Calibrated, calibrate
from keras_ft.kinds.measure import measure
from keras_ft.kinds.task import Task
from keras_ft.models.heads import set_temperatures
from keras_ft.runs.run_metrics import Calibration, TaskResults
from keras_ft.training.phase_result import PhaseResult

# The calibrated probabilities of each task, by its name.
CalibratedTasks = Mapping[str, Calibrated]


def calibrate_tasks(examples: Examples, result: PhaseResult) -> CalibratedTasks:
    """Calibrates the probabilities of a phase's best epoch, each task by itself."""
    val = examples.val
    return {
        task.name: calibrate(
            task, target, {s: p[task.name] for s, p in result.probabilities.items()}
        )
        for task, target in zip(val.tasks, val.targets, strict=True)
    }


def calibrate_model(model: keras.Model, calibrated: CalibratedTasks) -> keras.Model:
    """The model whose probabilities are the calibrated ones; it shares layers."""
    temperatures = {name: c.temperature for name, c in calibrated.items()}
    return set_temperatures(model, tasks_of(calibrated), temperatures)


def tasks_of(calibrated: CalibratedTasks) -> tuple[Task, ...]:
    """The tasks, with the thresholds of their kind."""
    return tuple(of_task.task for of_task in calibrated.values())


def compute_task_metrics(
    examples: Examples,
    results: Sequence[PhaseResult],
    best: PhaseResult,
    calibrated: CalibratedTasks,
) -> dict[str, TaskResults]:
    """The results of each task, by its name.

    Args:
        examples: The examples in their splits.
        results: The phases' results.
        best: The result of the best phase.
        calibrated: Its calibrated probabilities.
    """
    return {
        name: _compute_results(examples, results, best, of_task)
        for name, of_task in calibrated.items()
    }


def _compute_results(
    examples: Examples,
    results: Sequence[PhaseResult],
    best: PhaseResult,
    calibrated: Calibrated,
) -> TaskResults:
    task = calibrated.task
    of_task = examples.by_task[task.name]
    splits = {
        name: examples.split(name).target_of(task.name) for name in ("val", "test")
    }
    metrics: Any = {
        "kind": task.kind.name,
        "class_names": list(task.class_names),
        "num_examples": {name: len(of_task.split(name)) for name in SPLIT_NAMES},
    }
    for name, target in splits.items():
        probabilities = calibrated.probabilities[name]
        metrics[name] = measure(task, target, probabilities, intervals=True)
    # Thresholds are chosen for calibrated probabilities.
    uncalibrated = of_task.task
    phases = {
        result.name: {
            name: measure(uncalibrated, target, result.probabilities[name][task.name])
            for name, target in splits.items()
        }
        for result in results
    }
    if len(examples.tasks) > 1:
        # Of dozens of tasks, they would make metrics.json several times as large.
        for phase in phases.values():
            for of_split in phase.values():
                of_split.pop("confusion_matrix", None)
    metrics["calibration"] = _describe_calibration(calibrated, phases[best.name])
    threshold = task.kind.find_threshold(task, splits, calibrated.probabilities)
    if threshold:
        metrics["threshold"] = threshold
    return metrics | {"phases": phases}


def _describe_calibration(
    calibrated: Calibrated, phase: Mapping[str, Any]
) -> Calibration:
    before = {
        split: {key: phase[split][key] for key in ("loss", "ece")}
        for split in ("val", "test")
    }
    return {
        "temperature": calibrated.temperature,
        "fitted_on": "val",
        "reason": calibrated.reason,
        "before": before,
    }
