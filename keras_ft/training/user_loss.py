"""The user's loss: `--loss=py:MODULE:NAME`."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_ft.errors import UserError
from keras_ft.host import user_code
from keras_ft.kinds.task import Task

_COUNT = 2  # examples of the batch to try it on


def load_loss(reference: str, task: Task) -> keras.losses.Loss:
    """Loads the user's loss for a task, and calls it once as a check.

    Args:
        reference: Of a subclass of `keras.losses.Loss`, which is made without arguments
            or with `from_logits=True` if it has this one; of an instance; or of a
            function. It takes labels float32 [B, K], of one class one-hot or smoothed,
            and logits float32 [B, K], and returns the loss of each example, float [B].

    Raises:
        UserError: It is something else, or returns something else.
    """
    named, loss = f"--loss={reference}", user_code.load("loss", reference)
    if isinstance(loss, type) and issubclass(loss, keras.losses.Loss):
        takes_logits = "from_logits" in inspect.signature(loss).parameters
        with user_code.calling("loss", reference):
            loss = loss(from_logits=True) if takes_logits else loss()
    elif callable(loss) and not isinstance(loss, type | keras.losses.Loss):
        loss = _FunctionLoss(loss)
    if not isinstance(loss, keras.losses.Loss):
        raise UserError(
            f"{named} must be a keras.losses.Loss, or a function of labels and logits. "
            f"Received: {loss!r:.80}"
        )
    num_classes = len(task.class_names)
    labels = ops.one_hot([0] * _COUNT, num_classes)
    with user_code.calling("loss", reference):
        result = loss.call(labels, ops.zeros([_COUNT, num_classes]))
    shape, dtype = getattr(result, "shape", None), getattr(result, "dtype", None)
    if shape != (_COUNT,) or not keras.backend.is_float_dtype(dtype):
        raise UserError(
            f"{named} must return a float of each example, [{_COUNT}] of labels and "
            f"logits [{_COUNT}, {num_classes}]. Received: "
            f"{getattr(dtype, 'name', dtype) or type(result).__name__} {shape}"
        )
    return loss


class _FunctionLoss(keras.losses.Loss):
    def __init__(self, function: Callable[[Any, Any], Any]):
        super().__init__(name="user_loss")  # TensorFlow allows no leading underscore
        self.function = function

    def call(self, labels, logits):
        return self.function(labels, logits)
