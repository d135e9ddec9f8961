"""The types of metrics."""

from typing import NotRequired, TypedDict


class ClassMetrics(TypedDict):
    """Metrics of one class, in [0, 1], and its number of examples."""

    precision: float
    recall: float
    f1: float
    support: int


class Intervals(TypedDict, total=False):
    """Lower and upper bounds of 95 % confidence intervals, where they are computed."""

    accuracy_interval: list[float]
    macro_f1_interval: list[float]


class Averages(TypedDict):
    """The metrics that all tasks have, also of several, weighted by `--task_weights`.

    Fractions are in [0, 1], as JSON holds them; losses are in nats.

    Attributes:
        accuracy: Fraction of examples all of whose answers are correct.
        loss: Mean cross-entropy of the answers.
        macro_f1: Mean F1 over the classes that occur.
        balanced_accuracy: Mean recall over the classes that occur. Of a multilabel task
            the mean over the classes of the mean of two recalls, that of the examples
            to which the class applies and that of the others.
    """

    accuracy: float
    loss: float
    macro_f1: float
    balanced_accuracy: float


class SplitMetrics(Averages, Intervals):
    """Metrics on one split of N examples.

    Attributes:
        ece: Expected calibration error.
        confusion_matrix: [K][K], rows are labels, columns predictions.
        roc_auc: Area under the ROC curve of the second of two classes; None if only
            one of them occurs.
        pr_auc: The same for average precision.
    """

    ece: float
    per_class: dict[str, ClassMetrics]
    confusion_matrix: list[list[int]]
    roc_auc: NotRequired[float | None]
    pr_auc: NotRequired[float | None]


class TagMetrics(ClassMetrics):
    """Metrics of one class of a multilabel task, with its threshold.

    `average_precision` is None if the class applies to no example.
    """

    average_precision: float | None
    threshold: float


class MultilabelMetrics(Averages, Intervals):
    """Metrics of a multilabel task on one split.

    The mean average precision is over the classes that occur, None if none does;
    `micro_f1` is of all answers together, as is `ece`, the expected calibration error.
    """

    mean_average_precision: float | None
    micro_f1: float
    ece: float
    per_class: dict[str, TagMetrics]
