"""Decodes and resizes images: training and serving share these functions."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_ft.catalog.preprocessing import ImageSize, Preprocessing
from keras_ft.images import exif

# Fills empty areas: near zero after the normalisation of the network.
GREY = 127.5
# Pixels that are composited at a time: as floats, they take nine times the memory. The
# C library returns blocks of this size to the system at once, but keeps smaller ones.
_STRIP = 12_000_000


def separate_function(function: Callable) -> Callable:
    """Makes a function one step of the graph that calls it, on the CPU.

    TensorFlow visits each step of a branch that is not taken too, which takes time.
    """

    @functools.wraps(function)
    def on_cpu(*arguments: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU"):  # the caller's device does not apply here
            return function(*arguments)

    return tf.function(
        on_cpu, autograph=False, experimental_attributes={"_noinline": True}
    )


def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes one image as a viewer shows it.

    Converts grey, palette and CMYK to RGB, and 16 bits to 8; takes the first frame of
    an animation. Rotates and mirrors a JPEG, PNG or WebP according to its EXIF
    orientation. Transparent PNG and WebP images are composited on white; transparency
    in BMP is ignored, and transparent pixels of a GIF become black.

    Args:
        image_bytes: string scalar, a JPEG, PNG, BMP, GIF or WebP file; an animated WebP
            must have an alpha channel.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: The bytes are no such file.
    """
    pixels = _decode_by_format(image_bytes, lambda: _decode_opaque(image_bytes))
    pixels.set_shape([None, None, 3])
    return pixels


def decode_channels(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes as `decode_image` before it composites: uint8 [H, W, 3 or 4].

    A PNG or WebP that may have transparent parts has a fourth channel, alpha.
    """
    return _decode_by_format(image_bytes, lambda: _decode_other(image_bytes))


def composite_on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Composites uint8 [H, W, 3 or 4] on white: uint8 [H, W, 3]."""
    has_alpha = tf.shape(pixels)[-1] == 4
    return tf.cond(has_alpha, lambda: _blend(pixels), lambda: pixels)


def _decode_by_format(
    image_bytes: tf.Tensor, decode_other: Callable[[], tf.Tensor]
) -> tf.Tensor:
    # In a SavedModel on a GPU, each of the small steps below would wait for the GPU.
    with tf.device("CPU"):
        is_jpeg = tf.strings.substr(image_bytes, 0, 2) == b"\xff\xd8"
        return tf.cond(is_jpeg, lambda: _decode_jpeg(image_bytes), decode_other)


@separate_function
def _decode_opaque(image_bytes: tf.Tensor) -> tf.Tensor:
    return composite_on_white(_decode_other(image_bytes))


def _decode(image_bytes: tf.Tensor, channels: int) -> tf.Tensor:
    return tf.io.decode_image(image_bytes, channels, expand_animations=False)


def _decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    # The DCT of most other programs: their pixels differ by one level at most, those of
    # TensorFlow's default by up to 15.
    pixels = tf.io.decode_jpeg(image_bytes, 3, dct_method="INTEGER_ACCURATE")
    # This search is cheap, unlike parsing the EXIF, which most files do not have.
    start = tf.strings.substr(image_bytes, 0, exif.EXIF_BYTES)
    without = tf.strings.regex_replace(start, r"Exif\x00\x00", "", replace_global=False)
    return tf.cond(
        start != without,
        lambda: _rotate(pixels, _read_orientation(_find_in_jpeg(start))),
        lambda: pixels,
    )


_find_in_jpeg = separate_function(exif.find_in_jpeg)
_find_in_chunks = separate_function(exif.find_in_chunks)
_read_orientation = separate_function(exif.read_orientation)


@separate_function
def _rotate(pixels: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Makes uint8 [H, W, C] upright, by its EXIF orientation."""

    def rotate() -> tf.Tensor:
        # 5..8 are transposed; then 3, 4, 7 and 8 are flipped, 2, 3, 6 and 7 mirrored.
        order = tf.where(orientation > 4, [1, 0, 2], [0, 1, 2])
        reversed_axes = tf.stack([orientation - 1, orientation]) & 2 > 0
        return tf.reverse(
            tf.transpose(pixels, order), tf.boolean_mask([0, 1], reversed_axes)
        )

    return tf.cond(orientation > 1, rotate, lambda: pixels)


@separate_function
def _decode_other(image_bytes: tf.Tensor) -> tf.Tensor:
    header = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=29)

    def has(position: int, expected: bytes) -> tf.Tensor:
        part = header[position : position + len(expected)]
        return tf.reduce_all(part == tf.constant(list(expected), tf.uint8))

    is_png = has(0, b"\x89PNG")
    # Only a PNG is searched: in a large BMP it would take as long as to decode it.
    png = tf.where(is_png, image_bytes, b"")

    def has_chunk(kind: str) -> tf.Tensor:
        # These letters may also occur by chance, which costs time and nothing else.
        without = tf.strings.regex_replace(png, kind, "", replace_global=False)
        return without != png

    # Either the colour type has alpha, or there is a chunk tRNS.
    is_png_with_alpha = is_png & ((header[25] & 0x04 > 0) | has_chunk("tRNS"))
    is_webp = has(0, b"RIFF") & has(8, b"WEBP")
    webp_flags = tf.where(is_webp & has(12, b"VP8X"), header[20], 0)
    is_animated_webp = webp_flags & 0x02 > 0
    # TensorFlow decodes the palette's indices in a BMP as shades of grey.
    is_palette_bmp = has(0, b"BM") & (header[28] == 8)
    pixels = tf.case(
        [
            (is_palette_bmp, lambda: _decode_palette_bmp(image_bytes)),
            # TensorFlow decodes WebP with as many channels as the file has. For
            # animations it needs four: with 0, TensorFlow 2.21 corrupts memory.
            (is_png_with_alpha | is_animated_webp, lambda: _decode(image_bytes, 4)),
            (is_webp, lambda: _decode(image_bytes, 0)),
        ],
        default=lambda: _decode(image_bytes, 3),
    )
    has_exif = (webp_flags & 0x08 > 0) | has_chunk("eXIf")
    return tf.cond(
        has_exif,
        lambda: _rotate(pixels, _read_orientation(_find_in_chunks(image_bytes))),
        lambda: pixels,
    )


@separate_function
def _blend(pixels: tf.Tensor) -> tf.Tensor:
    """Composites uint8 [H, W, 4] on white: uint8 [H, W, 3]."""
    alpha = pixels[..., 3:]
    return tf.case(
        [
            (tf.reduce_all(alpha == 255), lambda: pixels[..., :3]),
            (tf.size(alpha) <= _STRIP, lambda: _blend_at_once(pixels, alpha)),
        ],
        default=lambda: _blend_in_strips(pixels),
    )


def _blend_at_once(pixels: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    # Rounds to the nearest integer; there are no ties. Integer math is slower.
    opacity = tf.cast(alpha, tf.float32) / 255
    blended = 255.5 + (tf.cast(pixels[..., :3], tf.float32) - 255) * opacity
    return tf.cast(blended, tf.uint8)


def _blend_in_strips(pixels: tf.Tensor) -> tf.Tensor:
    flat = tf.reshape(pixels, [-1, 4])
    count = tf.maximum(tf.shape(flat)[0] // _STRIP, 1)
    length = (tf.shape(flat)[0] - 1) // count + 1
    strips = tf.TensorArray(tf.uint8, count, infer_shape=False, element_shape=[None, 3])

    def add(i: tf.Tensor, strips: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        strip = flat[i * length : (i + 1) * length]
        return i + 1, strips.write(i, _blend_at_once(strip, strip[:, 3:]))

    _, strips = tf.while_loop(
        lambda i, _: i < count, add, (0, strips), parallel_iterations=1
    )
    return tf.reshape(strips.concat(), tf.shape(pixels) - [0, 0, 1])


@separate_function
def _decode_palette_bmp(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP file of 8 bits per pixel: uint8 [H, W, 3]."""

    def read_int32(position: int) -> tf.Tensor:
        number = tf.strings.substr(image_bytes, position, 4)
        return tf.io.decode_raw(number, tf.int32)[0]

    # The file header has 14 bytes; the next header starts with its own size.
    start, end = 14 + read_int32(14), read_int32(10)
    table = tf.strings.substr(image_bytes, start, end - start)
    palette = tf.reshape(tf.io.decode_raw(table, tf.uint8), [-1, 4])  # BGR and a zero
    indices = tf.io.decode_bmp(image_bytes)[..., 0]
    return tf.gather(palette[:, 2::-1], tf.cast(indices, tf.int32))


def resize(pixels: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resizes uint8 [..., H, W, 3] to float32 [..., S, T, 3] in [0, 255].

    It is bilinear with antialiasing.
    """
    with tf.device("CPU"):  # small steps, as in decode_image
        fit = _MODES[preprocessing.mode]
        return fit(tf.convert_to_tensor(pixels), preprocessing.size)


def decode_and_resize(images: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Decodes and resizes files, string [N], to float32 [N, S, T, 3] in [0, 255]."""
    return tf.map_fn(
        lambda one: resize(decode_image(one), preprocessing),
        images,
        fn_output_signature=tf.TensorSpec([*preprocessing.size, 3], tf.float32),
    )


def _stretch(pixels: tf.Tensor, size: ImageSize | tf.Tensor) -> tf.Tensor:
    return tf.image.resize(pixels, size, method="bilinear", antialias=True)


def _crop(pixels: tf.Tensor, size: ImageSize) -> tf.Tensor:
    start, part = _fit(size, tf.shape(pixels)[-3:-1])
    end = start + part
    return _stretch(pixels[..., start[0] : end[0], start[1] : end[1], :], size)


def _pad(pixels: tf.Tensor, size: ImageSize) -> tf.Tensor:
    start, fitted = _fit(tf.shape(pixels)[-3:-1], size)
    resized = _stretch(pixels, fitted)
    of_sides = tf.stack([start, size - start - fitted], axis=1)
    paddings = tf.pad(of_sides, [[pixels.shape.rank - 3, 1], [0, 0]])
    padded = tf.pad(resized, paddings, constant_values=GREY)
    return tf.ensure_shape(padded, [*pixels.shape[:-3], *size, 3])


_MODES = {"stretch": _stretch, "crop": _crop, "pad": _pad}


def _fit(shape: tf.Tensor, area: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns corner and size, int32 [2] each, of the largest central part of an area.

    Its ratio of height to width is that of `shape`.
    """
    shape, area = tf.cast(shape, tf.float32), tf.cast(area, tf.float32)
    size = tf.maximum(tf.round(shape * tf.reduce_min(area / shape)), 1.0)
    start = tf.floor((area - size) / 2)
    return tf.cast(start, tf.int32), tf.cast(size, tf.int32)


def find_seen(shape: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """Finds which part of an image of some height and width `resize` returns.

    Returns:
        float64 [2, 2], [[top, left], [bottom, right]] in units of the image's height
        and width: from 0 to 1, or beyond where the image is padded.
    """
    size = preprocessing.size
    if preprocessing.mode == "crop":
        start, part = (x.numpy() for x in _fit(size, shape))
        return np.array([start, start + part]) / shape
    if preprocessing.mode == "pad":
        start, fitted = (x.numpy() for x in _fit(shape, size))
        return np.array([-start, size - start]) / fitted
    return np.array([[0.0, 0.0], [1.0, 1.0]])
