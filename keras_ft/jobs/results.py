"""What trained phases end in: a calibrated model, its metrics and its export."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_ft.audit import audit
from keras_ft.config.schema import Config
from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.evaluation.calibration import (
    apply_temperature,
    choose_threshold,
    fit_temperature,
)
from keras_ft.evaluation.metrics import compute_metrics, confidence_intervals
from keras_ft.models.classifier import get_backbone, set_temperature
from keras_ft.models.weights import Weights
from keras_ft.report import run_page
from keras_ft.runs import workdir
from keras_ft.serving import export
from keras_ft.system import files, runtime
from keras_ft.training.phases import PhaseResult


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run was given.

    Attributes:
        config: What was asked for.
        examples: The examples.
        findings: What the audit found.
        weights: The weights that training began with.
        folder: The workdir.
    """

    config: Config
    examples: Examples
    findings: Sequence[Finding]
    weights: Weights
    folder: Path


def conclude(
    run: Run,
    phases: Sequence[PhaseResult],
    best: PhaseResult,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Calibrates, measures and exports the best model of a run.

    Args:
        run: What the run was given; its workdir holds the best model's model.keras.
        phases: What the phases gave.
        best: The one whose best epoch is the best of all.
        seconds: Durations so far by part; those of the parts done here are added.

    Returns:
        The content of metrics.json.
    """
    examples = run.examples
    temperature, reason = fit_temperature(
        examples.val.labels, best.probabilities["val"]
    )
    probabilities = {
        name: apply_temperature(of_split, temperature)
        for name, of_split in best.probabilities.items()
    }
    of_phases = {phase.name: _describe_phase(run, phase) for phase in phases}
    metrics = {
        **_describe_data(run),
        **_describe_choice(run, best),
        **_measure_surely(probabilities, examples),
        "calibration": {
            "temperature": temperature,
            "fitted_on": "val",
            "reason": reason,
            "before": {
                name: {key: of_phases[best.name][name][key] for key in ("loss", "ece")}
                for name in probabilities
            },
        },
        **_describe_threshold(probabilities, examples),
        "phases": of_phases,
    }
    with runtime.measure(seconds, "export"):
        model = _write_model(run, temperature)
        metrics |= _export(run, model, probabilities["test"], metrics["test"])
    metrics["seconds"] = _add_up(seconds)
    with runtime.measure(seconds, "report"):
        run_page.write_report(
            run.folder, metrics, examples, run.findings, probabilities, model
        )
    return metrics | {"seconds": _add_up(seconds)}


def _add_up(seconds: dict[str, float]) -> dict[str, float]:
    return {**seconds, "total": sum(seconds.values())}


def _measure(
    probabilities: dict[str, np.ndarray], examples: Examples
) -> dict[str, dict[str, Any]]:
    """Metrics on val and test."""
    return {
        name: compute_metrics(getattr(examples, name).labels, p, examples.class_names)
        for name, p in probabilities.items()
    }


def _measure_surely(
    probabilities: dict[str, np.ndarray], examples: Examples
) -> dict[str, dict[str, Any]]:
    """Metrics on val and test with their intervals."""
    return {
        name: of_split
        | confidence_intervals(getattr(examples, name).labels, probabilities[name])
        for name, of_split in _measure(probabilities, examples).items()
    }


def _describe_choice(run: Run, best: PhaseResult) -> dict[str, Any]:
    return {
        "weights_used": run.weights.used,
        "weights_attempts": list(run.weights.attempts),
        "best_phase": best.name,
        "best_epoch": best.epoch,
        "monitor": run.config.selection.monitor,
    }


def _describe_data(run: Run) -> dict[str, Any]:
    counts = dict.fromkeys((*SPLIT_NAMES, "skipped"), 0)
    return {
        "class_names": list(run.examples.class_names),
        "num_examples": counts | collections.Counter(run.examples.splits),
        "audit": audit.count(run.findings),
    }


def _describe_threshold(
    probabilities: dict[str, np.ndarray], examples: Examples
) -> dict[str, Any]:
    """With two classes, the threshold that val suggests and what it gives on test."""
    if len(examples.class_names) != 2 or len(np.unique(examples.val.labels)) < 2:
        return {}
    value = choose_threshold(examples.val.labels, probabilities["val"][:, 1])
    # From the threshold on class 1 wins, as it does from one half on in argmax.
    decided = np.eye(2)[(probabilities["test"][:, 1] >= value).astype(int)]
    of_test = compute_metrics(examples.test.labels, decided, examples.class_names)
    name = examples.class_names[1]
    return {
        "threshold": {
            "class_name": name,
            "value": value,
            "test": {
                "accuracy": of_test["accuracy"],
                "balanced_accuracy": of_test["balanced_accuracy"],
                "precision": of_test["per_class"][name]["precision"],
                "recall": of_test["per_class"][name]["recall"],
            },
        }
    }


def _describe_phase(run: Run, phase: PhaseResult) -> dict[str, Any]:
    """A phase's part of metrics.json; its model is not calibrated."""
    config, num_train = run.config, len(run.examples.train)
    in_epoch = config.steps_per_epoch(num_train) * config.data.batch_size
    return {
        **_measure(phase.probabilities, run.examples),
        "seconds": phase.seconds,
        "epochs": phase.epochs,
        "best_epoch": phase.epoch,
        "images_per_second": min(in_epoch, num_train) * phase.epochs / phase.seconds,
    }


def _write_model(run: Run, temperature: float) -> keras.Model:
    """Makes model.keras the calibrated model; keeps the backbone if it is a new one."""
    path = run.folder / "model.keras"
    trained, class_names = export.load_model(path)
    model = set_temperature(trained, temperature)
    export.write_model(model, class_names, path)
    if run.weights.used == "none":
        # What another run takes as --weights.
        with files.replacing(run.folder / "backbone.weights.h5") as partial:
            get_backbone(model).save_weights(partial)
    return model


def _export(
    run: Run, model: keras.Model, expected: np.ndarray, test: dict[str, Any]
) -> dict[str, Any]:
    """Writes the SavedModel, if the model is good enough.

    Args:
        run: What the run was given.
        model: The calibrated model.
        expected: float [N, K], probabilities of the test images.
        test: Metrics on test.

    Returns:
        Part of metrics.json; null what is known by exporting only.
    """
    workdir.forget_unfinished_exports(run.folder)
    difference = rate = None
    if test["accuracy"] >= run.config.selection.assert_accuracy_at_least:
        version = export.write_saved_model(
            model, run.examples.class_names, run.folder / "export" / "saved_model"
        )
        difference, rate = export.check_parity(
            version, run.examples.test.files, expected
        )
    return {
        "export_difference": difference,
        "inference_images_per_second": rate,
        "model_bytes": (run.folder / "model.keras").stat().st_size,
    }
