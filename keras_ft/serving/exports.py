"""Writes a model in several formats and proves that each answers as the model does."""

import contextlib
import dataclasses
import functools
import logging
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import keras
import numpy as np
import tensorflow as tf

from keras_ft.catalog.archive import Description
from keras_ft.catalog.formats import FORMATS, SAVED_MODEL, Format, check_installed
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.modes import ExportConfig
from keras_ft.data.examples import Examples
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.images.decode import decode_and_resize
from keras_ft.kinds.calibration import Calibrated
from keras_ft.kinds.measure import average, measure
from keras_ft.kinds.task import Task
from keras_ft.models.classifier import fold_classifier, get_backbone
from keras_ft.models.trained import describe_network
from keras_ft.models.weights import save_backbone
from keras_ft.runs.find_model import find_model, hash_model
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record, write_record
from keras_ft.runs.run import Run
from keras_ft.runs.run_metrics import ExportResult, RunMetrics
from keras_ft.runs.workdir import remove_exports
from keras_ft.serving.proof import Proof, prove
from keras_ft.serving.trained_classifier import load_classifier

log = logging.getLogger("keras_ft")


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an export is compared with."""

    tasks: Sequence[Task]
    test: Examples
    probabilities: Mapping[str, np.ndarray]  # the Keras model's, float32 [N, K] by task
    # Of each task in the mean accuracy, with the sum 1; empty if images have no labels.
    weights: Mapping[str, float]
    batch_size: int


class ExportMetrics(TypedDict):
    """The part of metrics.json that the export measures, see `RunMetrics`."""

    exports: dict[str, ExportResult]
    inference_images_per_second: float | None
    model_bytes: int


def describe(
    model: keras.Model,
    tasks: Sequence[Task],
    preprocessing: Preprocessing,
    paths: RunPaths,
    metrics: Any,
) -> Description:
    """What is written into the exports of a run.

    The calibrated model is already in model.keras of the workdir. `metrics` is the
    content of metrics.json, if there is one.
    """
    metrics, record = metrics or {}, load_record(paths)
    of_tasks = metrics.get("tasks") or {tasks[0].name: metrics}
    kept = ("accuracy", "accuracy_interval", "macro_f1", "loss", "ece")
    run = {
        "model_sha256": hash_model(paths.model),
        "backbone": get_backbone(model).name,
        "packages": record.packages,
        "warnings": metrics.get("warnings", []),
        "test": {
            name: {key: of_task["test"][key] for key in kept if key in of_task["test"]}
            for name, of_task in of_tasks.items()
            if "test" in of_task
        },
    }
    network = describe_network(model, tasks, preprocessing, record.weights.origin)
    return dataclasses.replace(network, run=run)


def write_exports(
    config: ExportConfig,
    model: keras.Model,
    description: Description,
    paths: RunPaths,
    reference: Reference,
) -> dict[str, ExportResult]:
    """Writes the next version of each format, if it passes the comparison.

    Each is compared before it gets its name: what is in export/ has passed. The model
    is float32 and calibrated.
    """
    folded = fold_classifier(model, description.tasks)

    def write_and_compare(name: str, folder: Path) -> dict[str, Any]:
        row = FORMATS[name]
        with _failing_alone():
            check_installed([name])
            pkgutil.resolve_name(row.write)(folded, description, folder)
            classifier = load_classifier(find_model(folder))
        pixels = _decode_batch(reference, description.preprocessing)
        proof = prove(classifier, reference.test.files, reference.probabilities, pixels)
        fault = _find_fault(proof, row, config.export_agreement)
        return _to_numbers(proof, reference) | {"error": fault}

    return {
        name: _write_version(name, functools.partial(write_and_compare, name), paths)
        for name in dict.fromkeys(config.export_formats)
    }


class _FormatError(Exception):
    """An error of the system, but of one format alone."""


@contextlib.contextmanager
def _failing_alone() -> Iterator[None]:
    """In this block, only a full disk is an error of the system."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if files.explain_full_disk(error):
            raise
        raise _FormatError(f"{type(error).__name__}: {error}") from error


def _write_version(
    name: str, write_and_compare: Callable[[Path], dict[str, Any]], paths: RunPaths
) -> ExportResult:
    """Writes and compares one format; what does not pass is deleted."""
    paths.export.mkdir(parents=True, exist_ok=True)
    result: Any = dict.fromkeys(ExportResult.__annotations__) | {"error": ""}
    with files.partial_folder(paths.export) as partial:
        try:
            result |= write_and_compare(partial)
        except (OSError, tf.errors.OpError):  # of the images, or the disk is full
            raise
        except Exception as failure:
            # Converters and runtimes have errors of all kinds for what they can't do,
            # which must not cost the other formats and the results of the run.
            result["error"] = _explain(failure)
            if name == SAVED_MODEL:  # of this program, or of the user's own code
                log.exception("The export %s failed.", name)
        result["bytes"] = files.count_bytes(partial)
        if result["error"]:
            log.error("No export %s: it %s", name, result["error"])
            return result
        version = max(paths.exported_versions(name), default=0) + 1
        path = paths.export / name / str(version)
        path.parent.mkdir(exist_ok=True)
        partial.chmod(0o755)  # the user who serves it must have access
        partial.rename(path)
    log.info("Exported %s.", path)
    return result | {"path": str(path.relative_to(paths.folder))}


def _explain(failure: Exception) -> str:
    """Why a format could not be written or run, in one line after "it"."""
    reason = str(failure).strip().split("\n")[0]
    if not isinstance(failure, _FormatError | UserError):
        reason = f"{type(failure).__name__}: {reason}"
    return f"can't be made: {reason}"


def _find_fault(proof: Proof, row: Format, agreement: float) -> str:
    """What a comparison finds wrong; empty if nothing."""
    if not proof.difference <= row.tolerance:  # so that NaN is wrong, too
        return (
            f"differs from the Keras model by {proof.difference:.2g} in a probability, "
            f"which rounding does not explain (at most {row.tolerance:g})"
        )
    if not proof.reaches(agreement):
        same, num_images = proof.counts
        return (
            f"gives the answers of the Keras model for {same} of {num_images} test "
            f"images, significantly less than --export_agreement={agreement:g}; a "
            "lower value allows it"
        )
    return ""


def _to_numbers(proof: Proof, reference: Reference) -> dict[str, Any]:
    """The part of an `ExportResult` that a comparison measures."""
    numbers = dataclasses.asdict(proof)
    answers, target_of = numbers.pop("probabilities"), reference.test.target_of
    if not np.isfinite(proof.difference):
        return numbers | {"difference": None}
    if not reference.weights:
        return numbers
    by_task = {
        task.name: measure(task, target_of(task.name), answers[task.name])
        for task in reference.tasks
    }
    return numbers | {"accuracy": average(by_task, reference.weights)["accuracy"]}


def _decode_batch(reference: Reference, preprocessing: Preprocessing) -> tf.Tensor:
    """One batch of decoded images, uint8 [B, H, W, 3], to measure the speed with."""
    # It repeats files if there are fewer.
    names = np.resize(reference.test.files, reference.batch_size)
    images = [files.read_bytes(name) for name in names]
    return tf.cast(decode_and_resize(tf.constant(images), preprocessing), tf.uint8)


def export_run(
    run: Run,
    examples: Examples,
    model: keras.Model,
    calibrated: Mapping[str, Calibrated],
    metrics: RunMetrics,
) -> ExportMetrics:
    """Writes the exports of a run, if the model is accurate enough.

    On the examples of test, they must return the calibrated probabilities. A backbone
    that was trained from random weights is also written by itself, for `--weights` of
    other runs.
    """
    recipe, paths = run.recipe, run.paths
    remove_exports(paths, run.record.early_exports)
    if recipe.model.from_scratch:
        with files.replacing(paths.backbone) as partial:
            save_backbone(get_backbone(model), partial, run.record.weights.origin)
    written: dict[str, ExportResult] = {}
    if metrics["test"]["accuracy"] >= recipe.selection.assert_accuracy_at_least:
        reference = _make_reference(run, examples, calibrated)
        preprocessing = recipe.data.preprocessing
        description = describe(model, reference.tasks, preprocessing, paths, metrics)
        written = write_exports(recipe.export, model, description, paths, reference)
    rates = [row["files_per_second"] for row in written.values() if row["path"]]
    return {
        "exports": written,
        "inference_images_per_second": rates[0] if rates else None,
        "model_bytes": paths.model.stat().st_size,
    }


def export_early(
    run: Run,
    examples: Examples,
    model: keras.Model,
    calibrated: Mapping[str, Calibrated],
    epoch: str,
) -> dict[str, ExportResult]:
    """Exports the best epoch so far of a run that has not finished.

    What is written says so: `epoch` describes it. run.json remembers the versions, so
    that the end of the run neither removes nor replaces them.
    """
    paths, record = run.paths, run.record
    reference = _make_reference(run, examples, calibrated)
    about = {
        "backbone": get_backbone(model).name,
        "packages": record.packages,
        "unfinished": epoch,
        "warnings": [*run.warnings],
    }
    preprocessing = run.recipe.data.preprocessing
    origin = record.weights.origin
    network = describe_network(model, reference.tasks, preprocessing, origin)
    description = dataclasses.replace(network, run=about)
    export = run.recipe.export
    written = write_exports(export, model, description, paths, reference)
    versions = {
        n: int(Path(row["path"]).name) for n, row in written.items() if row["path"]
    }
    record.early_exports = {**record.early_exports, **versions}
    write_record(paths, record, "running")
    return written


def _make_reference(
    run: Run, examples: Examples, calibrated: Mapping[str, Calibrated]
) -> Reference:
    return Reference(
        tuple(of_task.task for of_task in calibrated.values()),
        examples.test,
        {name: c.probabilities["test"] for name, c in calibrated.items()},
        run.recipe.train.weigh(calibrated),
        run.recipe.data.batch_size,
    )
