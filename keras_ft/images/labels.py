"""The labels of examples -> batches."""

from collections.abc import Callable

import tensorflow as tf

from keras_ft.data.examples import Examples

LabelReader = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def make_label_reader(examples: Examples, smoothing: float = 0.0) -> LabelReader:
    """Makes the function from indices of examples to the labels of each task.

    Args:
        examples: N examples.
        smoothing: Fraction of each label to spread over all answers. Defaults to 0.

    Returns:
        From int64 [B] to float32 [B, K] by task: one-hot, or 1 for the classes that
        apply; -1 in the rows of examples that are not labelled.
    """

    targets = [tf.constant(target) for target in examples.targets]

    def read(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            task.name: task.kind.encode(task, tf.gather(target, batch), smoothing)
            for task, target in zip(examples.tasks, targets, strict=True)
        }

    return read
