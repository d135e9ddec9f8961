"""Random views of an image that keep its label; each is a function of its seed."""

import math

import tensorflow as tf


def augment_image(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws a light variation of an image: a crop, perhaps mirrored, in other light.

    The crop (Szegedy et al., arXiv 1409.4842, section 6, but larger) covers 60 to
    100 % of the area and has 3/4 to 4/3 of the image's aspect ratio; brightness changes
    by up to 20 % of the range, contrast by up to 20 %, saturation by up to 30 %. A
    mirror image keeps its label in photographs, not in writing.

    Args:
        pixels: uint8 [H, W, 3], RGB.
        seed: int32 [2]; equal seeds give equal views.

    Returns:
        uint8 [h, w, 3], RGB.
    """
    crop, mirror, brightness, contrast, saturation = tf.unstack(
        tf.random.split(seed, 5)
    )
    pixels = _crop(pixels, crop)
    pixels = tf.image.stateless_random_flip_left_right(pixels, mirror)
    pixels = tf.image.stateless_random_brightness(pixels, 0.2, brightness)
    pixels = tf.image.stateless_random_contrast(pixels, 0.8, 1.2, contrast)
    return tf.image.stateless_random_saturation(pixels, 0.7, 1.3, saturation)


def _crop(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    area, aspect, top, left = tf.unstack(tf.random.stateless_uniform([4], seed))
    area = 0.6 + 0.4 * area
    aspect = tf.exp((2 * aspect - 1) * math.log(4 / 3))
    share = tf.minimum(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)]), 1.0)
    whole = tf.cast(tf.shape(pixels)[:2], tf.float32)
    size = tf.maximum(tf.round(share * whole), 1.0)
    corner = tf.floor(tf.stack([top, left]) * (whole - size + 1))
    corner, size = tf.cast(corner, tf.int32), tf.cast(size, tf.int32)
    return pixels[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
