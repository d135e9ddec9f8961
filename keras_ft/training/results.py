"""The results of the phases -> metrics.json."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_ft.audit.findings import count_findings
from keras_ft.catalog.backbones import TERMS
from keras_ft.data.examples import SPLIT_NAMES, Dataset, Examples
from keras_ft.kinds.calibration import Calibrated
from keras_ft.kinds.measure import average, measure
from keras_ft.kinds.task import is_plain
from keras_ft.runs.run import Run
from keras_ft.runs.run_metrics import (
    Calibration,
    RunMetrics,
    TaskResults,
    Threshold,
)
from keras_ft.training.phase_result import PhaseResult

# What metrics.json has at the top if there is one task with one class per image.
_OF_ONE_TASK = ("class_names", "val", "test", "calibration", "threshold")


def compute_metrics(
    run: Run, dataset: Dataset, results: Sequence[PhaseResult], best: PhaseResult
) -> RunMetrics:
    """Computes the content of metrics.json, except for exports and durations."""
    examples, weights = dataset.examples, run.record.weights
    task_weights = run.recipe.train.weigh(task.name for task in examples.tasks)
    tasks = {
        name: _compute_results(examples, results, best, calibrated)
        for name, calibrated in best.calibrated.items()
    }

    def summarize(by_task: Mapping[str, Any]) -> dict[str, Any]:
        """What is said of all tasks: means, or everything if there is one."""
        if is_plain(examples.tasks):
            only = by_task[examples.task.name]
            return {key: only[key] for key in _OF_ONE_TASK if key in only}
        return {
            split: average({n: t[split] for n, t in by_task.items()}, task_weights)
            for split in ("val", "test")
        }

    no_examples = dict.fromkeys((*SPLIT_NAMES, "skipped"), 0)
    metrics: Any = {
        "num_examples": no_examples | collections.Counter(examples.splits),
        "audit": count_findings(dataset.findings),
        "warnings": [*run.warnings, *(r.diverged for r in results if r.diverged)],
        "weights_used": weights.used,
        "weights_origin": weights.origin,
        "weights_terms": TERMS.get(weights.origin, ""),
        "weights_attempts": list(weights.attempts),
        "best_phase": best.name,
        "best_epoch": best.epoch,
        "monitor": run.recipe.selection.monitor,
        **summarize(tasks),
    }
    metrics["phases"] = {
        result.name: {
            **_describe_phase(run, len(examples.train), result),
            **summarize({n: t["phases"][result.name] for n, t in tasks.items()}),
        }
        for result in results
    }
    if run.recipe.data.label_columns:
        metrics["tasks"] = tasks
    return metrics


def _describe_phase(run: Run, num_train: int, result: PhaseResult) -> dict[str, Any]:
    per_epoch = run.recipe.steps_per_epoch(num_train) * run.recipe.data.batch_size
    seen = min(per_epoch, num_train) * result.epochs
    return {
        "seconds": result.seconds,
        "epochs": result.epochs,
        "best_epoch": result.epoch,
        "images_per_second": seen / result.seconds,
        "monitored": result.monitored,
        "averaged_epochs": list(result.averaged),
        "solved": result.solved,
        "gain": result.gain,
        "standard_error": result.standard_error,
    }


def _compute_results(
    examples: Examples,
    results: Sequence[PhaseResult],
    best: PhaseResult,
    calibrated: Calibrated,
) -> TaskResults:
    task = calibrated.task
    of_task = examples.by_task[task.name]
    splits = {n: examples.split(n).target_of(task.name) for n in ("val", "test")}
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
    calibration: Calibration = {
        "temperature": calibrated.temperature,
        "fitted_on": "val",
        "reason": calibrated.reason,
        "before": {
            split: {key: phases[best.name][split][key] for key in ("loss", "ece")}
            for split in splits
        },
    }
    metrics["calibration"] = calibration
    if calibrated.thresholds.values:
        metrics["threshold"] = _compare_thresholds(calibrated, splits["test"])
    return metrics | {"phases": phases}


def _compare_thresholds(calibrated: Calibrated, test_target: np.ndarray) -> Threshold:
    task, chosen = calibrated.task, calibrated.thresholds
    labelled = task.kind.is_labelled(test_target)
    labels = test_target[labelled]
    probabilities = calibrated.probabilities["test"][labelled]
    threshold: Any = {
        "reason": chosen.reason,
        "in_use": task.kind.decides_by_thresholds,
        **task.kind.compare_thresholds(task, chosen, labels, probabilities),
    }
    return threshold
