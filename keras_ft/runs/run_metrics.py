"""metrics.json: the results of a run."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from keras_ft.evaluation.split_metrics import (
    Averages,
    MultilabelMetrics,
    SplitMetrics,
)
from keras_ft.host import files
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record


class PhaseMetrics(TypedDict):
    """Results of a phase's best epoch, not calibrated.

    Attributes:
        val: Metrics on val; means over the tasks if there are several.
        test: The same on test.
        seconds: Duration of the phase.
        epochs: Number of epochs that were trained.
        best_epoch: The best of them, from 1.
        images_per_second: Training images per second, features included.
        monitored: The best value of `--monitor`; earlier versions did not write it.
    """

    val: SplitMetrics | Averages
    test: SplitMetrics | Averages
    seconds: float
    epochs: int
    best_epoch: int
    images_per_second: float
    monitored: NotRequired[float]


class Calibration(TypedDict):
    """How probabilities were calibrated.

    Attributes:
        temperature: The divisor of the logits, 1 if none was fitted.
        fitted_on: `val`.
        reason: Why no temperature was fitted; empty if one was.
        before: `loss` and `ece` on val and test without the temperature.
    """

    temperature: float
    fitted_on: str
    reason: str
    before: dict[str, dict[str, float]]


class Threshold(TypedDict):
    """With two classes, the threshold with the best balanced accuracy on val.

    Attributes:
        class_name: The second class, predicted from this probability on.
        value: In [0, 1].
        test: Accuracy, balanced accuracy, precision and recall on test with it.
    """

    class_name: str
    value: float
    test: dict[str, float]


class TaskPhase(TypedDict):
    """Results of a phase's best epoch for one task, not calibrated.

    With several tasks there is no `confusion_matrix`.
    """

    val: SplitMetrics | MultilabelMetrics
    test: SplitMetrics | MultilabelMetrics


class TaskResults(TypedDict):
    """The results of one task.

    Attributes:
        kind: `multiclass` or `multilabel`.
        class_names: The K classes.
        num_examples: Number of labelled examples by split.
        val: Metrics of the calibrated model on val.
        test: Metrics of the calibrated model on test.
        calibration: How it was calibrated.
        threshold: Only with two classes of which one applies.
        phases: Results by phase.
    """

    kind: str
    class_names: list[str]
    num_examples: dict[str, int]
    val: SplitMetrics | MultilabelMetrics
    test: SplitMetrics | MultilabelMetrics
    calibration: Calibration
    threshold: NotRequired[Threshold]
    phases: dict[str, TaskPhase]


class ExportResult(TypedDict):
    """An export, and how it compares with the Keras model on test, in its own runtime.

    None is what an earlier version of the program did not measure.

    Attributes:
        path: Folder of the version, relative to the workdir; None if it was deleted.
        error: Why it was deleted, in one line, or why it could not be written.
        difference: Largest difference of a probability from the Keras model's.
        agreement: Share of the images for which the answers to all tasks are the same.
        accuracy: Accuracy, as of `test`; None if the run's images are gone.
        bytes: Size of its folder.
        milliseconds: Median time for one decoded image.
        images_per_second: Decoded images per second in batches of the run's size.
        files_per_second: The same, with files that are read and decoded.
    """

    path: str | None
    error: str
    difference: float | None
    agreement: float | None
    accuracy: float | None
    bytes: int | None
    milliseconds: float | None
    images_per_second: float | None
    files_per_second: float | None


class RunMetrics(TypedDict):
    """The content of metrics.json; fractions, not per cent.

    With several tasks, or a multilabel one, `class_names`, `calibration` and
    `threshold` are only in `tasks`, and `val` and `test` are means over the tasks.

    Attributes:
        class_names: The K classes.
        num_examples: Number of examples by split.
        audit: Number of findings about the data by name.
        weights_used: The initial weights.
        weights_attempts: `weights` and `error` of each that could not be used.
        best_phase: Phase of the selected model.
        best_epoch: Its epoch in that phase, from 1.
        monitor: The metric that selected it.
        val: Metrics of the calibrated model on val.
        test: Metrics of the calibrated model on test.
        calibration: How it was calibrated.
        threshold: Only with two classes.
        phases: Results by phase.
        tasks: Results by task, if `--label_columns` names them.
        exports: The exports by format; empty if the accuracy on test was too low.
        inference_images_per_second: Images that the first of them classifies per
            second, reading and decoding included; None if nothing was exported.
        model_bytes: Size of model.keras.
        seconds: Duration by part, and `total`.
    """

    class_names: NotRequired[list[str]]
    num_examples: dict[str, int]
    audit: dict[str, int]
    weights_used: str
    weights_attempts: list[Mapping[str, str]]
    best_phase: str
    best_epoch: int
    monitor: str
    val: SplitMetrics | Averages
    test: SplitMetrics | Averages
    calibration: NotRequired[Calibration]
    threshold: NotRequired[Threshold]
    phases: dict[str, PhaseMetrics]
    tasks: NotRequired[dict[str, TaskResults]]
    exports: dict[str, ExportResult]
    inference_images_per_second: float | None
    model_bytes: int
    seconds: dict[str, float]


def load_metrics(paths: RunPaths) -> RunMetrics | None:
    """Reads the metrics of a finished run; None if the folder contains none.

    Raises:
        UserError: The folder's run.json is damaged.
    """
    return read_metrics(paths) if load_record(paths).state == "finished" else None


def read_metrics(paths: RunPaths) -> RunMetrics:
    """Reads metrics.json."""
    metrics = files.read_json(paths.metrics)
    # A run of before there were several formats of export has one number about it.
    metrics.setdefault("exports", {})
    return metrics
