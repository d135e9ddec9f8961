"""The images and the results of a task by class -> the values of a part of a page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_ft.data.examples import SPLIT_NAMES, Examples
from keras_ft.report import plots

# Maximum number of confused pairs of classes.
_SHOWN = 12


def count_by_split(examples: Examples) -> list[dict[str, Any]]:
    """The name of each class of the only task, and its number of images by split."""
    counts = {name: examples.split(name).count_classes() for name in SPLIT_NAMES}
    return [
        {"name": name} | {split: of_split[i] for split, of_split in counts.items()}
        for i, name in enumerate(examples.class_names)
    ]


def describe_classes(measured: Any, class_names: Sequence[str]) -> dict[str, Any]:
    """Makes what the template shows of the metrics of a task by class.

    Classes are sorted by F1, those without images last. A confusion matrix, as counts
    and as fractions, and the most confused pairs are there if `measured` has one.
    """
    description: dict[str, Any] = {
        "classes": sorted(
            measured["per_class"].items(),
            key=lambda item: (item[1]["support"] == 0, item[1]["f1"]),
        )
    }
    if "confusion_matrix" in measured:
        counts = np.array(measured["confusion_matrix"])
        description |= _describe_confusion(counts, class_names)
    return description


def _describe_confusion(
    counts: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    errors = counts * (1 - np.eye(len(counts), dtype=int))
    most_frequent = np.argsort(-errors, axis=None, kind="stable")[:_SHOWN]
    pairs = np.stack(np.unravel_index(most_frequent, errors.shape), axis=1)
    return {
        "confusion": {
            kind: plots.inline(plots.draw_confusion(counts, class_names, normalize))
            for kind, normalize in (("counts", False), ("fractions", True))
        },
        "pairs": [
            {
                "label": class_names[label],
                "prediction": class_names[prediction],
                "count": errors[label, prediction],
                "fraction": errors[label, prediction] / counts[label].sum(),
            }
            for label, prediction in pairs
            if errors[label, prediction]
        ],
    }
