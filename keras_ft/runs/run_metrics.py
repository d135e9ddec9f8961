"""metrics.json: the results of a run; fractions, not per cent."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from keras_ft.errors import UserError
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.evaluation.split_metrics import Averages, MultilabelMetrics, SplitMetrics
from keras_ft.host.typed_json import check_type, read_json
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record


class PhaseMetrics(TypedDict):
    """Results of a phase's best epoch, not calibrated."""

    val: SplitMetrics | Averages  # means over the tasks if there are several
    test: SplitMetrics | Averages
    seconds: float
    epochs: int  # that were trained
    best_epoch: int  # from 1
    images_per_second: float  # of training, features included
    monitored: NotRequired[float]  # best --monitor; missing in earlier versions
    # The epochs whose mean its weights are; missing in earlier versions.
    averaged_epochs: NotRequired[list[int]]
    # Whether its heads are those of logistic regression instead of the best epoch's.
    solved: NotRequired[bool]
    # By how much the monitored metric of val is better than that of the best phase
    # before, positive is better, and the standard error of that. A phase replaces those
    # before it unless it is worse by more than that. None of the first; missing in
    # earlier versions.
    gain: NotRequired[float | None]
    standard_error: NotRequired[float | None]


class Calibration(TypedDict):
    """How probabilities were calibrated."""

    temperature: float  # the divisor of the logits, 1 if none was fitted
    fitted_on: str  # `val`
    reason: str  # why no temperature was fitted; empty if one was
    before: dict[str, dict[str, float]]  # `loss` and `ece` of val and test without it


class Threshold(TypedDict):
    """Thresholds that were chosen on val, and what they change on test.

    Of two classes of which one applies, there is one for the second class, with the
    best balanced accuracy; no answer of the model uses it. Of a multilabel task, each
    class has one, with the best F1, which all answers use: see `TagMetrics`.
    """

    # Why none was chosen, and all are one half; empty if one was.
    reason: NotRequired[str]
    # Whether answers, and so `val` and `test`, use them. Earlier versions lack both.
    in_use: NotRequired[bool]
    class_name: NotRequired[str]  # the second of two classes
    value: NotRequired[float]  # in [0, 1], from which on it would be predicted
    # `accuracy`, `balanced_accuracy` and `macro_f1` with thresholds, and without: with
    # one half. Of two classes, also `precision` and `recall` of the second.
    test: dict[str, float]
    test_without: NotRequired[dict[str, float]]  # missing in earlier versions


class TaskResults(TypedDict):
    """The results of one task."""

    kind: str  # `multiclass` or `multilabel`
    class_names: list[str]
    num_examples: dict[str, int]  # labelled ones by split
    val: SplitMetrics | MultilabelMetrics  # of the calibrated model
    test: SplitMetrics | MultilabelMetrics
    calibration: Calibration
    threshold: NotRequired[Threshold]  # with two classes, or if multilabel
    # By phase and split, of its best epoch, not calibrated: as `val` and `test`, but
    # without `confusion_matrix`.
    phases: dict[str, dict[str, Averages]]


class ExportResult(TypedDict):
    """An export, and how it compares on test, in its own runtime, with the Keras model.

    None is what an earlier version of the program did not measure.
    """

    path: str | None  # of the version, relative to the workdir; None if it was deleted
    error: str  # why it was deleted, in one line, or why it could not be written
    difference: float | None  # largest, of a probability from the Keras model's
    agreement: float | None  # share of images with the same answers to all tasks
    accuracy: float | None  # as of `test`; None if the run's images are gone
    bytes: int | None  # size of its folder
    milliseconds: float | None  # median time for one decoded image
    images_per_second: float | None  # decoded ones, in batches of the run's size
    files_per_second: float | None  # the same, with reading and decoding


class RunMetrics(TypedDict):
    """The content of metrics.json.

    With several tasks, or a multilabel one, `class_names`, `calibration` and
    `threshold` are only in `tasks`, and `val` and `test` are means over the tasks.
    """

    class_names: NotRequired[list[str]]
    num_examples: dict[str, int]  # by split
    audit: dict[str, int]  # number of findings about the data, by name
    warnings: list[str]  # why results can't be trusted, a sentence each
    weights_used: str
    # The item of --weights with which the first run of a chain of models began, empty
    # if that is unknown; and terms that come with it.
    weights_origin: str
    weights_terms: str
    weights_attempts: list[Mapping[str, str]]  # `weights`, `error` of unusable ones
    best_phase: str  # of the selected model
    best_epoch: int  # in that phase, from 1
    monitor: str  # the metric that selected it
    val: SplitMetrics | Averages  # of the calibrated model
    test: SplitMetrics | Averages
    calibration: NotRequired[Calibration]
    threshold: NotRequired[Threshold]  # with two classes
    phases: dict[str, PhaseMetrics]
    tasks: NotRequired[dict[str, TaskResults]]  # if --label_columns names them
    exports: dict[str, ExportResult]  # by format; empty if test accuracy was too low
    # Of the first export, reading and decoding included; None without exports.
    inference_images_per_second: float | None
    model_bytes: int  # size of model.keras
    seconds: dict[str, float]  # by part, and `total`


# What every version has written where the types above allow any keys or any length.
class _Counts(TypedDict):
    train: int
    val: int
    test: int


class _Errors(TypedDict):
    loss: float
    ece: float


class _Before(TypedDict):
    test: _Errors


class _Uncalibrated(TypedDict):
    before: _Before


class _Test(TypedDict):
    accuracy_interval: tuple[float, float]


class _Task(TypedDict):
    num_examples: _Counts
    test: _Test
    calibration: _Uncalibrated


class _Seconds(TypedDict):
    total: float


class _Run(TypedDict):
    num_examples: _Counts
    seconds: _Seconds


class _RunOfTasks(TypedDict):
    tasks: dict[str, _Task]


def load_metrics(paths: RunPaths) -> RunMetrics | None:
    """Reads the metrics of a finished run; None if the folder contains none."""
    return read_metrics(paths) if load_record(paths).state == "finished" else None


def read_metrics(paths: RunPaths) -> RunMetrics:
    """Reads metrics.json; a UserError if it is missing or damaged."""
    try:
        metrics = read_json(paths.metrics, dict)
        # A run of before there were several formats of export has one number about it.
        metrics.setdefault("exports", {})
        # Earlier versions did not have these.
        defaults = {"warnings": [], "weights_origin": "", "weights_terms": ""}
        metrics.update(defaults | metrics)
        check_type(metrics, RunMetrics)
        is_one_task = "class_names" in metrics
        for split in ("val", "test"):
            check_type(metrics[split], SplitMetrics if is_one_task else Averages, split)
        for shape in (_Run, _Task if is_one_task else _RunOfTasks):
            check_type(metrics, shape)
        if metrics["monitor"] not in MONITORS:
            raise ValueError(f"monitor is {metrics['monitor']}")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{paths.metrics} is damaged: {error}. Restore it, or give --overwrite to "
            "train again; the model can be used all the same."
        ) from error
    return metrics
