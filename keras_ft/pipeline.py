"""`Split` -> batched `tf.data`. One function decodes, for training and for serving."""

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_ft.data import Split


def decode_image(image_bytes: tf.Tensor, image_size: int) -> tf.Tensor:
    """Decodes and resizes one image.

    Bilinear with antialiasing, aspect ratio not kept; colour from grey, palette and
    CMYK; 8 bits from 16; alpha dropped; an animated GIF's first frame.

    Args:
        image_bytes: string scalar, a JPEG, PNG, BMP, GIF or still WebP file.
        image_size: Height and width of the result, S.

    Returns:
        float32 [S, S, 3] in [0, 255], RGB.

    Raises:
        tf.errors.InvalidArgumentError: When run, if the bytes are no such file.
    """
    header = tf.io.decode_raw(tf.strings.substr(image_bytes, 0, 29), tf.uint8)
    header = tf.pad(header, [[0, 29 - tf.size(header)]])
    bits_per_pixel = header[28]
    is_bmp = tf.reduce_all(header[:2] == tf.constant(list(b"BM"), tf.uint8))
    pixels = tf.cond(
        # TensorFlow takes the palette's indices in BMP for shades of grey.
        is_bmp & (bits_per_pixel == 8),
        lambda: _decode_palette_bmp(image_bytes),
        lambda: tf.io.decode_image(image_bytes, 3, expand_animations=False),
    )
    pixels.set_shape([None, None, 3])
    return resize(pixels, image_size)


def _decode_palette_bmp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP file of 8 bits per pixel: uint8 [H, W, 3]."""

    def read_int32(position: int) -> tf.Tensor:
        number = tf.strings.substr(image_bytes, position, 4)
        return tf.io.decode_raw(number, tf.int32)[0]

    # The file header has 14 bytes; the next header begins with its own size.
    start, end = 14 + read_int32(14), read_int32(10)
    table = tf.strings.substr(image_bytes, start, end - start)
    palette = tf.reshape(tf.io.decode_raw(table, tf.uint8), [-1, 4])  # BGR and a zero
    indices = tf.io.decode_bmp(image_bytes)[..., 0]
    return tf.gather(palette[:, 2::-1], tf.cast(indices, tf.int32))


def resize(pixels: tf.Tensor, image_size: int) -> tf.Tensor:
    """Resizes uint8 [..., H, W, 3] to float32 [..., S, S, 3], as training does."""
    size = [image_size, image_size]
    return tf.image.resize(pixels, size, method="bilinear", antialias=True)


def make_dataset(
    split: Split,
    num_classes: int,
    image_size: int,
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    label_smoothing: float = 0.0,
) -> tf.data.Dataset:
    """Reads, decodes and batches a split; nothing is dropped.

    Args:
        split: N examples.
        num_classes: K.
        image_size: S.
        batch_size: B; the last batch may be smaller.
        shuffle_seed: Seed of another order each epoch; None keeps the split's order.
        label_smoothing: Part of each label that is spread over all classes. Given for
            training only, so that validation loss stays the plain cross-entropy.

    Returns:
        Batches of images, float32 [B, S, S, 3] in [0, 255], and labels, float32
        [B, K].
    """

    def load(file: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        on = 1.0 - label_smoothing
        off = label_smoothing / num_classes
        image = decode_image(tf.io.read_file(file), image_size)
        return image, tf.one_hot(label, num_classes) * on + off

    # Bytes: a file name need not be valid UTF-8.
    files = np.array([os.fsencode(file) for file in split.files])
    dataset = tf.data.Dataset.from_tensor_slices((files, split.labels))
    if shuffle_seed is not None:
        dataset = dataset.shuffle(len(split), seed=shuffle_seed)
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def find_unreadable(files: Sequence[str]) -> list[str]:
    """The files that can't be read or decoded."""
    bad = []
    for file in files:
        try:
            decode_image(tf.io.read_file(os.fsencode(file)), image_size=1)
        except (tf.errors.OpError, ValueError):
            bad.append(file)
    return bad
