"""The loop over phases, and the best model over all of them."""

import collections
import dataclasses
import errno
import importlib.metadata
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft import audit, export, losses, page, runtime, workdir
from keras_ft.callbacks import MONITOR_MODE
from keras_ft.checkpoint import keep_last_checkpoint
from keras_ft.config import Config, UserError
from keras_ft.data import Splits, list_bad
from keras_ft.evaluate import compute_metrics
from keras_ft.model import make_classifier
from keras_ft.phases import PhaseResult, load_result, train_phase, write_result
from keras_ft.sources import SPLIT_NAMES, Finding
from keras_ft.weights import Weights, load_backbone

log = logging.getLogger("keras_ft")


# What TensorFlow raises where an image file is gone, closed or no image.
_FILE_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
    tf.errors.PermissionDeniedError,
)
# How systems say that a disk or a quota is full.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fine_tune(
    config: Config,
    splits: Splits,
    seconds: dict[str, float],
    findings: Sequence[Finding] = (),
) -> dict[str, Any]:
    """Trains, selects, evaluates and exports a classifier.

    Args:
        config: What is asked for.
        splits: The examples.
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
        classifier, weights = _make_model(config, len(splits.class_names), begun)
    asked, config = config, config.with_epochs(len(splits.train))
    resolved = _describe_run(config, weights, precision)
    folder = workdir.start(asked, splits, findings, resolved, begun)
    _log_imbalance(config, splits)
    try:
        with strategy.scope(), runtime.precision(precision):
            results, best = _train_phases(config, splits, classifier, folder, seconds)
        with runtime.measure(seconds, "export"):
            difference = _export(folder, splits, best)
    except (tf.errors.OpError, OSError, MemoryError) as error:
        raise _explained(error, config, splits) from error
    metrics = {
        **_describe_data(splits, findings),
        "weights_used": weights.used,
        "weights_attempts": list(weights.attempts),
        "best_phase": best.name,
        "best_epoch": best.epoch,
        "monitor": config.selection.monitor,
        **_measure(best, splits),
        "phases": {result.name: _report(result, splits) for result in results},
        "export_difference": difference,
        "seconds": _add_up(seconds),
    }
    with runtime.measure(seconds, "report"):
        model, _ = export.load_model(folder / "model.keras")
        page.write_report(folder, metrics, splits, findings, best.probabilities, model)
    metrics["seconds"] = _add_up(seconds)
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
    splits: Splits,
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
            result = train_phase(config, phase, splits, classifier, folder)
            if is_best(result):
                with runtime.measure(seconds, "export"):
                    export.write_model(classifier, splits.class_names, path)
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


def _export(folder: Path, splits: Splits, best: PhaseResult) -> float:
    """Exports the best model; returns the largest difference to its probabilities."""
    model, class_names = export.load_model(folder / "model.keras")
    saved_model = folder / "export" / "saved_model"
    workdir.forget_unfinished_exports(folder)
    version = export.write_saved_model(model, class_names, saved_model)
    expected = best.probabilities["test"]
    return export.check_parity(version, splits.test.files, expected)


def _load_weights(classifier: keras.Model, path: Path) -> bool:
    """Gives a classifier the weights of model.keras; returns whether that worked."""
    try:
        classifier.set_weights(export.load_model(path)[0].get_weights())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s): its phase is finished anew.", path, error)
        return False
    return True


def _measure(result: PhaseResult, splits: Splits) -> dict[str, Any]:
    """Metrics of a phase's best epoch on val and test."""
    return {
        name: compute_metrics(
            getattr(splits, name).labels, probabilities, splits.class_names
        )
        for name, probabilities in result.probabilities.items()
    }


def _add_up(seconds: dict[str, float]) -> dict[str, float]:
    return {**seconds, "total": sum(seconds.values())}


def _report(result: PhaseResult, splits: Splits) -> dict[str, Any]:
    """A phase's part of metrics.json."""
    return {
        **_measure(result, splits),
        "seconds": result.seconds,
        "epochs": result.epochs,
        "best_epoch": result.epoch,
        "images_per_second": len(splits.train) * result.epochs / result.seconds,
    }


def _describe_data(splits: Splits, findings: Sequence[Finding]) -> dict[str, Any]:
    counts = dict.fromkeys((*SPLIT_NAMES, "skipped"), 0)
    return {
        "class_names": list(splits.class_names),
        "num_examples": counts | collections.Counter(splits.examples.splits),
        "audit": audit.count(findings),
    }


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


def _log_imbalance(config: Config, splits: Splits) -> None:
    counts = np.bincount(splits.train.labels, minlength=len(splits.class_names))
    line = losses.describe_imbalance(counts, splits.class_names, config.train.imbalance)
    if line:
        log.info("%s", line)


def _explained(error: Exception, config: Config, splits: Splits) -> Exception:
    """What the user can mend about an error, or the same error if nothing is known."""
    text = str(error)
    if getattr(error, "errno", None) in _NO_ROOM or "No space left" in text:
        return UserError(
            f"There is no room left for {config.run.workdir}. Make room; the same "
            f"command goes on with the run. Received: {text.partition(chr(10))[0]}"
        )
    if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
        return UserError(
            "The memory does not suffice. Lower --batch_size, "
            f"{config.data.batch_size}, or --image_size, {config.data.image_size}; as "
            "that is another run, in another --workdir or with --overwrite."
        )
    if isinstance(error, _FILE_ERRORS):
        return _explained_by_images(error, config, splits)
    return error


def _explained_by_images(error: Exception, config: Config, splits: Splits) -> Exception:
    """The error that names the unreadable images, or the same error if none is.

    What is found now is remembered, so that the next run can leave it out.
    """
    used = splits.examples.take(np.isin(splits.examples.splits, SPLIT_NAMES))
    facts = audit.decode_all(used.files, Path(config.data.cache_dir).expanduser())
    bad = used.paths[facts["problem"] > 0]
    if not len(bad):
        return error
    return UserError(
        "Image files must stay readable while a run needs them. Restore them and give "
        "the same command, or start anew without them by --overwrite. Received: "
        f"{list_bad(bad, len(used))}"
    )
