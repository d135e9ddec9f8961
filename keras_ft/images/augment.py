"""Random views of an image that keep its label; each is a function of its seed.

Labels have to survive mirroring, which they do in photographs and not in writing. Only
the crop is made at an image's own size, often many times that of a network's input.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from keras_ft.images.decode import resize

# Fills what an image does not cover: near zero once a network has scaled its inputs.
GREY = 127.5
_LEAST_AREA = {"light": 0.6, "strong": 0.35}
_NUM_OPERATIONS = 2
_ERASE_PROBABILITY = 0.25


def augment_image(
    pixels: tf.Tensor, seed: tf.Tensor, policy: str, image_size: int
) -> tf.Tensor:
    """Draws a variation of an image.

    The crop (Szegedy et al., arXiv 1409.4842, section 6, but larger) covers 60 to
    100 % of the area, 35 to 100 % if `strong`, and has 3/4 to 4/3 of the image's aspect
    ratio. Half of the views are mirror images. Then

    *   `light` changes brightness by up to 20 % of the range, contrast by up to 20 %
        and saturation by up to 30 %;
    *   `strong` applies two of `OPERATIONS`, as in RandAugment (Cubuk et al., arXiv
        1909.13719), without those that may take the label away: invert and solarize
        turn colours into those of other things. Magnitudes are drawn evenly instead
        of fixed, so that there is none to tune and some views stay close to the image.
        A quarter of the views lose a rectangle (Zhong et al., arXiv 1708.04896).

    Args:
        pixels: uint8 [H, W, 3], RGB.
        seed: int32 [2]; equal seeds give equal views.
        policy: `light` or `strong`.
        image_size: S.

    Returns:
        float32 [S, S, 3], RGB in [0, 255].
    """
    crop_seed, mirror_seed, seed = tf.unstack(tf.random.split(seed, 3))
    pixels = resize(crop(pixels, crop_seed, _LEAST_AREA[policy]), image_size)
    pixels = tf.image.stateless_random_flip_left_right(pixels, mirror_seed)
    return (_change_light if policy == "light" else _distort)(pixels, seed)


def crop(pixels: tf.Tensor, seed: tf.Tensor, least_area: float) -> tf.Tensor:
    """Cuts out a random part.

    Args:
        pixels: uint8 [H, W, 3].
        seed: int32 [2].
        least_area: The least share of the area, evenly drawn up to 1.

    Returns:
        uint8 [h, w, 3] with w / h between 3/4 and 4/3 of W / H.
    """
    area, aspect, top, left = tf.unstack(tf.random.stateless_uniform([4], seed))
    area = least_area + (1 - least_area) * area
    aspect = tf.exp((2 * aspect - 1) * math.log(4 / 3))
    share = tf.minimum(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)]), 1.0)
    whole = tf.cast(tf.shape(pixels)[:2], tf.float32)
    size = tf.maximum(tf.round(share * whole), 1.0)
    corner = tf.floor(tf.stack([top, left]) * (whole - size + 1))
    corner, size = tf.cast(corner, tf.int32), tf.cast(size, tf.int32)
    return pixels[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]


def _clip(pixels: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(pixels, 0.0, 255.0)


def _change_light(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The last steps of `light`: float32 [S, S, 3] in [0, 255] to the same."""
    brightness, contrast, saturation = tf.unstack(tf.random.split(seed, 3))
    pixels = tf.image.stateless_random_brightness(pixels, 0.2 * 255, brightness)
    pixels = tf.image.stateless_random_contrast(_clip(pixels), 0.8, 1.2, contrast)
    # Saturation is defined for colours within the range only.
    pixels = _clip(pixels)
    return _clip(tf.image.stateless_random_saturation(pixels, 0.7, 1.3, saturation))


def _distort(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """The last steps of `strong`: float32 [S, S, 3] in [0, 255] to the same."""
    which, magnitudes, chance, rectangle = tf.unstack(tf.random.split(seed, 4))
    count = [_NUM_OPERATIONS]
    which = tf.random.stateless_uniform(count, which, 0, len(OPERATIONS), tf.int32)
    magnitudes = tf.random.stateless_uniform(count, magnitudes, -1.0, 1.0)
    for index, magnitude in zip(tf.unstack(which), tf.unstack(magnitudes), strict=True):
        pixels = _apply(index, pixels, magnitude)
    return tf.cond(
        tf.random.stateless_uniform([], chance) < _ERASE_PROBABILITY,
        lambda: erase(pixels, rectangle),
        lambda: pixels,
    )


def _apply(index: tf.Tensor, pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    branches = [lambda f=f: _clip(f(pixels, magnitude)) for f in OPERATIONS.values()]
    return tf.switch_case(index, branches)


def erase(pixels: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Makes a rectangle grey: 2 to 20 % of the area, 0.3 to 3.3 times as high as wide.

    Grey and not the paper's noise, so that whatever is missing looks the same, here and
    where an operation moved the image away.

    Args:
        pixels: float32 [S, S, 3].
        seed: int32 [2].

    Returns:
        float32 [S, S, 3].
    """
    area, aspect, top, left = tf.unstack(tf.random.stateless_uniform([4], seed))
    area = 0.02 + 0.18 * area
    aspect = tf.exp(math.log(0.3) + math.log(3.3 / 0.3) * aspect)
    whole = pixels.shape[0]

    def spans(share: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        """Whether the rectangle spans each of the rows, or columns: bool [S]."""
        size = tf.maximum(tf.round(share * whole), 1.0)
        start = tf.floor(start * (whole - size + 1))
        position = tf.range(whole, dtype=tf.float32)
        return (position >= start) & (position < start + size)

    rows = spans(tf.sqrt(area * aspect), top)
    columns = spans(tf.sqrt(area / aspect), left)
    return tf.where(rows[:, None, None] & columns[:, None], GREY, pixels)


def _move(pixels: tf.Tensor, matrix: list[list[float | tf.Tensor]]) -> tf.Tensor:
    """Takes each pixel from where a matrix [2, 3] sends it.

    The matrix acts on (x, y, 1), from the centre, in units of the image's side.
    """
    side = float(pixels.shape[0])
    centre = (side - 1) / 2
    row = []
    for across, down, shift in matrix:
        row += [across, down, shift * side - (across + down) * centre]
    row[2] += centre
    row[5] += centre
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=tf.stack([*row, 0.0, 0.0])[None],
        output_shape=pixels.shape[:2],
        fill_value=GREY,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )[0]


def _rotate(pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    angle = math.radians(20) * magnitude
    cos, sin = tf.cos(angle), tf.sin(angle)
    return _move(pixels, [[cos, -sin, 0], [sin, cos, 0]])


def _blend(origin: tf.Tensor, pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    """Moves pixels towards an origin or away from it, by up to 60 %."""
    return origin + (1 + 0.6 * magnitude) * (pixels - origin)


def _sharpen(pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    blurred = tf.nn.avg_pool2d(pixels[None], 3, 1, "SAME")[0]
    return _blend(blurred, pixels, magnitude)


def _posterize(pixels: tf.Tensor, magnitude: tf.Tensor) -> tf.Tensor:
    step = 2 ** tf.round(4 * tf.abs(magnitude))
    return tf.floor(pixels / step) * step


def _stretch(pixels: tf.Tensor) -> tf.Tensor:
    low = tf.reduce_min(pixels)
    span = tf.reduce_max(pixels) - low
    # Of a plain area it would show nothing but rounding errors.
    return tf.where(span < 1, pixels, (pixels - low) * (255 / tf.maximum(span, 1)))


# From float32 [S, S, 3] in [0, 255] and a magnitude in [-1, 1] to float32 [S, S, 3].
# So that the label stays, turns and shifts are small, colours never fade to grey, and
# contrast is that of all channels at once: channel by channel it would change hues.
OPERATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "rotate": _rotate,  # by up to 20 degrees
    "shear_x": lambda pixels, m: _move(pixels, [[1, 0.2 * m, 0], [0, 1, 0]]),
    "shear_y": lambda pixels, m: _move(pixels, [[1, 0, 0], [0.2 * m, 1, 0]]),
    "translate_x": lambda pixels, m: _move(pixels, [[1, 0, 0.2 * m], [0, 1, 0]]),
    "translate_y": lambda pixels, m: _move(pixels, [[1, 0, 0], [0, 1, 0.2 * m]]),
    "brightness": lambda pixels, m: _blend(0.0, pixels, m),
    "contrast": lambda pixels, m: _blend(tf.reduce_mean(pixels), pixels, m),
    "saturation": lambda pixels, m: tf.image.adjust_saturation(pixels, 1 + 0.6 * m),
    "sharpness": _sharpen,
    "posterize": _posterize,  # to 8 down to 4 bits
    "autocontrast": lambda pixels, _: _stretch(pixels),
}
