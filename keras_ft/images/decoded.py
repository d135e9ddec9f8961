"""Decoded images in memory, so that a phase decodes each image once.

To decode a photograph of 12 megapixels takes 50 ms on one core, which is as long as a
training step takes for an image of 224 px on two.
"""

from collections.abc import Callable

import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.host.memory import memory_limit
from keras_ft.images.decode import separate_function

_SHARE = 1 / 8  # of the memory: for train, and as much for val
# Of the network's size: no view of `augment_image` is then enlarged.
_FACTOR = 2
_MAX_ASPECT = 2  # of images that keep it: those beyond take too much memory


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
        with tf.device("CPU"):
            self._kept = tf.lookup.experimental.MutableHashTable(
                tf.int64, tf.string, default_value=b""
            )

    def get(self, example: tf.Tensor, decode: Callable[[], tf.Tensor]) -> tf.Tensor:
        """Returns an image, shrunk: uint8 [H, W, 3].

        Args:
            example: int64 scalar. The first examples are kept.
            decode: Returns the image, uint8 [H, W, 3].
        """

        def decode_and_keep() -> tf.Tensor:
            pixels = self._shrink(decode())
            has_room = example < self._max_images
            is_small = tf.size(pixels) <= self._max_bytes
            return tf.cond(
                has_room & is_small,
                lambda: self._keep(example, pixels),
                lambda: pixels,
            )

        with tf.device("CPU"):
            kept = self._kept.lookup(example)
            pixels = tf.cond(
                kept == b"",
                separate_function(decode_and_keep),
                lambda: tf.io.parse_tensor(kept, tf.uint8),
            )
        return tf.ensure_shape(pixels, [None, None, 3])

    def _keep(self, example: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
        inserted = self._kept.insert(example, tf.io.serialize_tensor(pixels))
        with tf.control_dependencies([inserted]):
            return tf.identity(pixels)

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
