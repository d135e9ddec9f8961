"""Predictions as text, one row per image: CSV, or JSON Lines.

Both classes have the same methods.
"""

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_ft.evaluation.multilabel_metrics import find_applying
from keras_ft.host.text import as_text
from keras_ft.tasks import SEPARATOR, Task, is_plain

# The probabilities float32 [K] of one image by task; None if it can't be read.
Probabilities = Mapping[str, np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class CsvRows:
    """Rows of a CSV table: path, class_name, probability, top_2, ..., error.

    With several tasks the columns are TASK/class_name and so on. A multilabel task has
    TASK/labels, the classes that apply, and TASK/probabilities, both with | between
    them.

    Attributes:
        tasks: The tasks of the model.
        top_k: Maximum number of classes per prediction.
    """

    tasks: Sequence[Task]
    top_k: int

    def header(self) -> str:
        """The first line."""
        names = [
            name if is_plain(self.tasks) else f"{task.name}/{name}"
            for task in self.tasks
            for name in self._columns(task)
        ]
        return _to_line(["path", *names, "error"])

    def to_row(self, path: str, probabilities: Probabilities, error: str) -> str:
        """The row of an image."""
        cells = itertools.chain.from_iterable(
            [""] * len(self._columns(task))
            if probabilities is None
            else self._cells(task, probabilities[task.name])
            for task in self.tasks
        )
        return _to_line([as_text(path), *cells, error])

    def _columns(self, task: Task) -> list[str]:
        if task.is_multilabel:
            return ["labels", "probabilities"]
        others = (
            (f"top_{k}", f"top_{k}_probability")
            for k in range(2, min(self.top_k, len(task.class_names)) + 1)
        )
        return ["class_name", "probability", *itertools.chain(*others)]

    def _cells(self, task: Task, probabilities: np.ndarray) -> Iterable[str]:
        if task.is_multilabel:
            applying = np.flatnonzero(find_applying(task, probabilities))
            names = (as_text(task.class_names[i]) for i in applying)
            numbers = (f"{probabilities[i]:.6f}" for i in applying)
            return [SEPARATOR.join(names), SEPARATOR.join(numbers)]
        return itertools.chain.from_iterable(
            (as_text(task.class_names[i]), f"{probabilities[i]:.6f}")
            for i in _find_top(probabilities, self.top_k)
        )


@dataclasses.dataclass(frozen=True)
class JsonRows:
    """Rows of JSON Lines: path, class_name, probability, top, error.

    `top` has class_name and probability of the most probable classes. With several
    tasks, `tasks` has these by task; a multilabel task has `labels`, class_name and
    probability of those that apply. What an unreadable image does not have is null.

    Attributes:
        tasks: The tasks of the model.
        top_k: Maximum number of classes per prediction.
    """

    tasks: Sequence[Task]
    top_k: int

    def header(self) -> str:
        """No line."""
        return ""

    def to_row(self, path: str, probabilities: Probabilities, error: str) -> str:
        """The row of an image."""
        answers = {
            task.name: self._answer(
                task, None if probabilities is None else probabilities[task.name]
            )
            for task in self.tasks
        }
        is_single = is_plain(self.tasks)
        answer = answers[self.tasks[0].name] if is_single else {"tasks": answers}
        return json.dumps({"path": path, **answer, "error": error or None}) + "\n"

    def _answer(self, task: Task, probabilities: np.ndarray | None) -> dict[str, Any]:
        if task.is_multilabel:
            if probabilities is None:
                return {"labels": None}
            applying = np.flatnonzero(find_applying(task, probabilities))
            return {"labels": _to_objects(task, probabilities, applying)}
        if probabilities is None:
            return {"class_name": None, "probability": None, "top": None}
        top = _to_objects(task, probabilities, _find_top(probabilities, self.top_k))
        return {**top[0], "top": top}


def _find_top(probabilities: np.ndarray, top_k: int) -> np.ndarray:
    """The most probable classes."""
    return np.argsort(-probabilities, kind="stable")[:top_k]


def _to_objects(
    task: Task, probabilities: np.ndarray, classes: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "class_name": task.class_names[i],
            "probability": round(float(probabilities[i]), 6),
        }
        for i in classes
    ]


def _to_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
