"""Decoded images in memory, so that a phase decodes each image once.

To decode a photograph of 12 megapixels takes 50 ms on one core.
"""

import threading
import weakref
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.host.memory import memory_limit
from keras_ft.images.decode import separate_function
from keras_ft.system.team import current_team

_SHARE = 1 / 16  # of the memory: for train, and as much for val
_FACTOR = 2  # of the network's size: no view of `augment_image` is then enlarged
_NOT_KEPT = np.zeros([0, 0, 3], np.uint8)


class DecodedImages:
    """Images shrunk to what their views need, as many as there is room for.

    Sides of more than twice those of the network's input are shrunk to that; if the
    aspect ratio counts, both by the same factor, and the shorter one not below that.
    The filter is bicubic, since a bilinear one would blur the images. Pixels of a view
    of a shrunk photograph differ on average by one or two grey levels from those of
    the whole one. Whether an image is kept changes the time alone.
    """

    def __init__(self, preprocessing: Preprocessing):
        height, width = preprocessing.size
        self._needed = tf.constant([_FACTOR * height, _FACTOR * width])
        self._keeps_aspect = preprocessing.mode != "stretch"
        self._kept: dict[int, np.ndarray] = {}
        self._room, self._lock = room_for_images(), threading.Lock()

    def get(self, example: tf.Tensor, decode: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Returns an image, shrunk: uint8 [H, W, 3].

        Args:
            example: int64 scalar.
            decode: Returns the image, uint8 [H, W, 3].
        """
        images = weakref.proxy(self)  # since TensorFlow never frees Python functions

        def find(example: np.ndarray) -> np.ndarray:
            return images._kept.get(int(example), _NOT_KEPT)

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

    def _keep(self, example: int, pixels: np.ndarray) -> None:
        with self._lock:
            has_room = pixels.nbytes <= self._room
            if has_room and example not in self._kept:
                self._room -= pixels.nbytes
                self._kept[example] = pixels.copy()  # TensorFlow frees its own

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
    workers = current_team().workers.count  # perhaps all on this machine
    return int(_SHARE * memory_limit()) // workers


def _call(function: Callable[..., np.ndarray], *arguments: tf.Tensor) -> tf.Tensor:
    # If its state counted, --deterministic would have one image at a time read. It does
    # not: an image is the same, kept or decoded.
    return tf.numpy_function(function, arguments, tf.uint8, stateful=False)
