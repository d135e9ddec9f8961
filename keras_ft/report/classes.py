"""The images and the results of a task by class -> the values of a part of a page."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_ft.data.examples import SPLIT_NAMES, Examples

# Maximum number of classes in a confusion matrix, whose names must remain readable.
_MOST_IN_MATRIX = 30
# Maximum number of confused pairs of classes beside a matrix, and in its place.
_SHOWN, _SHOWN_ALONE = 12, 50


def count_by_split(examples: Examples) -> list[dict[str, Any]]:
    """The name of each class of the only task, and its number of images by split."""
    counts = {name: examples.split(name).count_classes() for name in SPLIT_NAMES}
    return [
        {"name": name} | {split: of_split[i] for split, of_split in counts.items()}
        for i, name in enumerate(examples.class_names)
    ]


def describe_classes(measured: Any, class_names: Sequence[str]) -> dict[str, Any]:
    """Makes what the template shows of the metrics of a task by class.

    Classes are sorted by F1, those without images last. If `measured` has a confusion
    matrix, the most confused pairs are there, and the matrix unless it is too large.
    """
    description: dict[str, Any] = {
        "classes": sorted(
            measured["per_class"].items(),
            key=lambda item: (item[1]["support"] == 0, item[1]["f1"]),
        )
    }
    if "confusion_matrix" in measured:
        counts = np.array(measured["confusion_matrix"])
        description["pairs"] = _list_pairs(counts, class_names)
        if len(class_names) <= _MOST_IN_MATRIX:
            description["confusion"] = _describe_matrix(counts, class_names)
    return description


def _describe_matrix(counts: np.ndarray, class_names: Sequence[str]) -> list[Any]:
    """A name and cells for each label: counts, and shares of the label's images."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return [
        (name, list(zip(row, of_row, strict=True)))
        for name, row, of_row in zip(
            class_names, counts.tolist(), shares.tolist(), strict=True
        )
    ]


def _list_pairs(counts: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The most frequent confusions; of equally frequent ones, the larger shares."""
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    shares = errors / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    labels, predictions = np.nonzero(errors)
    order = np.lexsort((-shares[labels, predictions], -errors[labels, predictions]))
    most = _SHOWN if len(class_names) <= _MOST_IN_MATRIX else _SHOWN_ALONE
    return [
        {
            "label": class_names[label],
            "prediction": class_names[prediction],
            "count": errors[label, prediction],
            "fraction": shares[label, prediction],
        }
        for label, prediction in zip(labels[order], predictions[order], strict=True)
    ][:most]
