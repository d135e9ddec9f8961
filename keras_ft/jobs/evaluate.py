"""`--mode=evaluate`: how good a trained classifier is on labelled images."""

import logging
from pathlib import Path

import numpy as np

from keras_ft.config.config import Config
from keras_ft.data.dataset import check_readable, load_test
from keras_ft.errors import UserError
from keras_ft.evaluation.split_metrics import SplitMetrics
from keras_ft.runs.models import check_output, find_model, leave_out_seen
from keras_ft.system import files
from keras_ft.system.startup import import_tensorflow

log = logging.getLogger("keras_ft")


class EvaluateMetrics(SplitMetrics):
    """Metrics on the readable images, and how many images there were."""

    num_examples: int
    num_skipped: int


def evaluate(config: Config) -> EvaluateMetrics:
    """Measures a classifier on labelled images.

    Args:
        config: The data, the model and `output`, a JSON file for the metrics, or none.

    Raises:
        UserError: The data or the model can't be read, an image can't be read and
            `on_bad_image` is `error`, or the model lacks a class.
    """
    check_output(config.apply.output, config.run.overwrite)
    model = find_model(Path(config.apply.model or config.run.workdir))
    examples = leave_out_seen(load_test(config.data), model)
    import_tensorflow()
    from keras_ft.evaluation.metrics import compute_metrics
    from keras_ft.serving.classifier import classify, load_classifier

    classifier = load_classifier(model)
    unknown = sorted(set(examples.class_names) - set(classifier.class_names))
    if unknown:
        raise UserError(
            "The model must have every class of --data; it has "
            f"{', '.join(classifier.class_names)}. Received: {', '.join(unknown)}"
        )
    answers = list(classify(classifier, examples.files, config.data.batch_size))
    good = np.array([not error for _, error in answers])
    if config.data.on_bad_image == "error" or not good.any():
        reasons = [error for _, error in answers]
        check_readable(examples.paths[~good], len(examples), reasons)
    if not good.all():
        log.warning(
            "Skips %d of %d images, which can't be read. --mode=check names them.",
            np.sum(~good),
            len(examples),
        )
    ids = np.array([classifier.class_names.index(n) for n in examples.class_names])
    probabilities = np.stack([p for p, _ in answers if p is not None])
    labels = ids[examples.labels[good]]
    metrics: EvaluateMetrics = {
        **compute_metrics(labels, probabilities, classifier.class_names),
        "num_examples": int(good.sum()),
        "num_skipped": int((~good).sum()),
    }
    if config.apply.output:
        files.write_json(Path(config.apply.output), metrics)
    return metrics
