"""The types of metrics."""

from typing import NotRequired, TypedDict


class ClassMetrics(TypedDict):
    """Metrics of one class, in [0, 1], and its number of examples."""

    precision: float
    recall: float
    f1: float
    support: int


class Intervals(TypedDict):
    """Lower and upper bounds of 95 % confidence intervals."""

    accuracy_interval: list[float]
    macro_f1_interval: list[float]


class SplitMetrics(TypedDict):
    """Metrics on one split of N examples; fractions in [0, 1], as JSON holds them.

    Attributes:
        accuracy: Fraction of correct predictions.
        loss: Mean cross-entropy in nats.
        macro_f1: Mean F1 over the classes that occur.
        balanced_accuracy: Mean recall over the classes that occur.
        ece: Expected calibration error.
        per_class: Metrics by class name.
        confusion_matrix: [K][K], rows are labels, columns predictions.
        roc_auc: Area under the ROC curve of the second of two classes; None if only
            one of them occurs.
        pr_auc: The same for average precision.
        accuracy_interval: See `confidence_intervals`.
        macro_f1_interval: See `confidence_intervals`.
    """

    accuracy: float
    loss: float
    macro_f1: float
    balanced_accuracy: float
    ece: float
    per_class: dict[str, ClassMetrics]
    confusion_matrix: list[list[int]]
    roc_auc: NotRequired[float | None]
    pr_auc: NotRequired[float | None]
    accuracy_interval: NotRequired[list[float]]
    macro_f1_interval: NotRequired[list[float]]


class TagMetrics(TypedDict):
    """Metrics of one class of a multilabel task, with its threshold.

    `average_precision` is None if the class applies to no example.
    """

    average_precision: float | None
    threshold: float
    precision: float
    recall: float
    f1: float
    support: int


class MultilabelMetrics(TypedDict):
    """Metrics of a multilabel task on one split; fractions in [0, 1].

    Attributes:
        accuracy: Fraction of examples of which all classes are predicted correctly.
        loss: Mean binary cross-entropy in nats.
        mean_average_precision: Mean over the classes that occur; None if none does.
        macro_f1: Mean F1 over the classes that occur.
        micro_f1: F1 of all answers together.
        balanced_accuracy: Mean over the classes of the mean of two recalls, that of the
            examples to which the class applies and that of the others.
        ece: Expected calibration error of all answers.
        per_class: Metrics by class name.
        accuracy_interval: 95 % confidence interval.
        macro_f1_interval: 95 % confidence interval.
    """

    accuracy: float
    loss: float
    mean_average_precision: float | None
    macro_f1: float
    micro_f1: float
    balanced_accuracy: float
    ece: float
    per_class: dict[str, TagMetrics]
    accuracy_interval: NotRequired[list[float]]
    macro_f1_interval: NotRequired[list[float]]


class Averages(TypedDict):
    """Means over several tasks, weighted by `--task_weights`."""

    accuracy: float
    loss: float
    macro_f1: float
    balanced_accuracy: float
