"""Metrics of tasks of either kind, and their means."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_ft.evaluation import multiclass_metrics as multiclass
from keras_ft.evaluation import multilabel_metrics
from keras_ft.evaluation.split_metrics import Averages
from keras_ft.tasks import Task, is_labelled


def measure(
    task: Task, target: np.ndarray, probabilities: np.ndarray, intervals: bool = False
) -> Any:
    """Computes the metrics of a task on the examples that are labelled for it.

    Args:
        task: The task.
        target: The labels, see `is_labelled`; at least one example is labelled.
        probabilities: float [N, K].
        intervals: Whether to add confidence intervals. Defaults to False.

    Returns:
        `SplitMetrics`, or `MultilabelMetrics` of a multilabel task.
    """
    labelled = is_labelled(target)
    labels, probabilities = target[labelled], probabilities[labelled]
    if task.is_multilabel:
        metrics: Any = multilabel_metrics.compute_metrics(task, labels, probabilities)
        if intervals:
            metrics |= multilabel_metrics.confidence_intervals(
                task, labels, probabilities
            )
        return metrics
    metrics = multiclass.compute_metrics(labels, probabilities, task.class_names)
    if intervals:
        metrics |= multiclass.confidence_intervals(labels, probabilities)
    return metrics


def average(by_task: Mapping[str, Any], weights: Mapping[str, float]) -> Averages:
    """Means over the tasks of what their metrics have in common.

    Args:
        by_task: For each task the metrics that `measure` returns.
        weights: The weight of each task; the sum is 1.
    """
    return {  # type: ignore[return-value]
        key: sum(weights[name] * metrics[key] for name, metrics in by_task.items())
        for key in Averages.__annotations__
    }
