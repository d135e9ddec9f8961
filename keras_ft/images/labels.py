"""The labels of examples -> batches."""

from collections.abc import Callable

import tensorflow as tf

from keras_ft.data.examples import Examples

LabelReader = Callable[[tf.Tensor], dict[str, tf.Tensor]]


def make_label_reader(examples: Examples, smoothing: float = 0.0) -> LabelReader:
    """Makes the function from indices, int64 [B], to labels by task, float32 [B, K].

    They are one-hot, or 1 for the classes that apply; -1 in the rows of examples that
    are not labelled. The fraction `smoothing` of each is spread over all answers.
    """
    targets = [tf.constant(target) for target in examples.targets]

    def read(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            task.name: task.kind.encode(task, tf.gather(target, batch), smoothing)
            for task, target in zip(examples.tasks, targets, strict=True)
        }

    return read
