"""The types of metrics; apart from their computation, which imports scikit-learn."""

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
