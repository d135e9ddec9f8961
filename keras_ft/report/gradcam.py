"""Where in an image a classifier found what it answered."""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

# Of large images the first feature maps of a few fill the memory.
_BATCH_SIZE = 8


def heatmaps(model: keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391) on the backbone's last feature map.

    The maps are weighted by how much the class's logit grows with each, and summed
    where that speaks for the class. Cell i, j is row i, column j of an even grid over
    the image.

    Args:
        model: From images to logits [N, K], of `make_classifier` or `fold_classifier`.
        images: float32 [N, S, S, 3] in [0, 255], N > 0.
        classes: int [N], which logit to explain.

    Returns:
        float32 [N, h, w] in [0, 1], the largest value of each image 1; all 0 where
        nothing speaks for the class.
    """
    to_maps, to_logits = _cut(model)
    batches = range(0, len(images), _BATCH_SIZE)
    heat = [
        _explain(
            to_maps,
            to_logits,
            images[i : i + _BATCH_SIZE],
            classes[i : i + _BATCH_SIZE],
        )
        for i in batches
    ]
    return np.concatenate(heat)


def _explain(
    to_maps: Callable[[tf.Tensor], tf.Tensor],
    to_logits: Callable[[tf.Tensor], tf.Tensor],
    images: np.ndarray,
    classes: np.ndarray,
) -> np.ndarray:
    maps = to_maps(tf.constant(images))
    with tf.GradientTape() as tape:
        tape.watch(maps)
        logits = tf.gather(to_logits(maps), classes, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(logits, maps), axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))
    largest = tf.reduce_max(heat, axis=(1, 2), keepdims=True)
    return tf.math.divide_no_nan(heat, largest).numpy()


def _cut(
    model: keras.Model,
) -> tuple[Callable[[tf.Tensor], tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
    """Cuts a classifier between its last feature map and the pooling."""
    steps = list(_steps(model))
    [pooling] = (i for i, step in enumerate(steps) if _pools(step))

    def run(steps: list[keras.Operation], x: tf.Tensor) -> tf.Tensor:
        for step in steps:
            x = step(x)
        return x

    return (
        lambda images: run(steps[:pooling], images),
        lambda maps: run(steps[pooling:], maps),
    )


def _steps(model: keras.Model) -> Iterator[keras.Operation]:
    """What a classifier does one after the other, with the pooling as a step."""
    for step in model.operations[1:]:  # the first is the input
        if not isinstance(step, keras.Model) or len(step.output.shape) == 4:
            yield step
        elif _pools(step.operations[-1]):
            # A backbone, whose operations are no chain, and the pooling as one model.
            pooling = step.operations[-1]
            yield keras.Model(step.input, pooling.input)
            yield pooling
        else:
            yield from _steps(step)


def _pools(step: keras.Operation) -> bool:
    return isinstance(step, keras.layers.GlobalAveragePooling2D)
