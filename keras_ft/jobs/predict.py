"""`--mode=predict`: the classes of new images, as a CSV table."""

import csv
import io
import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_ft.config.config import Config
from keras_ft.data.dataset import load_images
from keras_ft.runs.models import check_output, find_model
from keras_ft.system import files
from keras_ft.system.startup import import_tensorflow
from keras_ft.tasks import SEPARATOR, Task, is_plain

log = logging.getLogger("keras_ft")


def predict(config: Config) -> None:
    """Writes one row per image: path, class_name, probability, top_2, ..., error.

    With several tasks the columns are TASK/class_name and so on. A multilabel task has
    TASK/labels, the classes that apply, and TASK/probabilities, both with | between
    them.

    Args:
        config: The images, the model, `top_k`, and `output` or none for standard
            output.

    Raises:
        UserError: The images or the model can't be found or read.
    """
    check_output(config.apply.output, config.run.overwrite)
    model = find_model(Path(config.apply.model or config.run.workdir))
    images = load_images(config.data)
    import_tensorflow()
    from keras_ft.serving.classifier import classify, load_classifier

    classifier = load_classifier(model)
    top_k = config.apply.top_k
    answers = classify(classifier, images.files, config.data.batch_size)
    rows = (
        [files.as_text(path), *_cells(probabilities, classifier.tasks, top_k), error]
        for path, (probabilities, error) in zip(images.paths, answers, strict=True)
    )
    table = itertools.chain([_header(classifier.tasks, top_k)], rows)
    if config.apply.output:
        files.write_csv(Path(config.apply.output), table)
        log.info("Wrote %d predictions to %s.", len(images), config.apply.output)
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # file names of any bytes
        csv.writer(sys.stdout).writerows(table)


def _header(tasks: Sequence[Task], top_k: int) -> list[str]:
    names = [
        name if is_plain(tasks) else f"{task.name}/{name}"
        for task in tasks
        for name in _columns(task, top_k)
    ]
    return ["path", *names, "error"]


def _columns(task: Task, top_k: int) -> list[str]:
    if task.is_multilabel:
        return ["labels", "probabilities"]
    others = (
        (f"top_{k}", f"top_{k}_probability")
        for k in range(2, min(top_k, len(task.class_names)) + 1)
    )
    return ["class_name", "probability", *itertools.chain(*others)]


def _cells(
    probabilities: Mapping[str, np.ndarray] | None, tasks: Sequence[Task], top_k: int
) -> list[str]:
    """The answers for an image; empty without any."""
    if probabilities is None:
        return [""] * sum(len(_columns(task, top_k)) for task in tasks)
    cells = []
    for task in tasks:
        of_task = probabilities[task.name]
        if task.is_multilabel:
            cells += _label_cells(of_task, task)
        else:
            cells += _top_cells(of_task, task, top_k)
    return cells


def _label_cells(probabilities: np.ndarray, task: Task) -> list[str]:
    """Names and probabilities of the classes that apply."""
    applies = np.flatnonzero(probabilities >= np.array(task.thresholds, np.float32))
    names = (files.as_text(task.class_names[i]) for i in applies)
    numbers = (f"{probabilities[i]:.6f}" for i in applies)
    return [SEPARATOR.join(names), SEPARATOR.join(numbers)]


def _top_cells(probabilities: np.ndarray, task: Task, top_k: int) -> list[str]:
    """Names and probabilities of the most probable classes."""
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        cell
        for i in best
        for cell in (files.as_text(task.class_names[i]), f"{probabilities[i]:.6f}")
    ]
