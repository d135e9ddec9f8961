"""Grad-CAM: which parts of an image contributed to a prediction."""

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

# In larger batches the first feature maps of large images fill the memory.
_BATCH_SIZE = 8


def compute_heatmaps(
    model: keras.Model, images: np.ndarray, classes: np.ndarray
) -> np.ndarray:
    """Computes heatmaps, float32 [N, h, w] in [0, 1], see `make_explainer`.

    Images are float32 [N, S, T, 3] in [0, 255], N > 0; `classes`, int [N], are those to
    explain.
    """
    explain = make_explainer(model)
    heatmaps = [
        explain(images[i : i + _BATCH_SIZE], classes[i : i + _BATCH_SIZE])
        for i in range(0, len(images), _BATCH_SIZE)
    ]
    return np.concatenate(heatmaps)


def make_explainer(model: keras.Model) -> Callable[..., tf.Tensor]:
    """Grad-CAM (Selvaraju et al., arXiv 1610.02391) on the backbone's last feature map.

    Each channel of the feature map is weighted by the mean gradient of the class's
    logit, and the positive part of their sum is the heatmap. Cell i, j is row i,
    column j of an even grid over the image.

    Args:
        model: Images to the logits [N, K] of one task, from `make_classifier` or
            `fold_classifier`.

    Returns:
        A function of images and classes, see `compute_heatmaps`, which can be traced.
        The maximum of a heatmap is 1, or 0 if no cell contributes to the class.
    """
    steps = list(_steps(model))
    [pooling] = (i for i, step in enumerate(steps) if _is_pooling(step))

    def explain(images: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        feature_maps = _apply(steps[:pooling], tf.convert_to_tensor(images))
        with tf.GradientTape() as tape:
            tape.watch(feature_maps)
            logits = _apply(steps[pooling:], feature_maps)
            logits = tf.gather(logits, classes, batch_dims=1)
        gradients = tape.gradient(logits, feature_maps)
        weights = tf.reduce_mean(gradients, axis=(1, 2), keepdims=True)
        heatmaps = tf.nn.relu(tf.reduce_sum(weights * feature_maps, axis=-1))
        maximum = tf.reduce_max(heatmaps, axis=(1, 2), keepdims=True)
        return tf.math.divide_no_nan(heatmaps, maximum)

    return explain


def _apply(steps: Sequence[keras.Operation], x: tf.Tensor) -> tf.Tensor:
    for step in steps:
        x = step(x)
    return x


def _steps(model: keras.Model) -> Iterator[keras.Operation]:
    """Yields the operations of a classifier in order, with the pooling as one."""
    for step in model.operations[1:]:  # the first is the input
        is_nested = isinstance(step, keras.Model)
        if not is_nested or len(keras.tree.flatten(step.output)[0].shape) == 4:
            yield step
        elif _is_pooling(step.operations[-1]):
            # A backbone, whose operations are no chain, and the pooling as one model.
            pooling = step.operations[-1]
            yield keras.Model(step.input, pooling.input)
            yield pooling
        else:
            yield from _steps(step)


def _is_pooling(step: keras.Operation) -> bool:
    return isinstance(step, keras.layers.GlobalAveragePooling2D)
