"""Sweeps over `--label_columns`: is one network for all tasks as good as one for each?

Settings with other tasks have no metric in common, so there is a ranking for each task,
of the settings that learn it.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_ft.comparison.ranking import Ranking, Result, rank
from keras_ft.comparison.sweep import describe
from keras_ft.errors import UserError
from keras_ft.evaluation.monitor import Monitor
from keras_ft.kinds.task import Task, parse_columns, to_columns

_JUDGEMENTS = {
    None: "and the noise is unknown",
    True: "within the noise",
    False: "a significant difference",
}


def unite_columns(values: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """All columns of labels that any setting learns, for the splits of all runs.

    Raises:
        UserError: A column is multilabel in some settings only.
    """
    if not any(values):
        return ()
    tasks: dict[str, Task] = {}
    for columns in values:
        for task in parse_columns(columns):
            if tasks.setdefault(task.name, task) != task:
                raise UserError(
                    "--sweep must name a column of labels always with :multi or never. "
                    f"Received: {task.name} in both ways"
                )
    return to_columns(list(tasks.values()))


def rank_by_task(results: Iterable[Result], monitor: Monitor) -> dict[str, Ranking]:
    """Ranks, for each task, the settings that learn it by its own metric."""
    by_task: dict[str, list[Result]] = {}
    for result in results:
        if result.metrics:
            for name, of_task in result.metrics["tasks"].items():
                metrics: Any = {**result.metrics, **of_task}
                with_task = dataclasses.replace(result, metrics=metrics)
                by_task.setdefault(name, []).append(with_task)
    return {
        name: ranking
        for name, of_task in by_task.items()
        if (ranking := rank(of_task, monitor))
    }


def conclude(rankings: Mapping[str, Ranking]) -> Iterator[str]:
    """For each task, how good the settings are compared with the best; then seconds."""
    for name, ranking in rankings.items():
        best, *others = ranking.settings
        monitor = ranking.monitor
        sentence = f"{name}: {describe(best.setting)} has the best {monitor.name}, "
        sentence += monitor.format(best.val.mean)
        for other in others:
            value = monitor.format(other.val.mean)
            judgement = _JUDGEMENTS[other.within_noise]
            sentence += f"; {describe(other.setting)} has {value}, {judgement}"
        yield f"{sentence}."
    seconds = {
        one.setting: one.seconds for r in rankings.values() for one in r.settings
    }
    runs = (f"{value:.0f} ({describe(one)})" for one, value in seconds.items())
    yield f"Seconds of a run: {', '.join(runs)}."
