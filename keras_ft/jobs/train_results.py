"""The steps of the main job after the best model: calibration, metrics, artifacts."""

import collections
from collections.abc import Sequence
from typing import Any, TypedDict

import keras
import numpy as np

from keras_ft.audit.summary import count_findings
from keras_ft.config.config import Config
from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.evaluation import metrics as evaluation
from keras_ft.evaluation.calibration import Calibrated, choose_threshold
from keras_ft.evaluation.split_metrics import SplitMetrics
from keras_ft.models.archive import Description
from keras_ft.models.backbones import Weights
from keras_ft.models.classifier import get_backbone, set_temperature
from keras_ft.report import run_page
from keras_ft.runs.metrics import Calibration, PhaseMetrics, RunMetrics, Threshold
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord
from keras_ft.runs.workdir import remove_unfinished_exports
from keras_ft.serving import export as serving
from keras_ft.system import files
from keras_ft.training.phase_result import PhaseResult


def compute_metrics(
    config: Config,
    examples: Examples,
    findings: Sequence[Finding],
    weights: Weights,
    results: Sequence[PhaseResult],
    best: PhaseResult,
    calibrated: Calibrated,
) -> RunMetrics:
    """The content of metrics.json, except for the export and the durations.

    Args:
        config: The requested run.
        examples: The examples in their splits.
        findings: The audit's findings.
        weights: The initial weights.
        results: The phases' results.
        best: The result of the best phase.
        calibrated: Its calibrated probabilities.
    """
    no_examples = dict.fromkeys((*SPLIT_NAMES, "skipped"), 0)
    metrics: Any = {
        "class_names": list(examples.class_names),
        "num_examples": no_examples | collections.Counter(examples.splits),
        "audit": count_findings(findings),
        "weights_used": weights.used,
        "weights_attempts": list(weights.attempts),
        "best_phase": best.name,
        "best_epoch": best.epoch,
        "monitor": config.selection.monitor,
    }
    for name, probabilities in calibrated.probabilities.items():
        labels = examples.split(name).labels
        metrics[name] = evaluation.compute_metrics(
            labels, probabilities, examples.class_names
        ) | evaluation.confidence_intervals(labels, probabilities)
    phases = {
        result.name: _compute_phase_metrics(config, examples, result)
        for result in results
    }
    metrics["calibration"] = _describe_calibration(calibrated, phases[best.name])
    threshold = _choose_threshold(examples, calibrated.probabilities)
    if threshold:
        metrics["threshold"] = threshold
    metrics["phases"] = phases
    return metrics


def load_best(
    paths: RunPaths, classifier: keras.Model, is_best: bool, calibrated: Calibrated
) -> keras.Model:
    """Returns the best model, calibrated.

    Args:
        paths: `model` is the best model.
        classifier: The model of the last phase.
        is_best: Whether that is the best one, which then need not be read.
        calibrated: The probabilities of the best one.
    """
    model = classifier if is_best else serving.load_model(paths.model)[0]
    return set_temperature(model, calibrated.temperature)


class ExportMetrics(TypedDict):
    """The part of metrics.json that the export measures, see `RunMetrics`."""

    export_difference: float | None
    inference_images_per_second: float | None
    model_bytes: int


def export(
    config: Config,
    examples: Examples,
    model: keras.Model,
    paths: RunPaths,
    calibrated: Calibrated,
) -> ExportMetrics:
    """Writes the SavedModel, if the model is accurate enough.

    A backbone that was trained from random weights is also written by itself, for
    `--weights` of other runs.

    Args:
        config: `assert_accuracy_at_least` and `resize`.
        examples: Those of test are sent to the SavedModel to check it.
        model: The calibrated model.
        paths: The files of the workdir.
        calibrated: The model's probabilities, which the SavedModel must return.
    """
    remove_unfinished_exports(paths)
    if config.model.from_scratch:
        with files.replacing(paths.backbone) as partial:
            get_backbone(model).save_weights(partial)
    difference = rate = None
    test, probabilities = examples.test, calibrated.probabilities["test"]
    accuracy = np.mean(probabilities.argmax(axis=1) == test.labels)
    if accuracy >= config.selection.assert_accuracy_at_least:
        description = Description(examples.class_names, config.data.resize)
        version = serving.write_saved_model(model, description, paths.saved_model)
        difference, rate = serving.check_parity(version, test.files, probabilities)
    return {
        "export_difference": difference,
        "inference_images_per_second": rate,
        "model_bytes": paths.model.stat().st_size,
    }


def report(
    config: Config,
    paths: RunPaths,
    record: RunRecord,
    metrics: RunMetrics,
    examples: Examples,
    findings: Sequence[Finding],
    model: keras.Model,
    calibrated: Calibrated,
) -> None:
    """Writes report.html."""
    flags = paths.flags.read_text(encoding="utf-8", errors="surrogateescape")
    page = run_page.render(
        metrics,
        examples,
        findings,
        calibrated.probabilities["test"],
        model,
        record,
        history=files.read_rows(paths.history),
        flags=flags.splitlines(),
        resize=config.data.resize,
    )
    files.write_text(paths.report, page)


def _compute_phase_metrics(
    config: Config, examples: Examples, result: PhaseResult
) -> PhaseMetrics:
    """Results of a phase, whose model is not calibrated."""
    num_train = len(examples.train)
    per_epoch = config.steps_per_epoch(num_train) * config.data.batch_size
    seen = min(per_epoch, num_train) * result.epochs
    return {
        "val": _compute_split_metrics(examples.val, result.probabilities["val"]),
        "test": _compute_split_metrics(examples.test, result.probabilities["test"]),
        "seconds": result.seconds,
        "epochs": result.epochs,
        "best_epoch": result.epoch,
        "images_per_second": seen / result.seconds,
    }


def _compute_split_metrics(
    examples: Examples, probabilities: np.ndarray
) -> SplitMetrics:
    return evaluation.compute_metrics(
        examples.labels, probabilities, examples.class_names
    )


def _describe_calibration(calibrated: Calibrated, phase: PhaseMetrics) -> Calibration:
    before = {
        "val": {key: phase["val"][key] for key in ("loss", "ece")},
        "test": {key: phase["test"][key] for key in ("loss", "ece")},
    }
    return {
        "temperature": calibrated.temperature,
        "fitted_on": "val",
        "reason": calibrated.reason,
        "before": before,
    }


def _choose_threshold(
    examples: Examples, probabilities: dict[str, np.ndarray]
) -> Threshold | None:
    """With two classes, the threshold chosen on val and its results on test."""
    names, labels = examples.class_names, examples.val.labels
    if len(names) != 2 or len(np.unique(labels)) < 2:
        return None
    value = choose_threshold(labels, probabilities["val"][:, 1])
    # From the threshold on class 1 is predicted, as argmax does from one half on.
    decisions = np.eye(2)[(probabilities["test"][:, 1] >= value).astype(int)]
    test = _compute_split_metrics(examples.test, decisions)
    return {
        "class_name": names[1],
        "value": value,
        "test": {
            "accuracy": test["accuracy"],
            "balanced_accuracy": test["balanced_accuracy"],
            "precision": test["per_class"][names[1]]["precision"],
            "recall": test["per_class"][names[1]]["recall"],
        },
    }
