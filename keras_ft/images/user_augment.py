"""The user's augmentation: `--augment=py:MODULE:NAME`."""

from collections.abc import Callable

import tensorflow as tf

from keras_ft.errors import UserError
from keras_ft.host import user_code

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def load_augment(reference: str, image_size: tuple[int, int]) -> Augment:
    """Loads the user's function, and calls it once on zeros.

    It is a pure function of images float32 [B, H, W, 3] in [0, 255] and a seed int32
    [2], to images of the same shape and type.

    Returns:
        A function of one image float32 [H, W, 3] and a seed to its view. Batches of one
        let a view depend on its seed alone, whatever the batch it is read in.

    Raises:
        UserError: It is no function, or returns something else.
    """
    function = user_code.load("augment", reference)
    if not callable(function):
        raise UserError(
            f"--augment={reference} must be a function of images and a seed. "
            f"Received: {function!r:.80}"
        )
    images = tf.zeros([1, *image_size, 3])
    with user_code.calling("augment", reference):
        result = function(images, tf.zeros([2], tf.int32))
    expected = images.shape, images.dtype
    if not tf.is_tensor(result) or (result.shape, result.dtype) != expected:
        received = type(result).__name__
        if hasattr(result, "shape"):
            received += f" of {result.dtype!r:.40} and shape {tuple(result.shape)}"
        raise UserError(
            f"--augment={reference} must return images of the shape and type that it "
            f"received: a tensor, float32 {tuple(images.shape)}. Received: {received}"
        )

    def augment(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(function(image[tf.newaxis], seed)[0], image.shape)

    return augment
