"""`--mode=predict`: the classes of new images, as a CSV table."""

import csv
import io
import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_ft.config.config import Config
from keras_ft.data.dataset import load_images
from keras_ft.runs.models import check_output, find_model
from keras_ft.system import files
from keras_ft.system.startup import import_tensorflow

log = logging.getLogger("keras_ft")


def predict(config: Config) -> None:
    """Writes one row per image: path, class_name, probability, top_2, ..., error.

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
    top_k = min(config.apply.top_k, len(classifier.class_names))
    answers = classify(classifier, images.files, config.data.batch_size)
    names = list(map(files.as_text, classifier.class_names))
    rows = (
        [files.as_text(path), *_top_cells(probabilities, names, top_k), error]
        for path, (probabilities, error) in zip(images.paths, answers, strict=True)
    )
    table = itertools.chain([_header(top_k)], rows)
    if config.apply.output:
        files.write_csv(Path(config.apply.output), table)
        log.info("Wrote %d predictions to %s.", len(images), config.apply.output)
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # file names of any bytes
        csv.writer(sys.stdout).writerows(table)


def _header(top_k: int) -> list[str]:
    others = ((f"top_{k}", f"top_{k}_probability") for k in range(2, top_k + 1))
    return ["path", "class_name", "probability", *itertools.chain(*others), "error"]


def _top_cells(
    probabilities: np.ndarray | None, class_names: Sequence[str], top_k: int
) -> list[str]:
    """Names and probabilities of the most probable classes; empty without any."""
    if probabilities is None:
        return [""] * (2 * top_k)
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return [cell for i in best for cell in (class_names[i], f"{probabilities[i]:.6f}")]
