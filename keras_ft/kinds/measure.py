"""Metrics of tasks of any kind, and their means.

All functions take targets, with or without examples that are not labelled.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_ft.evaluation.split_metrics import Averages
from keras_ft.kinds.task import Task


def measure(
    task: Task, target: np.ndarray, probabilities: np.ndarray, intervals: bool = False
) -> Any:
    """Computes `SplitMetrics` or `MultilabelMetrics` on the labelled examples."""
    labelled = task.kind.is_labelled(target)
    labels, probabilities = target[labelled], probabilities[labelled]
    metrics: Any = task.kind.measure(task, labels, probabilities)
    if intervals:
        metrics |= task.kind.compute_intervals(task, labels, probabilities)
    return metrics


def summarize(task: Task, target: np.ndarray, probabilities: np.ndarray) -> Averages:
    """Computes only those of the metrics that all tasks have, which is fast."""
    labelled = task.kind.is_labelled(target)
    return task.kind.summarize(task, target[labelled], probabilities[labelled])


def average(by_task: Mapping[str, Any], weights: Mapping[str, float]) -> Averages:
    """Means over the tasks of what metrics have in common; the weights add up to 1."""
    return {  # type: ignore[return-value]
        key: sum(weights[name] * metrics[key] for name, metrics in by_task.items())
        for key in Averages.__annotations__
    }
