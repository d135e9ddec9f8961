"""Predictions as text, one row per image: CSV or JSON Lines, by the same methods."""

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from keras_ft.host.text import as_text
from keras_ft.kinds.task import Task, is_plain, name_field

# The probabilities float32 [K] of one image by task; None if it can't be read.
Probabilities = Mapping[str, np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class CsvRows:
    """Rows of a CSV table: path, class_name, probability, top_2, ..., error.

    With several tasks the columns are TASK/class_name and so on. A multilabel task has
    TASK/labels, the classes that apply, and TASK/probabilities, both with | between
    them. At most `top_k` classes are written of each prediction.
    """

    tasks: Sequence[Task]
    top_k: int

    def header(self) -> str:
        """The first line."""
        names = [
            name_field(name, task, self.tasks)
            for task in self.tasks
            for name in task.kind.columns(task, self.top_k)
        ]
        return _to_line(["path", *names, "error"])

    def to_row(self, path: str, probabilities: Probabilities, error: str) -> str:
        """The row of an image."""
        cells = itertools.chain.from_iterable(
            [""] * len(task.kind.columns(task, self.top_k))
            if probabilities is None
            else task.kind.to_cells(task, probabilities[task.name], self.top_k)
            for task in self.tasks
        )
        return _to_line([as_text(path), *cells, error])


@dataclasses.dataclass(frozen=True)
class JsonRows:
    """Rows of JSON Lines: path, class_name, probability, top, error.

    `top` has class_name and probability of the most probable classes. With several
    tasks, `tasks` has these by task; a multilabel task has `labels`, class_name and
    probability of those that apply. What an unreadable image does not have is null.
    """

    tasks: Sequence[Task]
    top_k: int

    def header(self) -> str:
        """No line."""
        return ""

    def to_row(self, path: str, probabilities: Probabilities, error: str) -> str:
        """The row of an image."""
        answers = {
            task.name: task.kind.to_json(
                task, probabilities[task.name] if probabilities else None, self.top_k
            )
            for task in self.tasks
        }
        is_single = is_plain(self.tasks)
        answer = answers[self.tasks[0].name] if is_single else {"tasks": answers}
        return json.dumps({"path": path, **answer, "error": error or None}) + "\n"


def _to_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()
