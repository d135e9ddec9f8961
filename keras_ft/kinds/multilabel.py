"""Tasks of which any number of classes apply to an image, each a question of its own.

What is said of a class holds for its absence, too: either is an answer.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_ft.evaluation import multilabel_metrics as metrics
from keras_ft.evaluation.split_metrics import Averages, Intervals
from keras_ft.evaluation.thresholds import choose_threshold, f1
from keras_ft.host.text import as_text, counted
from keras_ft.kinds.class_weights import class_weights
from keras_ft.kinds.kind import Array, Json, Kind, Loss, Thresholds
from keras_ft.kinds.multiclass import SEPARATOR, to_objects

if TYPE_CHECKING:
    from keras_ft.kinds.task import Task

log = logging.getLogger("keras_ft")

# Nearest to 0 and 1 that a probability in float32 can tell from them.
_EPSILON = float(np.finfo(np.float32).eps)


def _cross_entropies(labels: Any, logits: Any) -> Any:
    from keras import ops

    return ops.binary_crossentropy(labels, logits, from_logits=True)


def _cross_entropy(labels: Any, logits: Any) -> Any:
    from keras import ops

    return ops.mean(_cross_entropies(labels, logits), axis=-1)


def make_weights(counts: Array, num_examples: int) -> tuple[Array, Array]:
    """The `class_weights` of each class and of its absence, float64 [K] each."""
    pairs = np.maximum(np.transpose([counts, num_examples - counts]), 1)
    applies, others = np.transpose([class_weights(pair) for pair in pairs])
    return applies, others


def _make_weighted(counts: Array, num_examples: int) -> Loss:
    """Binary cross-entropy times the weight of the answer, mean over the classes."""
    from keras import ops

    weights = make_weights(counts, num_examples)
    applies, others = (one.astype(np.float32) for one in weights)

    def loss(labels: Any, logits: Any) -> Any:
        of_answer = ops.where(labels > 0.5, applies, others)
        return ops.mean(of_answer * _cross_entropies(labels, logits), axis=-1)

    return loss


def _focal(labels: Any, logits: Any) -> Any:
    """Focal loss with gamma 2 and no alpha (Lin et al., arXiv 1708.02002)."""
    from keras import ops

    yes, no = ops.log_sigmoid(logits), ops.log_sigmoid(-logits)
    of_yes = labels * ops.square(ops.exp(no)) * yes
    of_no = (1 - labels) * ops.square(ops.exp(yes)) * no
    return -ops.mean(of_yes + of_no, axis=-1)


def _make_adjusted(counts: Array, num_examples: int) -> Loss:
    """Binary cross-entropy of the logits + log odds of the prior, as of multiclass."""
    # Half an example at least, for classes that apply to none or to all.
    prior = np.clip(counts, 0.5, num_examples - 0.5) / num_examples
    log_odds = np.log(prior / (1 - prior)).astype(np.float32)
    return lambda labels, logits: _cross_entropy(labels, logits + log_odds)


class Multilabel(Kind):
    """A target is int8 [N, K], 1 for classes that apply; -1 in rows without labels."""

    name = "multilabel"
    suffix = ":multi"
    min_classes = 1
    decides_by_thresholds = True
    losses = {
        "none": lambda counts, num_examples: _cross_entropy,
        "class_weights": _make_weighted,
        "focal": lambda counts, num_examples: _focal,
        "logit_adjustment": _make_adjusted,
    }
    class_columns = {"average_precision": "av. prec.", "threshold": "threshold"}
    explained = "its probability of the class that is named below it"
    worst = "with the highest cross-entropy"
    unsure = "with a probability that is closest to its threshold"

    def split_cell(self, cell: str) -> list[str]:
        return [name.strip() for name in cell.split(SEPARATOR) if name.strip()]

    def read(self, task: "Task", cells: Sequence[str]) -> tuple["Task", Array]:
        """A separator alone is an image without classes."""
        listed = [self.split_cell(cell) for cell in cells]
        class_names = sorted({name for names in listed for name in names})
        index = {name: label for label, name in enumerate(class_names)}
        target = np.zeros((len(cells), len(class_names)), np.int8)
        for row, names in zip(target, listed, strict=True):
            row[[index[name] for name in names]] = 1
        empty = np.array([not cell.strip() for cell in cells])
        target[empty] = -1
        if empty.any():
            log.info(
                "%s without a label of %s: the cell is empty. Of an image to which no "
                "class applies it would be %s.",
                counted(empty.sum(), "image"),
                task.name,
                SEPARATOR,
            )
        return dataclasses.replace(task, class_names=tuple(class_names)), target

    def to_cell(self, task: "Task", label: Array) -> str:
        if (label < 0).any():
            return ""
        return SEPARATOR.join(task.names_of(label)) or SEPARATOR

    def is_labelled(self, target: Array) -> Array:
        return np.all(target >= 0, axis=1)

    def list_classes(self, target: Array) -> tuple[Array, Array]:
        examples, classes = np.nonzero(target > 0)
        return examples, classes

    def translate(self, target: Array, ids: Array, num_classes: int) -> Array:
        translated = np.zeros((len(target), num_classes), np.int8)
        translated[:, ids] = target
        translated[~self.is_labelled(target)] = -1
        return translated

    def encode(self, task: "Task", labels: Any, smoothing: float) -> Any:
        import tensorflow as tf

        rows = tf.cast(labels, tf.float32) * (1.0 - smoothing) + smoothing / 2
        return tf.where(labels < 0, -1.0, rows)

    def activate(self, logits: Any) -> Any:
        from keras import ops

        return ops.sigmoid(logits)

    def are_correct(self, labels: Any, logits: Any) -> Any:
        from keras import ops

        correct = ops.all((labels > 0.5) == (logits >= 0), axis=-1)
        return ops.cast(correct, "float32")

    def answer_in_graph(self, task: "Task", probabilities: Any) -> Json:
        import tensorflow as tf

        applies = probabilities >= tf.constant(task.thresholds)
        names = tf.broadcast_to(tf.constant(list(task.class_names)), tf.shape(applies))
        listed = tf.ragged.boolean_mask(names, applies)
        labels = tf.strings.reduce_join(listed, axis=1, separator=SEPARATOR)
        return {"labels": labels, "probabilities": probabilities}

    def decide(self, task: "Task", probabilities: Array) -> Array:
        return metrics.decide(probabilities, task.thresholds)

    def answer(self, task: "Task", probabilities: Array) -> Json:
        labels = SEPARATOR.join(task.names_of(self.decide(task, probabilities)))
        return {"labels": labels, "probabilities": probabilities.tolist()}

    def columns(self, task: "Task", top_k: int) -> list[str]:
        return ["labels", "probabilities"]

    def to_cells(self, task: "Task", probabilities: Array, top_k: int) -> list[str]:
        applies = self.decide(task, probabilities)
        names = map(as_text, task.names_of(applies))
        numbers = (f"{number:.6f}" for number in probabilities[applies])
        return [SEPARATOR.join(names), SEPARATOR.join(numbers)]

    def to_json(self, task: "Task", probabilities: Array | None, top_k: int) -> Json:
        if probabilities is None:
            return {"labels": None}
        applying = np.flatnonzero(self.decide(task, probabilities))
        return {"labels": to_objects(task, probabilities, applying)}

    def measure_confidence(self, task: "Task", probabilities: Array) -> Array:
        return np.abs(probabilities - np.array(task.thresholds)).min(axis=1)

    def measure_mistakes(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Array:
        applies = self.decide(task, probabilities)
        of_answer = np.where(applies, probabilities, 1 - probabilities)
        return np.where(applies == (labels > 0), -1.0, of_answer).max(axis=1)

    def explain(self, label: Array, probabilities: Array) -> list[int]:
        return [int(self.compute_losses(label, probabilities).argmax())]

    def compute_losses(self, labels: Array, probabilities: Array) -> Array:
        return metrics.cross_entropies(labels, probabilities)

    def summarize(self, task: "Task", labels: Array, probabilities: Array) -> Averages:
        return metrics.summarize(labels, probabilities, task.thresholds)

    def measure(self, task: "Task", labels: Array, probabilities: Array) -> Json:
        names, thresholds = task.class_names, task.thresholds
        return {**metrics.compute_metrics(labels, probabilities, names, thresholds)}

    def compute_intervals(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Intervals:
        return metrics.confidence_intervals(labels, probabilities, task.thresholds)

    def to_choices(self, labels: Array, probabilities: Array) -> tuple[Array, Array]:
        return metrics.to_choices(labels, probabilities)

    def rescale(self, probabilities: Array, temperature: float) -> Array:
        from scipy.special import expit, logit

        exact = probabilities.astype(np.float64)
        logits = logit(np.clip(exact, _EPSILON, 1 - _EPSILON))
        return expit(logits / temperature)

    def choose_thresholds(
        self, task: "Task", labels: Array, probabilities: Array
    ) -> Thresholds:
        """Those with the highest F1 of each class."""
        chosen = [
            choose_threshold(truth, scores, f1)
            for truth, scores in zip(labels.T > 0, probabilities.T, strict=True)
        ]
        values, reasons = zip(*chosen, strict=True)
        return Thresholds(
            values, "; ".join(dict.fromkeys(reasons)) if all(reasons) else ""
        )

    def compare_thresholds(
        self, task: "Task", thresholds: Thresholds, labels: Array, probabilities: Array
    ) -> Json:
        return {
            name: {
                key: value
                for key, value in metrics.summarize(labels, probabilities, of).items()
                if key != "loss"
            }
            for name, of in (("test", thresholds.values), ("test_without", ()))
        }
