"""Random views of an image with the same label; each depends on its seed alone.

Only the crop is at the size of the image, which is often many times that of the input
of the network; all other operations are at the latter.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images.decode import GREY, resize

_MIN_AREA = {"light": 0.6, "strong": 0.35}
_NUM_OPERATIONS = 2
_ERASE_PROBABILITY = 0.25


def augment_image(
    pixels: tf.Tensor,
    seed: tf.Tensor,
    policy: str,
    mirror: bool,
    preprocessing: Preprocessing,
) -> tf.Tensor:
    """Makes a random view of an image.

    The crop (Szegedy et al., arXiv 1409.4842, section 6, but larger) covers 60 to
    100 % of the area, 35 to 100 % if `strong`, and its aspect ratio is 3/4 to 4/3 times
    that of the image. It is resized like a whole image: stretched, or with the modes
    `crop` and `pad` never distorted, since the network then sees no distorted images
    later either. With `crop`, the centre of the random crop is used, so a view may
    show what is cut off the image itself. Then

    *   `light` changes brightness by up to 20 % of the range, contrast by up to 20 %
        and saturation by up to 30 %;
    *   `strong` applies two of `OPERATIONS`, as in RandAugment (Cubuk et al., arXiv
        1909.13719), without those that may change the label: invert and solarize
        produce the colours of other things. Magnitudes are drawn uniformly instead of
        fixed: there is no magnitude to tune, and some views stay close to the image.
        In a quarter of the views a rectangle is erased (Zhong et al., arXiv
        1708.04896).

    Args:
        pixels: uint8 [H, W, 3], RGB.
        seed: int32 [2]; equal seeds make equal views.
        policy: `light` or `strong`.
        mirror: Whether half of the views are mirrored, which must not change labels.
        preprocessing: Height S and width T of the view, and how it gets them.

    Returns:
        float32 [S, T, 3], RGB in [0, 255].
    """
    crop_seed, mirror_seed, seed = tf.unstack(tf.random.split(seed, 3))
    pixels = resize(crop(pixels, crop_seed, _MIN_AREA[policy]), preprocessing)
    if mirror:
        pixels = tf.image.stateless_random_flip_left_right(pixels, mirror_seed)
    finish = _finish_light if policy == "light" else _finish_strong
    return finish(pixels, seed)


def crop(pixels: tf.Tensor, seed: tf.Tensor, min_area: float) -> tf.Tensor:
    """Crops uint8 [H, W, 3] to a part whose w / h is between 3/4 and 4/3 of W / H.

    Its fraction of the area is drawn uniformly from `min_area` to 1.
    """
    area, aspect, top, left = tf.unstack(tf.random.stateless_uniform([4], seed))
    area = min_area + (1 - min_area) * area
    aspect = tf.exp((2 * aspect - 1) * math.log(4 / 3))
    scale = tf.minimum(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)]), 1.0)
    full_size = tf.cast(tf.shape(pixels)[:2], tf.float32)
    size = tf.maximum(tf.round(scale * full_size), 1.0)
    corner = tf.floor(tf.stack([top, left]) * (full_size - size + 1))
    corner, size = tf.cast(corner, tf.int32), tf.cast(size, tf.int32)
    return pixels[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]


def _clip(pixels: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(pixels, 0.0, 255.0)


def _finish_light(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    brightness, contrast, saturation = tf.unstack(tf.random.split(seed, 3))
    pixels = tf.image.stateless_random_brightness(pixels, 0.2 * 255, brightness)
    pixels = tf.image.stateless_random_contrast(_clip(pixels), 0.8, 1.2, contrast)
    # Saturation is only defined for colours in the range.
    pixels = _clip(pixels)
    return _clip(tf.image.stateless_random_saturation(pixels, 0.7, 1.3, saturation))


def _finish_strong(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    which, magnitudes, chance, rectangle = tf.unstack(tf.random.split(seed, 4))
    count = [_NUM_OPERATIONS]
    which = tf.random.stateless_uniform(count, which, 0, len(OPERATIONS), tf.int32)
    magnitudes = tf.random.stateless_uniform(count, magnitudes, -1.0, 1.0)
    for index, magnitude in zip(tf.unstack(which), tf.unstack(magnitudes), strict=True):
        pixels = _apply(index, pixels, magnitude)
    erases = tf.random.stateless_uniform([], chance) < _ERASE_PROBABILITY
    return tf.cond(erases, lambda: erase(pixels, rectangle), lambda: pixels)


def _apply(index: tf.Tensor, pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    branches = [lambda f=f: _clip(f(pixels, magnitude)) for f in OPERATIONS.values()]
    return tf.switch_case(index, branches)


def erase(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Makes a rectangle of float32 [S, T, 3] grey: 2 to 20 % of the area.

    It is 0.3 to 3.3 times as high as wide, in units of the image's sides. It is grey
    and not noise as in the paper, like the areas that `OPERATIONS` leave empty.
    """
    area, aspect, top, left = tf.unstack(tf.random.stateless_uniform([4], seed))
    area = 0.02 + 0.18 * area
    aspect = tf.exp(math.log(0.3) + math.log(3.3 / 0.3) * aspect)

    def make_mask(side: int, scale: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        size = tf.maximum(tf.round(scale * side), 1.0)
        start = tf.floor(start * (side - size + 1))
        position = tf.range(side, dtype=tf.float32)
        return (position >= start) & (position < start + size)

    height, width, _ = pixels.shape
    rows = make_mask(height, tf.sqrt(area * aspect), top)
    columns = make_mask(width, tf.sqrt(area / aspect), left)
    return tf.where(rows[:, None, None] & columns[:, None], GREY, pixels)


def _transform(pixels: tf.Tensor, matrix: list[list[float | tf.Tensor]]) -> tf.Tensor:
    """Applies an affine transform to float32 [S, T, 3].

    The product of the matrix, [2, 3], and (x, y, 1) is where pixel (x, y) of the result
    comes from, relative to the centre; the last column is in units of the sides.
    """
    height, width, _ = map(float, pixels.shape)
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    (a, b, shift_x), (c, d, shift_y) = matrix
    ratio = centre_y / centre_x  # exactly 1 for squares
    x = shift_x * width - (a + b * ratio) * centre_x + centre_x
    y = shift_y * height - (c / ratio + d) * centre_y + centre_y
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=tf.stack([a, b, x, c, d, y, 0.0, 0.0])[None],
        output_shape=pixels.shape[:2],
        fill_value=GREY,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def _rotate(pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    angle = math.radians(20) * magnitude
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _transform(pixels, [[cos, -sin, 0], [sin, cos, 0]])


def _blend(origin: tf.Tensor, pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Moves pixels towards an origin or away from it by up to 60 %."""
    return origin + (1 + 0.6 * magnitude) * (pixels - origin)


def _sharpen(pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    blurred = tf.nn.avg_pool2d(pixels[None], 3, 1, "SAME")[0]
    return _blend(blurred, pixels, magnitude)


def _posterize(pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    step = 2 ** tf.round(4 * tf.abs(magnitude))
    return tf.floor(pixels / step) * step


def _autocontrast(pixels: tf.Tensor) -> tf.Tensor:
    low = tf.reduce_min(pixels)
    span = tf.reduce_max(pixels) - low
    # In an image of one colour it would amplify rounding errors.
    return tf.where(span < 1, pixels, (pixels - low) * (255 / tf.maximum(span, 1)))


# From float32 [S, T, 3] in [0, 255] and a magnitude in [-1, 1] to float32 [S, T, 3].
# To keep the label, rotations and shifts are small, colours never fade to grey, and
# contrast is that of all channels together: that of single channels would change hues.
OPERATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "rotate": _rotate,  # by up to 20 degrees
    "shear_x": lambda pixels, m: _transform(pixels, [[1, 0.2 * m, 0], [0, 1, 0]]),
    "shear_y": lambda pixels, m: _transform(pixels, [[1, 0, 0], [0.2 * m, 1, 0]]),
    "translate_x": lambda pixels, m: _transform(pixels, [[1, 0, 0.2 * m], [0, 1, 0]]),
    "translate_y": lambda pixels, m: _transform(pixels, [[1, 0, 0], [0, 1, 0.2 * m]]),
    "brightness": lambda pixels, m: _blend(0.0, pixels, m),
    "contrast": lambda pixels, m: _blend(tf.reduce_mean(pixels), pixels, m),
    "saturation": lambda pixels, m: tf.image.adjust_saturation(pixels, 1 + 0.6 * m),
    "sharpness": _sharpen,
    "posterize": _posterize,  # to 8 down to 4 bits
    "autocontrast": lambda pixels, _: _autocontrast(pixels),
}
