"""The results of one task -> the values of its part of the page."""

from typing import Any

import keras
import numpy as np

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Examples
from keras_ft.evaluation.multiclass_metrics import accuracy_interval
from keras_ft.kinds.calibration import Calibrated
from keras_ft.report import classes, gallery, plots

# Maximum number of images of each kind.
_SHOWN = 12


def describe(
    metrics: Any,
    examples: Examples,
    calibrated: Calibrated,
    model: keras.Model,
    preprocessing: Preprocessing,
) -> dict[str, Any]:
    """Makes what the template shows of the task that `calibrated` is about.

    The examples are those of the run, the model is the best one, float32.
    """
    task, best_phase = calibrated.task, metrics["best_phase"]
    results = metrics["tasks"][task.name] if "tasks" in metrics else metrics
    labelled = task.kind.is_labelled(examples.test.target_of(task.name))
    probabilities = calibrated.probabilities["test"][labelled]
    examples = examples.by_task[task.name]
    test, labels = results["test"], examples.test.labels
    errors = gallery.find_errors(task, labels, probabilities)
    confidence = task.kind.measure_confidence(task, probabilities)
    by_confidence = np.argsort(confidence, kind="stable")

    def make_cards(indices: np.ndarray) -> list[gallery.Card]:
        shown, answers = examples.test.take(indices), probabilities[indices]
        return gallery.make_cards(model, task, shown, answers, preprocessing)

    description = {
        "task": task,
        "results": results,
        "data": classes.count_by_split(examples),
        **classes.describe_classes(test, task.class_names),
        "num_errors": len(errors),
        "errors": make_cards(errors[:_SHOWN]),
        "low_confidence": make_cards(by_confidence[:_SHOWN]),
        "reliability": plots.inline(
            plots.draw_reliability(*task.kind.to_choices(labels, probabilities))
        ),
        "head": None,
    }
    if best_phase != "head" and "head" in results["phases"]:
        description["head"] = _compare_with_head(results, best_phase, len(labels))
    if "confusion_matrix" not in test:
        return description
    return description | {
        "majority": _judge(test, examples),
        "threshold_curves": _draw_threshold(results, labels, probabilities),
    }


def _compare_with_head(results: Any, best_phase: str, num_test: int) -> dict[str, Any]:
    """Compares phases as they were trained, all with thresholds of one half."""
    head, best = (
        results["phases"][n]["test"]["accuracy"] for n in ("head", best_phase)
    )
    interval = accuracy_interval(round(best * num_test), num_test)
    return _compare({"accuracy": best, "accuracy_interval": interval}, head)


def _judge(test: Any, examples: Examples) -> dict[str, Any]:
    """Compares the test accuracy with that of always predicting one class."""
    in_train, in_test = examples.train.count_classes(), examples.test.count_classes()
    # Of several most frequent classes, the one that would be best on test.
    majority = int(np.where(in_train == in_train.max(), in_test, -1).argmax())
    baseline = float(in_test[majority] / in_test.sum())
    return {"class_name": examples.class_names[majority]} | _compare(test, baseline)


def _compare(test: Any, baseline: float) -> dict[str, Any]:
    gain = test["accuracy"] - baseline
    if gain > 0:
        outcome = "better" if test["accuracy_interval"][0] > baseline else "unclear"
    else:
        outcome = "worse" if gain < 0 else "equal"
    return {"accuracy": baseline, "gain": gain, "outcome": outcome}


def _draw_threshold(
    results: Any, labels: np.ndarray, probabilities: np.ndarray
) -> dict[str, str]:
    """ROC and precision-recall curves of the second of two classes, if both occur."""
    threshold = results.get("threshold")
    if not threshold or len(np.unique(labels)) != 2:
        return {}
    curve = labels == 1, probabilities[:, 1], threshold["value"]
    return {
        "ROC": plots.inline(plots.draw_roc(*curve)),
        "Precision and recall": plots.inline(plots.draw_precision_recall(*curve)),
    }
