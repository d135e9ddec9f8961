"""What a kind of task must say about its labels, its loss, its answers and metrics.

The table of kinds is read by `--help`, so methods that compute in the graph import
Keras or TensorFlow when they are called, and others SciPy, which takes a while.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from keras_ft.evaluation.split_metrics import Averages, Intervals

if TYPE_CHECKING:
    from keras_ft.kinds.task import Task

Array = np.ndarray
Json = dict[str, Any]
# From float labels [B, K], which may be smoothed, and logits [B, K] to float [B].
Loss = Callable[[Any, Any], Any]


class Thresholds(NamedTuple):
    """The thresholds of a task, none where it has no use for them.

    The reason says why they are all one half, if they are.
    """

    values: tuple[float, ...] = ()
    reason: str = ""


class Kind(abc.ABC):
    """A kind of task.

    A *target* has one row for each of N examples, also for those that are not labelled;
    `labels` is a target of labelled examples only. `decide` returns a target, too.
    `probabilities` of K classes are float [N, K], or [K] of one example.

    Attributes:
        name: As in metrics.json.
        suffix: What follows the name of a column in `--label_columns`.
        min_classes: Minimum number of classes of a task.
        decides_by_thresholds: Whether `decide` uses the thresholds of a task.
        losses: By `--imbalance`, the function from the number of examples by class,
            int [K], and the number of labelled examples to the training loss.
        class_columns: What metrics of a class have besides precision, recall, F1 and
            support, with the title of each.
        explained: What a heatmap explains, in words.
        worst: Which errors have the highest loss, in words.
        unsure: Which examples have the lowest confidence, in words.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    min_classes: ClassVar[int]
    decides_by_thresholds: ClassVar[bool]
    losses: ClassVar[Mapping[str, Callable[[Array, int], Loss]]]
    class_columns: ClassVar[Mapping[str, str]]
    explained: ClassVar[str]
    worst: ClassVar[str]
    unsure: ClassVar[str]

    # One of a kind is enough, and a copy from another process equals it.
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return self.name

    # Labels in tables and arrays.

    @abc.abstractmethod
    def split_cell(self, cell: str) -> list[str]:
        """The classes that the cell of a table names."""

    def find_mistake(self, task: "Task", cell: str) -> str:
        """The rule that the cell of a table breaks; empty if there is none."""
        return ""

    @abc.abstractmethod
    def read(self, task: "Task", cells: Sequence[str]) -> tuple["Task", Array]:
        """The task with the classes in N cells, and their target."""

    @abc.abstractmethod
    def to_cell(self, task: "Task", label: Array) -> str:
        """One row of a target as the cell of a table; empty if it is not labelled."""

    @abc.abstractmethod
    def is_labelled(self, target: Array) -> Array:
        """Which examples of a target are labelled, bool [N]."""

    @abc.abstractmethod
    def list_classes(self, target: Array) -> tuple[Array, Array]:
        """M pairs of an example and a class of it, by example: two arrays int [M]."""

    @abc.abstractmethod
    def translate(self, target: Array, ids: Array, num_classes: int) -> Array:
        """The target with each class i as `ids[i]` of `num_classes` other classes."""

    # In the graph.

    @abc.abstractmethod
    def encode(self, task: "Task", labels: Any, smoothing: float) -> Any:
        """Rows of a target -> float32 [B, K]; -1 in those that are not labelled."""

    @abc.abstractmethod
    def activate(self, logits: Any) -> Any:
        """Logits -> probabilities of the same shape."""

    @abc.abstractmethod
    def are_correct(self, labels: Any, logits: Any) -> Any:
        """float32 [B], 1 where all answers are right, with thresholds of one half."""

    @abc.abstractmethod
    def answer_in_graph(self, task: "Task", probabilities: Any) -> Json:
        """What a signature returns: `answer` of each of [N, K], as tensors."""

    # Answers.

    @abc.abstractmethod
    def decide(self, task: "Task", probabilities: Array) -> Array:
        """What the model says: a target, or a row of one.

        All other answers, `are_correct` and the metrics must agree with it. It compares
        in float32, as the exported networks do.
        """

    @abc.abstractmethod
    def answer(self, task: "Task", probabilities: Array) -> Json:
        """What a signature returns, of one example: text and float32 numbers."""

    @abc.abstractmethod
    def columns(self, task: "Task", top_k: int) -> list[str]:
        """The columns of answers in a table."""

    @abc.abstractmethod
    def to_cells(self, task: "Task", probabilities: Array, top_k: int) -> list[str]:
        """The answer for one example as cells of these columns."""

    @abc.abstractmethod
    def to_json(self, task: "Task", probabilities: Array | None, top_k: int) -> Json:
        """The answer for one example as JSON; of None, an unreadable image, nulls."""

    @abc.abstractmethod
    def measure_confidence(self, task: "Task", probabilities: Array) -> Array:
        """How sure the least sure answer for an example is, float [N]."""

    @abc.abstractmethod
    def measure_mistakes(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Array:
        """How sure the surest wrong answer for an example is, float [N].

        It is the probability of that answer, or -1 if all answers are right.
        """

    @abc.abstractmethod
    def explain(self, label: Array, probabilities: Array) -> list[int]:
        """Classes whose probabilities are worth showing beside one labelled image.

        The first one is what a heatmap explains.
        """

    # Metrics and calibration, of labelled examples.

    @abc.abstractmethod
    def compute_losses(self, labels: Array, probabilities: Array) -> Array:
        """The loss of each answer, float [N] or [N, K]; `loss` is their mean."""

    @abc.abstractmethod
    def summarize(self, task: "Task", labels: Array, probabilities: Array) -> Averages:
        """The metrics that all kinds have, and `--monitor` selects by."""

    @abc.abstractmethod
    def measure(self, task: "Task", labels: Array, probabilities: Array) -> Json:
        """All metrics, without intervals; among them those of `summarize`."""

    @abc.abstractmethod
    def compute_intervals(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Intervals:
        """95 % confidence intervals."""

    def to_choices(self, labels: Array, probabilities: Array) -> tuple[Array, Array]:
        """Each answer as one of C choices, for calibration: int [M], float [M, C]."""
        return labels, probabilities

    @abc.abstractmethod
    def rescale(self, probabilities: Array, temperature: float) -> Array:
        """Probabilities of the logits divided by a temperature > 0, float64."""

    @abc.abstractmethod
    def choose_thresholds(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Thresholds:
        """Chooses thresholds on val."""

    @abc.abstractmethod
    def compare_thresholds(
        self, task: "Task", thresholds: Thresholds, labels: Array, probabilities: Array
    ) -> Json:
        """What thresholds, of which there are some, change on test, see `Threshold`."""
