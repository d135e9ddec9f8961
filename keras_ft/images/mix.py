"""MixUp and CutMix: each image of a batch is mixed with the next one."""

import tensorflow as tf

# Of Beta(alpha, alpha), from which lambda is drawn. MixUp: the paper's runs on ImageNet
# have 0.1 to 0.4. CutMix: that of all its runs; the distribution is uniform.
ALPHA = {"mixup": 0.2, "cutmix": 1.0}


def mix_batch(
    images: tf.Tensor, labels: dict[str, tf.Tensor], seed: tf.Tensor, method: str
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Mixes each image of a batch, and its labels, with the next one.

    The next one of the last image is the first. Each image keeps a fraction lambda:

    *   `mixup` (Zhang et al., arXiv 1710.09412): lambda of the image plus 1 - lambda of
        the next one;
    *   `cutmix` (Yun et al., arXiv 1905.04899): a rectangle is replaced by that of the
        next one. Its area is 1 - lambda and its centre lies anywhere, so parts may lie
        outside the image; lambda then becomes the fraction that is really kept.

    Labels are mixed with the same lambda. An image that is not labelled for a task
    stays so. If the next image lacks a label that the image has, the image is not
    mixed, so that no label is lost. In the code of both papers all images of a batch
    share one lambda; here each has its own.

    Args:
        images: float32 [B, S, T, 3].
        labels: float32 [B, K] by task, see `make_label_reader`.
        seed: int [2]; equal seeds draw the same for batches of one size.
        method: `mixup` or `cutmix`.
    """
    lambda_seed, centre_seed = tf.unstack(tf.random.split(seed, 2))
    kept = draw_lambda(tf.shape(images)[0], lambda_seed, ALPHA[method])
    kept = tf.where(_can_mix(labels), kept, 1.0)
    if method == "mixup":
        weights = kept[:, None, None, None]
    else:
        weights = _draw_mask(kept, images.shape[1:3], centre_seed)
    kept = tf.reduce_mean(weights, axis=(1, 2, 3))[:, None]
    mixed = {
        task: tf.where(rows < 0, -1.0, kept * rows + (1 - kept) * _next(rows))
        for task, rows in labels.items()
    }
    return weights * images + (1 - weights) * _next(images), mixed


def draw_lambda(count: tf.Tensor | int, seed: tf.Tensor, alpha: float) -> tf.Tensor:
    """Draws from Beta(alpha, alpha): float32 [count] in [0, 1]."""
    gamma = tf.random.stateless_gamma([2, count], seed, alpha)
    return tf.math.divide_no_nan(gamma[0], gamma[0] + gamma[1])


def _next(rows: tf.Tensor) -> tf.Tensor:
    return tf.roll(rows, -1, axis=0)


def _can_mix(labels: dict[str, tf.Tensor]) -> tf.Tensor:
    """Whether the next image has all labels of an image, bool [B]."""
    lost = [(rows[:, 0] >= 0) & (_next(rows)[:, 0] < 0) for rows in labels.values()]
    return ~tf.reduce_any(tf.stack(lost), axis=0)


def _draw_mask(kept: tf.Tensor, size: tuple[int, int], seed: tf.Tensor) -> tf.Tensor:
    """Returns float32 [B, S, T, 1]: 1 for the fraction to keep, 0 in a rectangle."""
    half = tf.sqrt(1 - kept) / 2
    centres = tf.random.stateless_uniform([2, tf.shape(kept)[0]], seed)

    def is_inside(centre: tf.Tensor, length: int) -> tf.Tensor:
        start = tf.round((centre - half) * length)[:, None]
        stop = tf.round((centre + half) * length)[:, None]
        position = tf.range(length, dtype=tf.float32)
        return (position >= start) & (position < stop)

    rows, columns = map(is_inside, tf.unstack(centres), size)
    inside = rows[:, :, None] & columns[:, None, :]
    return 1 - tf.cast(inside, tf.float32)[..., None]
