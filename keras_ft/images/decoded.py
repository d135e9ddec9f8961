"""Decoded images in memory, so that a phase decodes each image once.

To decode a photograph of 12 megapixels takes 50 ms on one core, which is as long as a
training step takes for an image of 224 px on two.
"""

import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.host.memory import memory_limit
from keras_ft.images.decode import separate_function

_SHARE = 1 / 16  # of the memory: for train, and as much for val
# Of the network's size: no view of `augment_image` is then enlarged.
_FACTOR = 2
_MAX_ASPECT = 2  # of images that keep it: those beyond take too much memory
_NOT_KEPT = np.zeros([0, 0, 3], np.uint8)


class DecodedImages:
    """Images shrunk to what their views need; they are kept as long as there is room.

    An image with more than twice the height or width of the network's input is shrunk,
    by a bicubic filter, since a bilinear one would blur it: a view that is cut from it
    and resized then differs by one or two grey levels from one of the whole image.
    Whether an image is kept changes the time alone.
    """

    def __init__(self, preprocessing: Preprocessing):
        height, width = preprocessing.size
        self._needed = tf.constant([_FACTOR * height, _FACTOR * width])
        self._keeps_aspect = preprocessing.mode != "stretch"
        self._max_bytes = 3 * _FACTOR**2 * height * width
        if self._keeps_aspect:
            self._max_bytes *= _MAX_ASPECT
        self._max_images = room_for_images() // self._max_bytes
        self._kept: dict[int, np.ndarray] = {}

    def get(self, example: tf.Tensor, decode: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Returns an image, shrunk: uint8 [H, W, 3].

        Args:
            example: int64 scalar. The first examples are kept.
            decode: Returns the image, uint8 [H, W, 3].
        """
        images = weakref.proxy(self)  # since TensorFlow never frees Python functions

        def find(example: np.ndarray) -> np.ndarray:
            return images._find(int(example))

        def keep(example: np.ndarray, pixels: np.ndarray) -> np.ndarray:
            images._keep(int(example), pixels)
            return pixels

        def decode_and_keep() -> tf.Tensor:
            return _call(keep, example, images._shrink(decode()))

        with tf.device("CPU"):
            kept = _call(find, example)
            pixels = tf.cond(
                tf.size(kept) == 0, separate_function(decode_and_keep), lambda: kept
            )
        return tf.ensure_shape(pixels, [None, None, 3])

    def _find(self, example: int) -> np.ndarray:
        return self._kept.get(example, _NOT_KEPT)

    def _keep(self, example: int, pixels: np.ndarray) -> None:
        if example < self._max_images and pixels.size <= self._max_bytes:
            self._kept[example] = pixels.copy()  # TensorFlow's memory ends

    def _shrink(self, pixels: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(pixels)[:2]
        needed = self._needed
        if self._keeps_aspect:
            scale = tf.reduce_max(needed / shape)
            needed = tf.cast(tf.round(scale * tf.cast(shape, scale.dtype)), tf.int32)
        size = tf.minimum(shape, needed)

        def shrink() -> tf.Tensor:
            shrunk = tf.image.resize(pixels, size, "bicubic", antialias=True)
            return tf.cast(tf.clip_by_value(tf.round(shrunk), 0, 255), tf.uint8)

        return tf.cond(tf.reduce_all(size == shape), lambda: pixels, shrink)


def room_for_images() -> int:
    """Bytes that the images of a split may take in memory."""
    return int(_SHARE * memory_limit())


def _call(function: Callable[..., np.ndarray], *arguments: tf.Tensor) -> tf.Tensor:
    # If its state counted, --deterministic would have one image at a time read, and the
    # state of a table of TensorFlow does.
    return tf.numpy_function(function, arguments, tf.uint8, stateful=False)
