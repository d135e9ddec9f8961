"""`--mode=evaluate`: how good a trained classifier is on labelled images."""

import dataclasses
import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ft.catalog.archive import find_description
from keras_ft.config.schema import DataConfig
from keras_ft.config.settings import Config
from keras_ft.data.dataset import check_readable, load_test
from keras_ft.data.examples import Examples
from keras_ft.data.missing import explain_missing
from keras_ft.data.pixel_limit import with_pixel_limit
from keras_ft.data.tables import is_table
from keras_ft.errors import UserError
from keras_ft.evaluation.multiclass_metrics import (
    accuracy_interval,
    accuracy_standard_error,
)
from keras_ft.host import files, jpeg_lines
from keras_ft.host.startup import import_tensorflow
from keras_ft.host.text import counted, hint_alike
from keras_ft.kinds.measure import average
from keras_ft.kinds.task import DEFAULT_NAME, Task, is_plain, to_columns
from keras_ft.runs.find_model import check_output, find_model
from keras_ft.runs.seen import leave_out_seen

if TYPE_CHECKING:
    from keras_ft.report.mistakes import Measured
    from keras_ft.serving.trained_classifier import Classifier, Prediction

log = logging.getLogger("keras_ft")

# The endings of what is written beside the metrics: a page and a table.
_BESIDE = (".html", ".wrong.csv")


@with_pixel_limit
def evaluate(config: Config) -> dict[str, Any]:
    """Measures a classifier on labelled images.

    The metrics are written to `output`, a JSON file. Beside it, files of the same name
    that end in .html and .wrong.csv are a page about the results, and the wrong images.

    Returns:
        Metrics on the readable images that the model has not seen, `num_examples`,
        `num_skipped`, `num_seen` and `warnings`. Of a model of one task with one class
        per image these are `SplitMetrics`, with `accuracy_standard_error`. Of others
        they are means over the tasks, and `tasks` has the metrics of each task.

    Raises:
        UserError: The data or the model can't be read, an image can't be read and
            `on_bad_image` is `error`, or the model lacks a task or class.
    """
    config = config.replace(mode="evaluate")
    check_output(config.apply.output, config.run.overwrite, beside=_BESIDE)
    model = find_model(Path(config.apply.model or config.run.workdir))
    data = _name_columns(config.data, model)
    given = load_test(data)
    examples, warnings = leave_out_seen(given, model, Path(data.cache_dir))
    for warning in warnings:
        log.warning("%s", warning)
    import_tensorflow()
    from keras_ft.serving.trained_classifier import classify, load_classifier

    classifier = load_classifier(model)
    examples = _match(examples, classifier.tasks)
    answers = list(classify(classifier, examples.files, data.batch_size))
    good = _check_answers(answers, examples, data)
    measured = _measure(examples.take(good), [row for row, _ in answers if row])
    metrics = _summarize(measured)
    metrics |= {"num_examples": int(good.sum()), "num_skipped": int((~good).sum())}
    metrics |= {"num_seen": len(given) - len(examples), "warnings": warnings}
    if config.apply.output:
        _write(config, metrics, measured, classifier)
    return metrics


def _measure(
    examples: Examples, rows: Sequence[Mapping[str, np.ndarray]]
) -> "list[Measured]":
    """Measures the probabilities of N examples by task, for each of their tasks."""
    from keras_ft.report.mistakes import Measured

    _check_labelled(examples)
    measured = []
    for name, of_task in examples.by_task.items():
        task = of_task.task
        labelled = task.kind.is_labelled(examples.target_of(name))
        probabilities = np.stack([row[name] for row in rows])[labelled]
        metrics: Any = task.kind.measure(task, of_task.labels, probabilities)
        accuracy, count = metrics["accuracy"], len(of_task)
        metrics |= {
            "num_examples": count,
            "accuracy_interval": accuracy_interval(round(accuracy * count), count),
            "accuracy_standard_error": accuracy_standard_error(accuracy, count),
        }
        measured.append(Measured(of_task, probabilities, metrics))
    return measured


def _summarize(measured: "Sequence[Measured]") -> dict[str, Any]:
    """The metrics of the only task, or the means over several and those of each."""
    by_task = {of_task.task.name: of_task.metrics for of_task in measured}
    if is_plain([of_task.task for of_task in measured]):
        return dict(measured[0].metrics)
    weights = dict.fromkeys(by_task, 1 / len(by_task))
    return {**average(by_task, weights), "tasks": by_task}


def _write(
    config: Config,
    metrics: Mapping[str, Any],
    measured: "Sequence[Measured]",
    classifier: "Classifier",
) -> None:
    from keras_ft.report.evaluation_page import write_page
    from keras_ft.report.mistakes import write_mistakes

    output = Path(config.apply.output)
    page, table = (output.with_suffix(suffix) for suffix in _BESIDE)
    files.write_json(output, metrics)
    write_mistakes(table, measured)
    network = classifier.network, classifier.preprocessing
    with jpeg_lines.caught():  # damaged files have been named
        write_page(page, table, config, metrics, measured, *network)
    log.info("Wrote %s, %s and %s.", output, page, table)


def _name_columns(data: DataConfig, model: Path) -> DataConfig:
    """Names the columns of a table that a model's tasks are about."""
    try:
        description = find_description(model)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--model can't be read as a model of keras_ft: {model}: {error}"
        ) from error
    if data.label_columns or description is None or not is_table(data.data):
        return data
    columns = to_columns(description.tasks)
    if columns == (DEFAULT_NAME,):
        return data
    return dataclasses.replace(data, label_columns=columns)


def _match(examples: Examples, tasks: Sequence[Task]) -> Examples:
    """The examples with those of the model's tasks that they are labelled for.

    Their labels become the model's ids.
    """
    if len(tasks) == len(examples.tasks) == 1:
        by_name = {examples.task.name: tasks[0]}  # whatever the column is called
    else:
        by_name = {task.name: task for task in tasks}
    _check_labelled(examples)
    matched, targets = [], []
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        known = by_name.get(task.name)
        if known is None or known.kind != task.kind:
            raise UserError(
                "The model must have every task of --label_columns; it has "
                f"{','.join(to_columns(tasks))}. Received: {to_columns([task])[0]}"
            )
        unknown = sorted(set(task.class_names) - set(known.class_names))
        if unknown:
            raise UserError(
                "The model must have every class of --data; it has "
                f"{', '.join(known.class_names)}. Received: {', '.join(unknown)}"
                f"{hint_alike(unknown, known.class_names)}; --classes selects classes"
            )
        matched.append(known)
        ids = np.array([known.class_names.index(name) for name in task.class_names])
        targets.append(task.kind.translate(target, ids, len(known.class_names)))
    return dataclasses.replace(examples, tasks=tuple(matched), targets=tuple(targets))


def _check_labelled(examples: Examples) -> None:
    for task, target in zip(examples.tasks, examples.targets, strict=True):
        if not task.kind.is_labelled(target).any():
            raise UserError(f"No image of test is labelled for {task.name}.")


def _check_answers(
    answers: Sequence["Prediction"], examples: Examples, data: DataConfig
) -> np.ndarray:
    """Which images could be read, bool [N]."""
    reasons = [error for _, error in answers]
    good = np.array([not error for error in reasons])
    if not good.any():
        reason = explain_missing(examples.paths, examples.files) or (
            f"{counted(len(good), 'file')} that can't be; {examples.files[0]}: "
            f"{reasons[0]}"
        )
        raise UserError(
            f"--data must contain images that can be read. Received: {reason}"
        )
    if data.on_bad_image == "error":
        check_readable(examples.paths[~good], len(examples), reasons)
    if not good.all():
        message = "Skips %d of %d images, which can't be read. --mode=check names them."
        log.warning(message, np.sum(~good), len(examples))
    return good
