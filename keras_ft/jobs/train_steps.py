"""The steps of the main job up to the best model."""

import contextlib
import dataclasses
import importlib.metadata
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from keras_ft.audit import audit, decoding
from keras_ft.audit.findings import summarize_findings
from keras_ft.catalog.backbones import Weights, find_backbone
from keras_ft.config.config import Config
from keras_ft.config.phases import Phase
from keras_ft.config.schema import DataConfig
from keras_ft.data.examples import Dataset, Examples, Finding
from keras_ft.errors import UserError
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host import onednn
from keras_ft.host.timer import Timer
from keras_ft.jobs.task_results import (
    calibrate_model,
    calibrate_tasks,
    tasks_of,
)
from keras_ft.models.classifier import get_backbone, make_classifier, set_trainable
from keras_ft.models.trained import describe_network, load_trained
from keras_ft.models.trained_heads import copy_heads
from keras_ft.models.weights import load_start
from keras_ft.runs import workdir
from keras_ft.runs.overwrite import remove_previous
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord
from keras_ft.runs.run_metrics import RunMetrics
from keras_ft.serving import model_files
from keras_ft.system.agreement import check_same
from keras_ft.system.devices import (
    Compute,
    choose_precision,
    set_seed,
    warn_of_unused_gpu,
)
from keras_ft.system.workers import Workers
from keras_ft.tasks import is_plain
from keras_ft.training.checkpoint import keep_last_checkpoint
from keras_ft.training.class_weights import describe_imbalance
from keras_ft.training.failures import explain
from keras_ft.training.phase import train_phase
from keras_ft.training.phase_result import PhaseResult, load_result, write_result

log = logging.getLogger("keras_ft")

_PACKAGES = (
    *("keras_ft", "tensorflow", "keras", "keras-hub", "numpy", "scikit-learn"),
)


def decode_images(dataset: Dataset, config: DataConfig) -> Dataset:
    """Decodes images that were never decoded before, unless there are too many."""
    cache_dir = Path(config.cache_dir).expanduser()
    limit = audit.MAX_IMAGES_BEFORE_TRAINING
    return decoding.decode_images(dataset, cache_dir, limit)


def find_problems(
    config: Config, examples: Examples, dataset: Dataset
) -> list[Finding]:
    """Audits the data and logs a summary."""
    limit = audit.MAX_IMAGES_BEFORE_TRAINING
    findings = audit.find_all(examples, dataset, limit)
    if findings:
        text = summarize_findings(findings)
        log.info("The audit found, all in audit.csv:\n%s", text)
    for name, of_task in examples.train.by_task.items():
        imbalance = describe_imbalance(
            of_task.count_classes(), of_task.class_names, config.train.imbalance
        )
        if imbalance:
            log.info(
                "%s", imbalance if is_plain(examples.tasks) else f"{name}: {imbalance}"
            )
    return findings


def choose_compute(
    config: Config,
    strategy: tf.distribute.Strategy,
    workers: Workers,
    unfinished: RunRecord | None,
) -> Compute:
    """Devices and precision of the run; a resumed run keeps its precision.

    Logs what else decides how fast and how exactly the run computes.
    """
    warn_of_unused_gpu()
    onednn.log_state(unfinished.onednn if unfinished else "auto")
    if unfinished:
        return Compute(strategy, unfinished.precision, workers)
    return Compute(strategy, choose_precision(config.speed.precision), workers)


def make_model(
    config: Config,
    examples: Examples,
    compute: Compute,
    unfinished: RunRecord | None,
) -> tuple[keras.Model, Weights]:
    """Builds the float32 classifier with its initial weights.

    Args:
        config: The requested run.
        examples: Their tasks are those of the classifier.
        compute: Devices of the run.
        unfinished: The record of the run to resume, whose weights are used again.

    Raises:
        UserError: No weights can be used, or those of the run have changed.
    """
    preference = (unfinished.weights.used,) if unfinished else config.model.weights
    with compute.strategy.scope():
        set_seed(config.run.seed, config.run.deterministic)
        start = load_start(
            config.model.backbone, config.data.preprocessing.size, preference
        )
        weights = start.weights
        if unfinished:
            weights = _check_same_weights(config.run.workdir, weights, unfinished)
        classifier = make_classifier(
            start.backbone, examples.tasks, config.model.dropout
        )
        copy_heads(start.heads, classifier, examples.tasks)
    return classifier, weights


def _check_same_weights(
    workdir: str, weights: Weights, unfinished: RunRecord
) -> Weights:
    then = unfinished.weights
    if weights.sha256 != then.sha256:
        raise UserError(
            f"The run in {workdir} began with other weights of "
            f"--weights={weights.used}: SHA-256 {then.sha256}. "
            f"Received: {weights.sha256}; give --overwrite to start again"
        )
    return dataclasses.replace(weights, attempts=then.attempts)


def make_record(
    weights: Weights,
    phases: Sequence[Phase],
    compute: Compute,
    unfinished: RunRecord | None,
) -> RunRecord:
    """What was resolved; a resumed run keeps its record except for its epochs."""
    epochs = {phase.name: phase.epochs for phase in phases}
    if unfinished:
        return dataclasses.replace(unfinished, epochs=epochs)
    devices = tuple(device.name for device in tf.config.list_physical_devices())
    return RunRecord(
        state="running",
        weights=weights,
        epochs=epochs,
        precision=compute.precision,
        devices=devices,
        packages=package_versions(),
        onednn=onednn.is_on(),
    )


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that a result may depend on."""
    return {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return None


@contextlib.contextmanager
def explained_errors(config: Config, examples: Examples) -> Iterator[None]:
    """Turns errors of the system into ones that say what the user can do."""
    try:
        yield
    except (tf.errors.OpError, OSError, MemoryError) as error:
        raise explain(error, config, examples) from error


def run_phases(
    config: Config,
    phases: Sequence[Phase],
    examples: Examples,
    classifier: keras.Model,
    compute: Compute,
    paths: RunPaths,
    timer: Timer,
) -> list[PhaseResult]:
    """Trains the phases, one after the other; model.keras is the best model so far.

    It is calibrated; the classifier is not.

    Args:
        config: The requested run.
        phases: The phases; a resumed run loads the results of finished ones.
        examples: The examples in their splits.
        classifier: Float32 model of `make_model`; each phase begins with the best
            weights of the one before.
        compute: Devices and precision.
        paths: The files of the workdir.
        timer: Gets the phases' durations.
    """
    results: list[PhaseResult] = []
    repeated = False
    is_chief = compute.workers.is_chief
    for phase in phases:
        # After a phase that is trained (again), an earlier result would be of another
        # model.
        result = None if repeated else load_result(paths, phase, examples.tasks)
        if result and _is_best(result, results, config):
            if not _load_weights(classifier, paths.model):
                result = None
            elif is_chief:
                # An earlier version of the program did not calibrate it.
                _write_model(config, classifier, examples, result, paths)
        with compute.strategy.scope():
            check_same({f"result of phase {phase.name}": bool(result)})
        if not result:
            repeated = True
            with compute.scope():
                result = train_phase(config, phase, examples, classifier, paths)
            if is_chief:
                if _is_best(result, results, config):
                    with timer.measure("export"):
                        _write_model(config, classifier, examples, result, paths)
                    remove_previous(paths.folder)
                write_result(paths, result)
        timer.add("features", result.features_seconds)
        timer.add(phase.name, result.seconds - result.features_seconds)
        results.append(result)
    return results


def _write_model(
    config: Config,
    classifier: keras.Model,
    examples: Examples,
    result: PhaseResult,
    paths: RunPaths,
) -> None:
    """Writes model.keras, calibrated."""
    # What was trained last is in the file, too, and a resumed run may not know it.
    backbone = get_backbone(classifier)
    set_trainable(backbone, find_backbone(backbone.name).stage_names, "fixed")
    calibrated = calibrate_tasks(examples, result)
    model = calibrate_model(classifier, calibrated)
    description = describe_network(
        model, tasks_of(calibrated), config.data.preprocessing
    )
    model_files.write_model(model, description, paths.model)


def _is_best(
    result: PhaseResult, earlier: Sequence[PhaseResult], config: Config
) -> bool:
    return select_best([*earlier, result], config.selection.monitor) is result


def select_best(results: Sequence[PhaseResult], monitor: str) -> PhaseResult:
    """The phase with the best epoch; of equal ones the first.

    So fine-tuning that gains nothing is not selected.
    """
    best = results[0]
    for result in results[1:]:
        if MONITORS[monitor].is_better(result.monitored, best.monitored):
            best = result
    return best


def finish(paths: RunPaths, metrics: RunMetrics, phases: Sequence[Phase]) -> None:
    """Writes metrics.json; keeps the checkpoint that more epochs would begin with."""
    workdir.finish(paths, metrics)
    keep_last_checkpoint(paths.checkpoints, phases[-1].name)


def _load_weights(classifier: keras.Model, path: Path) -> bool:
    """Gives a classifier the weights of model.keras; returns whether that worked."""
    try:
        classifier.set_weights(load_trained(path)[0].get_weights())
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s is damaged (%s): its phase is repeated.", path, error)
        return False
    return True
