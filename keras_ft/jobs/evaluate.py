"""`--mode=evaluate`: how good a trained classifier is on labelled images."""

import dataclasses
import logging
import zipfile
from collections.abc import Sequence
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
from keras_ft.host import files
from keras_ft.host.startup import import_tensorflow
from keras_ft.host.text import counted, hint_alike
from keras_ft.kinds.measure import average, measure
from keras_ft.kinds.task import DEFAULT_NAME, Task, is_plain, to_columns
from keras_ft.runs.find_model import check_output, find_model
from keras_ft.runs.seen import leave_out_seen

if TYPE_CHECKING:
    from keras_ft.serving.trained_classifier import Prediction

log = logging.getLogger("keras_ft")


@with_pixel_limit
def evaluate(config: Config) -> dict[str, Any]:
    """Measures a classifier on labelled images, and writes the metrics to `output`.

    Returns:
        Metrics on the readable images that the model has not seen, `num_examples`,
        `num_skipped`, `num_seen` and `warnings`. Of a model of one task with one class
        per image these are `SplitMetrics`. Of others they are means over the tasks, and
        `tasks` has the metrics of each task.

    Raises:
        UserError: The data or the model can't be read, an image can't be read and
            `on_bad_image` is `error`, or the model lacks a task or class.
    """
    config = config.replace(mode="evaluate")
    check_output(config.apply.output, config.run.overwrite)
    model = find_model(Path(config.apply.model or config.run.workdir))
    data = _name_columns(config.data, model)
    given = load_test(data)
    cache_dir = Path(data.cache_dir)
    examples, warnings = leave_out_seen(given, model, cache_dir)
    for warning in warnings:
        log.warning("%s", warning)
    import_tensorflow()
    from keras_ft.serving.trained_classifier import classify, load_classifier

    classifier = load_classifier(model)
    tasks, targets = _match(examples, classifier.tasks)
    answers = list(classify(classifier, examples.files, data.batch_size))
    good = _check_answers(answers, examples, data)
    rows = [answer for answer, _ in answers if answer is not None]
    probabilities = {t.name: np.stack([row[t.name] for row in rows]) for t in tasks}
    by_task = {
        task.name: measure(task, target[good], probabilities[task.name])
        for task, target in zip(tasks, targets, strict=True)
    }
    if is_plain(tasks):
        metrics = by_task[tasks[0].name]
    else:
        weights = dict.fromkeys(by_task, 1 / len(by_task))
        metrics = {**average(by_task, weights), "tasks": by_task}
    metrics |= {"num_examples": int(good.sum()), "num_skipped": int((~good).sum())}
    metrics |= {"num_seen": len(given) - len(examples), "warnings": warnings}
    if config.apply.output:
        files.write_json(Path(config.apply.output), metrics)
    return metrics


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


def _match(
    examples: Examples, tasks: Sequence[Task]
) -> tuple[list[Task], list[np.ndarray]]:
    """The model's tasks that examples are labelled for, and the labels, as its ids."""
    if len(tasks) == len(examples.tasks) == 1:
        by_name = {examples.task.name: tasks[0]}  # whatever the column is called
    else:
        by_name = {task.name: task for task in tasks}
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
        if not task.kind.is_labelled(target).any():
            raise UserError(f"No image of test is labelled for {task.name}.")
        matched.append(known)
        ids = np.array([known.class_names.index(name) for name in task.class_names])
        targets.append(task.kind.translate(target, ids, len(known.class_names)))
    return matched, targets


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
