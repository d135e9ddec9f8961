"""Tasks of which exactly one class applies to an image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from keras_ft.evaluation import multiclass_metrics as metrics
from keras_ft.evaluation.split_metrics import Averages, Intervals
from keras_ft.evaluation.thresholds import balanced_accuracy, choose_threshold
from keras_ft.host.text import as_text
from keras_ft.kinds.class_weights import class_weights
from keras_ft.kinds.kind import Array, Json, Kind, Loss, Thresholds

if TYPE_CHECKING:
    from keras_ft.kinds.task import Task

# In a cell it would be between the classes of a multilabel task.
SEPARATOR = "|"
# A probability of 0 was one too small for float32.
_TINY = float(np.finfo(np.float32).tiny)
_COMPARED = ("accuracy", "balanced_accuracy", "macro_f1", "precision", "recall")


def _cross_entropy(labels: Any, logits: Any) -> Any:
    from keras import ops

    return ops.categorical_crossentropy(labels, logits, from_logits=True)


def _make_weighted(counts: Array, num_examples: int) -> Loss:
    """Cross-entropy times the weight of the example's class."""
    from keras import ops

    weights = class_weights(counts).astype(np.float32)

    def loss(labels: Any, logits: Any) -> Any:
        # A smoothed label still has its maximum at the example's class.
        of_example = ops.take(weights, ops.argmax(labels, axis=-1))
        return of_example * _cross_entropy(labels, logits)

    return loss


def _focal(labels: Any, logits: Any) -> Any:
    """Focal loss with gamma 2 and no alpha (Lin et al., arXiv 1708.02002).

    Keras's own clips probabilities at 1e-7, and so an example whose class is that
    unlikely, which this loss is all about, would teach nothing.
    """
    from keras import ops

    log_probabilities = ops.log_softmax(logits)
    doubt = ops.square(1 - ops.exp(log_probabilities))
    return -ops.sum(labels * doubt * log_probabilities, axis=-1)


def _make_adjusted(counts: Array, num_examples: int) -> Loss:
    """Cross-entropy of the logits + log prior (Menon et al., arXiv 2007.07314).

    Their tau is 1. In training the prior explains how frequent a class is, so the
    logits need not: by themselves, as in prediction, they rank the classes as if all
    were equally frequent, which is what balanced accuracy asks for.
    """
    log_prior = np.log(counts / np.sum(counts)).astype(np.float32)
    return lambda labels, logits: _cross_entropy(labels, logits + log_prior)


class Multiclass(Kind):
    """A target is int64 [N], indices of classes; -1 of those that are not labelled."""

    name = "multiclass"
    suffix = ""
    min_classes = 2
    decides_by_thresholds = False
    losses = {
        "none": lambda counts, num_examples: _cross_entropy,
        "class_weights": _make_weighted,
        "focal": lambda counts, num_examples: _focal,
        "logit_adjustment": _make_adjusted,
    }
    class_columns: ClassVar[Mapping[str, str]] = {}
    explained = "the prediction"
    worst = "whose label has the lowest probability"
    unsure = "whose prediction has the lowest probability"

    def split_cell(self, cell: str) -> list[str]:
        return [cell] if cell else []

    def find_mistake(self, task: "Task", cell: str) -> str:
        if SEPARATOR not in cell:
            return ""
        return (
            f"an image has one class of {task.name}, without {SEPARATOR}, unless "
            f"--label_columns says {task.name}:multi"
        )

    def read(self, task: "Task", cells: Sequence[str]) -> tuple["Task", Array]:
        class_names = sorted(set(cells) - {""})
        index = {name: label for label, name in enumerate(class_names)} | {"": -1}
        target = np.array([index[cell] for cell in cells], np.int64)
        return dataclasses.replace(task, class_names=tuple(class_names)), target

    def to_cell(self, task: "Task", label: Array) -> str:
        return "".join(task.names_of(label))

    def is_labelled(self, target: Array) -> Array:
        return target >= 0

    def list_classes(self, target: Array) -> tuple[Array, Array]:
        labelled = np.flatnonzero(target >= 0)
        return labelled, target[labelled]

    def translate(self, target: Array, ids: Array, num_classes: int) -> Array:
        return np.append(ids, -1)[target]

    def encode(self, task: "Task", labels: Any, smoothing: float) -> Any:
        import tensorflow as tf

        num_classes = len(task.class_names)
        rows = tf.one_hot(labels, num_classes) * (1.0 - smoothing)
        rows += smoothing / num_classes
        return tf.where(labels[:, None] < 0, -1.0, rows)

    def activate(self, logits: Any) -> Any:
        from keras import ops

        return ops.softmax(logits)

    def are_correct(self, labels: Any, logits: Any) -> Any:
        from keras import ops

        correct = ops.argmax(labels, axis=-1) == ops.argmax(logits, axis=-1)
        return ops.cast(correct, "float32")

    def answer_in_graph(self, task: "Task", probabilities: Any) -> Json:
        import tensorflow as tf

        names = tf.constant(list(task.class_names))
        return {
            "class_name": tf.gather(names, tf.argmax(probabilities, axis=-1)),
            "probability": tf.reduce_max(probabilities, axis=-1),
            "probabilities": probabilities,
        }

    def decide(self, task: "Task", probabilities: Array) -> Array:
        return probabilities.argmax(axis=-1)

    def answer(self, task: "Task", probabilities: Array) -> Json:
        best = self.decide(task, probabilities)
        return {
            "class_name": task.class_names[best],
            "probability": float(probabilities[best]),
            "probabilities": probabilities.tolist(),
        }

    def columns(self, task: "Task", top_k: int) -> list[str]:
        names = ["class_name", "probability"]
        for k in range(2, min(top_k, len(task.class_names)) + 1):
            names += [f"top_{k}", f"top_{k}_probability"]
        return names

    def to_cells(self, task: "Task", probabilities: Array, top_k: int) -> list[str]:
        cells = []
        for i in _rank(probabilities)[:top_k]:
            cells += [as_text(task.class_names[i]), f"{probabilities[i]:.6f}"]
        return cells

    def to_json(self, task: "Task", probabilities: Array | None, top_k: int) -> Json:
        if probabilities is None:
            return {"class_name": None, "probability": None, "top": None}
        top = to_objects(task, probabilities, _rank(probabilities)[:top_k])
        return {**top[0], "top": top}

    def measure_confidence(self, task: "Task", probabilities: Array) -> Array:
        return probabilities.max(axis=1)

    def measure_mistakes(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Array:
        is_right = self.decide(task, probabilities) == labels
        return np.where(is_right, -1.0, probabilities.max(axis=1))

    def explain(self, label: Array, probabilities: Array) -> list[int]:
        return list(dict.fromkeys((int(probabilities.argmax()), int(label))))

    def compute_losses(self, labels: Array, probabilities: Array) -> Array:
        return metrics.cross_entropies(labels, probabilities)

    def summarize(self, task: "Task", labels: Array, probabilities: Array) -> Averages:
        return metrics.summarize(labels, probabilities)

    def measure(self, task: "Task", labels: Array, probabilities: Array) -> Json:
        return {**metrics.compute_metrics(labels, probabilities, task.class_names)}

    def compute_intervals(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Intervals:
        return metrics.confidence_intervals(labels, probabilities)

    def rescale(self, probabilities: Array, temperature: float) -> Array:
        from scipy.special import softmax

        # Logits are log probabilities plus a constant, which softmax cancels.
        logits = np.log(np.maximum(probabilities.astype(np.float64), _TINY))
        return softmax(logits / temperature, axis=1)

    def choose_thresholds(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Thresholds:
        """That of the second of two classes, which balances their recall."""
        if len(task.class_names) != 2:
            return Thresholds()
        value, reason = choose_threshold(
            labels == 1, probabilities[:, 1], balanced_accuracy
        )
        return Thresholds((value,), reason)

    def compare_thresholds(
        self, task: "Task", thresholds: Thresholds, labels: Array, probabilities: Array
    ) -> Json:
        [value], name = thresholds.values, task.class_names[1]

        def measure(answers: Array) -> dict[str, float]:
            measured = self.measure(task, labels, answers)
            measured |= measured["per_class"][name]
            return {key: measured[key] for key in _COMPARED}

        return {
            "class_name": name,
            "value": value,
            "test": measure(np.eye(2)[(probabilities[:, 1] >= value).astype(int)]),
            "test_without": measure(probabilities),
        }


def to_objects(task: "Task", probabilities: Array, classes: Array) -> list[Json]:
    """The names and probabilities of some classes, as JSON."""
    return [
        {"class_name": task.class_names[i], "probability": round(probability, 6)}
        for i, probability in zip(classes, probabilities[classes].tolist(), strict=True)
    ]


def _rank(probabilities: Array) -> Array:
    """The classes, the most probable first; it begins with what `decide` returns."""
    return np.argsort(-probabilities, kind="stable")
