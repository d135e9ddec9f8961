"""What suggestions of the report are made of: a run's results, and commands."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_ft.config.flags import to_text
from keras_ft.data.examples import Dataset
from keras_ft.kinds.task import is_plain
from keras_ft.runs.run import Run
from keras_ft.runs.run_metrics import RunMetrics


class Step(NamedTuple):
    """A suggestion in one or two sentences, and the command that follows it."""

    text: str
    command: str


@dataclasses.dataclass(frozen=True)
class Results:
    """What suggestions are based on.

    Attributes:
        history: The rows of history.csv.
    """

    run: Run
    dataset: Dataset
    metrics: RunMetrics
    history: Sequence[Mapping[str, str]]

    @property
    def tasks(self) -> dict[str, Any]:
        """Results by task."""
        by_task: Any = self.metrics.get("tasks")
        return by_task or {self.dataset.examples.task.name: self.metrics}

    def find_row(self, phase: str, epoch: int) -> Mapping[str, str] | None:
        """The row of an epoch, counted from 1."""
        which = phase, str(epoch)
        rows = (r for r in self.history if (r["phase"], r["epoch"]) == which)
        return next(rows, None)

    def command(self, ending: str = "", **flags: Any) -> str:
        """A command with the flags of this run and others.

        `ending` is what the name of a new workdir beside this one ends in, if the
        command needs one.
        """
        if ending:
            flags["workdir"] = f"{self.run.paths.folder}-{ending}"
        flagfile = f"--flagfile={self.run.paths.flags}"
        return join(flagfile, *(f"--{n}={to_text(v)}" for n, v in flags.items()))

    @property
    def is_useless(self) -> bool:
        """Whether the model may be no better than the most frequent class of test."""
        tasks = self.dataset.examples.tasks
        if not is_plain(tasks):
            return False
        [of_task] = self.tasks.values()
        counts = [row["support"] for row in of_task["test"]["per_class"].values()]
        return of_task["test"]["accuracy_interval"][0] <= max(counts) / sum(counts)


def join(*arguments: str) -> str:
    """A command of this program."""
    return shlex.join(["python", "-m", "keras_ft", *arguments])
