"""What a classifier answers about labelled images, and where it is wrong."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_ft.data.examples import Examples
from keras_ft.host import files
from keras_ft.host.text import as_text
from keras_ft.kinds.multiclass import SEPARATOR
from keras_ft.kinds.task import Task, is_plain


@dataclasses.dataclass(frozen=True)
class Measured:
    """The answers of a classifier for one of its tasks.

    Attributes:
        examples: N labelled ones of this task only, with the classes of the classifier.
        probabilities: float [N, K].
        metrics: Those of a split, with intervals and `accuracy_standard_error`.
    """

    examples: Examples
    probabilities: np.ndarray
    metrics: Any

    @property
    def task(self) -> Task:
        """The task."""
        return self.examples.task

    def find_mistakes(self) -> np.ndarray:
        """Indices of wrong answers, int [M], the surest first."""
        sure = self.task.kind.measure_mistakes(
            self.task, self.examples.labels, self.probabilities
        )
        order = np.argsort(-sure, kind="stable")
        return order[sure[order] >= 0]


def write_mistakes(path: Path, measured: Sequence[Measured]) -> None:
    """Writes the wrong answers, task by task, as a CSV file.

    If several classes apply to an image, they and their probabilities have | between
    them, as in predictions. The task is named unless there is only one question.
    """
    named = [] if is_plain([m.task for m in measured]) else ["task"]
    header = ["path", *named, "label", "prediction", "probability"]
    rows = (row for of_task in measured for row in _list_rows(of_task, bool(named)))
    files.write_csv(path, [header, *rows])


def _list_rows(measured: Measured, named: bool) -> Iterator[list[str]]:
    task, examples = measured.task, measured.examples
    for i in measured.find_mistakes():
        label = map(as_text, task.names_of(examples.labels[i]))
        yield [
            as_text(examples.paths[i]),
            *([as_text(task.name)] if named else []),
            SEPARATOR.join(label),
            *task.kind.to_cells(task, measured.probabilities[i], top_k=1),
        ]
