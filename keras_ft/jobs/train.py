"""The loop over phases, and the best model over all of them."""

import dataclasses
import importlib.metadata
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.config.schema import Config
from keras_ft.data.examples import Examples, Finding
from keras_ft.errors import UserError
from keras_ft.jobs.results import Run, conclude
from keras_ft.models.classifier import make_classifier
from keras_ft.models.weights import Weights, load_backbone
from keras_ft.runs import workdir
from keras_ft.serving import export
from keras_ft.system import runtime
from keras_ft.training import losses
from keras_ft.training.callbacks import MONITOR_MODE
from keras_ft.training.checkpoint import keep_last_checkpoint
from keras_ft.training.failures import explain
from keras_ft.training.phases import PhaseResult, load_result, train_phase, write_result

log = logging.getLogger("keras_ft")


def fine_tune(
    config: Config,
    examples: Examples,
    seconds: dict[str, float],
    findings: Sequence[Finding] = (),
) -> dict[str, Any]:
    """Trains, selects, evaluates and exports a classifier.

    Args:
        config: What is asked for.
        examples: The examples.
        seconds: Durations so far by part; those of the parts done here are added.
        findings: What the audit found, for the workdir.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: Weights, images or the workdir can't be used, or training diverged.
    """
    speed = config.speed
    strategy = runtime.make_strategy(speed.strategy, config.data.batch_size)
    begun = workdir.load_unfinished(config)
    precision = (
        begun["precision"] if begun else runtime.choose_precision(speed.precision)
    )
    with strategy.scope(), runtime.measure(seconds, "model"):
        runtime.set_seed(config.run.seed, config.run.deterministic)
        classifier, weights = _make_model(config, len(examples.class_names), begun)
    asked, config = config, config.with_epochs(len(examples.train))
    resolved = _describe_run(config, weights, precision)
    folder = workdir.start(asked, examples, findings, resolved, begun)
    _log_imbalance(config, examples)
    try:
        with strategy.scope(), runtime.precision(precision):
            results, best = _train_phases(config, examples, classifier, folder, seconds)
        run = Run(config, examples, findings, weights, folder)
        metrics = conclude(run, results, best, seconds)
    except (tf.errors.OpError, OSError, MemoryError) as error:
        raise explain(error, config, examples) from error
    workdir.finish(folder, metrics)
    keep_last_checkpoint(folder / "checkpoints", config.phases[-1].name)
    return metrics


def _make_model(
    config: Config, num_classes: int, begun: dict[str, Any] | None
) -> tuple[keras.Model, Weights]:
    """The classifier before training, with the weights that the run began with."""
    preference = config.model.weights
    if begun:
        preference = (begun["weights"]["used"],)
    backbone, weights = load_backbone(
        config.model.backbone, config.data.image_size, preference
    )
    if begun:
        if weights.sha256 != begun["weights"]["sha256"]:
            raise UserError(
                f"The run in {config.run.workdir} began with other weights of "
                f"--weights={weights.used}: SHA-256 {begun['weights']['sha256']}. "
                f"Received: {weights.sha256}; give --overwrite to start anew"
            )
        attempts = tuple(begun["weights"]["attempts"])
        weights = dataclasses.replace(weights, attempts=attempts)
    return make_classifier(backbone, num_classes, config.model.dropout), weights


def _train_phases(
    config: Config,
    examples: Examples,
    classifier: keras.Model,
    folder: Path,
    seconds: dict[str, float],
) -> tuple[list[PhaseResult], PhaseResult]:
    """Runs the phases; model.keras is the best so far at any time."""
    sign = {"min": -1, "max": 1}[MONITOR_MODE[config.selection.monitor]]
    results, best = [], None
    path = folder / "model.keras"
    for phase in config.phases:
        result = load_result(folder, phase)

        def is_best(result: PhaseResult, best: PhaseResult | None = best) -> bool:
            # Strictly better: fine-tuning that gains nothing can't win.
            return best is None or sign * result.monitored > sign * best.monitored

        if result and is_best(result) and not _load_weights(classifier, path):
            result = None
        if not result:
            result = train_phase(config, phase, examples, classifier, folder)
            if is_best(result):
                with runtime.measure(seconds, "export"):
                    export.write_model(classifier, examples.class_names, path)
                workdir.forget_previous(folder)
            write_result(folder, result)
        if is_best(result):
            best = result
        results.append(result)
        features = seconds.get("features", 0.0) + result.features_seconds
        seconds["features"] = features
        seconds[phase.name] = result.seconds - result.features_seconds
    log.info(
        "Best model: phase %s, epoch %d (%s %.4f).",
        best.name,
        best.epoch,
        config.selection.monitor,
        best.monitored,
    )
    return results, best


def _load_weights(classifier: keras.Model, path: Path) -> bool:
    """Gives a classifier the weights of model.keras; returns whether that worked."""
    try:
        classifier.set_weights(export.load_model(path)[0].get_weights())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s): its phase is finished anew.", path, error)
        return False
    return True


def _describe_run(config: Config, weights: Weights, precision: str) -> dict[str, Any]:
    """What run.json records: weights, epochs, precision, devices, package versions."""
    packages = ("keras_ft", "tensorflow", "keras", "numpy", "scikit-learn")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout
            versions[package] = None
    return {
        "weights": dataclasses.asdict(weights),
        "epochs": {phase.name: phase.epochs for phase in config.phases},
        "precision": precision,
        "devices": [device.name for device in tf.config.list_physical_devices()],
        "packages": versions,
    }


def _log_imbalance(config: Config, examples: Examples) -> None:
    counts = np.bincount(examples.train.labels, minlength=len(examples.class_names))
    line = losses.describe_imbalance(
        counts, examples.class_names, config.train.imbalance
    )
    if line:
        log.info("%s", line)
