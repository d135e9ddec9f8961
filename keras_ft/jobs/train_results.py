"""The steps of the main job after the best model: calibration, metrics, exports."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import keras

from keras_ft.audit.findings import count_findings
from keras_ft.catalog.backbones import Weights
from keras_ft.config.config import Config
from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.evaluation.measure import average
from keras_ft.evaluation.split_metrics import Averages
from keras_ft.host import files
from keras_ft.jobs.task_results import (
    CalibratedTasks,
    calibrate_model,
    compute_task_metrics,
    tasks_of,
)
from keras_ft.models.classifier import get_backbone
from keras_ft.models.trained import load_trained
from keras_ft.report import run_page
from keras_ft.report.model_card import write_model_card
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord
from keras_ft.runs.run_metrics import ExportResult, RunMetrics
from keras_ft.runs.workdir import remove_unfinished_exports
from keras_ft.serving import exports
from keras_ft.tasks import is_plain
from keras_ft.training.phase_result import PhaseResult

# What metrics.json has at the top if there is one task with one class per image.
_OF_ONE_TASK = ("class_names", "val", "test", "calibration", "threshold")


def compute_metrics(
    config: Config,
    examples: Examples,
    findings: Sequence[Finding],
    weights: Weights,
    results: Sequence[PhaseResult],
    best: PhaseResult,
    calibrated: CalibratedTasks,
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
    tasks = compute_task_metrics(examples, results, best, calibrated)

    def summarize(by_task: Mapping[str, Any]) -> dict[str, Any]:
        """What is said of all tasks: means, or everything if there is one."""
        if is_plain(examples.tasks):
            only = by_task[examples.task.name]
            return {key: only[key] for key in _OF_ONE_TASK if key in only}
        return {**_average_splits(by_task, config.train.weigh(tasks))}

    metrics: Any = {
        "num_examples": no_examples | collections.Counter(examples.splits),
        "audit": count_findings(findings),
        "weights_used": weights.used,
        "weights_attempts": list(weights.attempts),
        "best_phase": best.name,
        "best_epoch": best.epoch,
        "monitor": config.selection.monitor,
        **summarize(tasks),
    }
    metrics["phases"] = {
        result.name: {
            **_describe_phase(config, examples, result),
            **summarize({n: t["phases"][result.name] for n, t in tasks.items()}),
        }
        for result in results
    }
    if config.data.label_columns:
        metrics["tasks"] = tasks
    return metrics


def _average_splits(
    by_task: Mapping[str, Any], weights: Mapping[str, float]
) -> dict[str, Averages]:
    return {
        split: average({n: of_task[split] for n, of_task in by_task.items()}, weights)
        for split in ("val", "test")
    }


def load_best(
    paths: RunPaths,
    classifier: keras.Model,
    is_best: bool,
    calibrated: CalibratedTasks,
) -> keras.Model:
    """Returns the best model, calibrated.

    Args:
        paths: `model` is the best model.
        classifier: The model of the last phase.
        is_best: Whether that is the best one, which then need not be read.
        calibrated: The probabilities of the best one.
    """
    model = classifier if is_best else load_trained(paths.model)[0]
    return calibrate_model(model, calibrated)


class ExportMetrics(TypedDict):
    """The part of metrics.json that the export measures, see `RunMetrics`."""

    exports: dict[str, ExportResult]
    inference_images_per_second: float | None
    model_bytes: int


def export(
    config: Config,
    examples: Examples,
    model: keras.Model,
    paths: RunPaths,
    calibrated: CalibratedTasks,
    metrics: Mapping[str, Any],
) -> ExportMetrics:
    """Writes the exports, if the model is accurate enough.

    A backbone that was trained from random weights is also written by itself, for
    `--weights` of other runs.

    Args:
        config: The requested run.
        examples: With those of test the exports are compared with the model.
        model: The calibrated model.
        paths: The files of the workdir.
        calibrated: The model's probabilities, which the exports must return.
        metrics: The result of `compute_metrics`.
    """
    remove_unfinished_exports(paths)
    if config.model.from_scratch:
        with files.replacing(paths.backbone) as partial:
            get_backbone(model).save_weights(partial)
    written: dict[str, ExportResult] = {}
    if metrics["test"]["accuracy"] >= config.selection.assert_accuracy_at_least:
        tasks = tasks_of(calibrated)
        description = exports.describe(
            model, tasks, config.data.preprocessing, paths, metrics
        )
        reference = exports.Reference(
            tasks,
            examples.test,
            {name: c.probabilities["test"] for name, c in calibrated.items()},
            config.train.weigh(calibrated),
            config.data.batch_size,
        )
        written = exports.write_artifacts(
            config.export, model, description, paths, reference
        )
    rates = [row["files_per_second"] for row in written.values() if row["path"]]
    return {
        "exports": written,
        "inference_images_per_second": rates[0] if rates else None,
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
    calibrated: CalibratedTasks,
) -> None:
    """Writes report.html, and model_card.md if there is an export."""
    flags = paths.flags.read_text(encoding="utf-8", errors="surrogateescape")
    page = run_page.render(
        metrics,
        examples,
        findings,
        calibrated,
        model,
        record,
        history=files.read_rows(paths.history),
        flags=flags.splitlines(),
        preprocessing=config.data.preprocessing,
    )
    files.write_text(paths.report, page)
    if metrics["exports"]:
        write_model_card(paths, config, metrics, record)


def _describe_phase(
    config: Config, examples: Examples, result: PhaseResult
) -> dict[str, float]:
    num_train = len(examples.train)
    per_epoch = config.steps_per_epoch(num_train) * config.data.batch_size
    seen = min(per_epoch, num_train) * result.epochs
    return {
        "seconds": result.seconds,
        "epochs": result.epochs,
        "best_epoch": result.epoch,
        "images_per_second": seen / result.seconds,
        "monitored": result.monitored,
    }
