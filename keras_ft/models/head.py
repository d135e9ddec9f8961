"""The head of a trained classifier as the start of another one's."""

import dataclasses
import logging
from collections.abc import Sequence

import keras
import numpy as np

from keras_ft.models.classifier import TEMPERATURE

log = logging.getLogger("keras_ft")


@dataclasses.dataclass(frozen=True)
class Head:
    """What a head computes: features [D] times kernel, plus bias.

    Attributes:
        kernel: float32 [D, K].
        bias: float32 [K].
        class_names: The K classes.
    """

    kernel: np.ndarray
    bias: np.ndarray
    class_names: tuple[str, ...]


def read_head(classifier: keras.Model, class_names: Sequence[str]) -> Head:
    """Reads the head of a classifier, with its temperature in it.

    So the logits are those of the saved model, and the temperature that the next run
    fits is not one on top of another.

    Args:
        classifier: A model of `make_classifier` or `set_temperature`.
        class_names: Its K classes.
    """
    kernel, bias = classifier.get_layer("head").get_weights()
    scales = [x.scale for x in classifier.layers if x.name == TEMPERATURE]
    scale = np.float32(scales[0] if scales else 1)
    return Head(scale * kernel, scale * bias, tuple(class_names))


def copy_head(head: Head, classifier: keras.Model, class_names: Sequence[str]) -> None:
    """Gives a new classifier the weights of the classes that a head has, too.

    Those of other classes stay as they were initialised.

    Args:
        head: The head to copy from.
        classifier: A model of `make_classifier`.
        class_names: Its classes, in any order.
    """
    layer = classifier.get_layer("head")
    kernel, bias = map(np.array, layer.get_weights())
    known = [name for name in class_names if name in head.class_names]
    to = [class_names.index(name) for name in known]
    of = [head.class_names.index(name) for name in known]
    kernel[:, to], bias[to] = head.kernel[:, of], head.bias[of]
    layer.set_weights([kernel, bias])
    log.info("weights: %s.", _describe(head, class_names))


def _describe(head: Head, class_names: Sequence[str]) -> str:
    """What became of the classes of a head, in words."""
    new = [name for name in class_names if name not in head.class_names]
    gone = [name for name in head.class_names if name not in class_names]
    text = f"the head has {len(class_names) - len(new)} of {len(class_names)} classes"
    if new:
        text += f", new: {', '.join(new)}"
    if gone:
        text += f", left out: {', '.join(gone)}"
    return text
