"""Encoded image -> pixels: the one function that training and serving share."""

import functools
from collections.abc import Callable

import tensorflow as tf

# How far into a file its EXIF is looked for. EXIF comes first, or after another
# segment or two, and no segment is longer than 64 KiB.
EXIF_BYTES = 128 * 1024
# A bound on the time that a malicious file takes; real ones have about ten segments.
EXIF_SEGMENTS = 256


def _apart(function: Callable) -> Callable:
    """Makes a function one step of the graph that calls it, and keeps it on the CPU.

    A branch that is not taken costs time too: TensorFlow visits each of its steps.
    """

    @functools.wraps(function)
    def on_cpu(*arguments: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU"):  # the caller's device does not hold in here
            return function(*arguments)

    return tf.function(
        on_cpu, autograph=False, experimental_attributes={"_noinline": True}
    )


def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes one image as a viewer shows it.

    Colour from grey, palette and CMYK; 8 bits from 16; an animation's first frame. A
    JPEG is turned as its EXIF says; EXIF in other formats is not read. The transparency
    of PNG and WebP is laid on white; that of BMP is dropped, and a GIF's transparent
    pixels come as TensorFlow gives them, black.

    Args:
        image_bytes: string scalar, a JPEG, PNG, BMP, GIF or WebP file; an animated WebP
            must have an alpha channel.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: When run, if the bytes are no such file.
    """
    # In a SavedModel on a GPU, each of the small steps below would wait for the GPU.
    with tf.device("CPU"):
        pixels = tf.cond(
            tf.strings.substr(image_bytes, 0, 2) == b"\xff\xd8",
            lambda: _decode_jpeg(image_bytes),
            lambda: _decode_other(image_bytes),
        )
    pixels.set_shape([None, None, 3])
    return pixels


def exif_orientation(image_bytes: tf.Tensor) -> tf.Tensor:
    """Reads a JPEG's orientation (EXIF 2.3, section 4.6.4; tag 0x0112 of IFD0).

    Args:
        image_bytes: string scalar, any bytes.

    Returns:
        int32 scalar in 1..8; 1, as stored, if the bytes give no other that is well
        formed.
    """
    head = tf.strings.substr(image_bytes, 0, EXIF_BYTES)
    # Nothing is found past the end of what does not begin as a JPEG does.
    is_jpeg = tf.strings.substr(head, 0, 2) == b"\xff\xd8"
    tiff = _find_exif(head, tf.where(is_jpeg, 2, tf.strings.length(head)))
    order = tf.strings.substr(tiff, 0, 4)
    return tf.case(
        [
            (order == b"II*\0", lambda: _tiff_orientation(tiff, little_endian=True)),
            (order == b"MM\0*", lambda: _tiff_orientation(tiff, little_endian=False)),
        ],
        default=lambda: tf.constant(1),
    )


def _find_exif(head: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """Walks a JPEG's segments (ITU T.81, annex B) to the first that holds EXIF.

    Args:
        head: string scalar, the file's beginning.
        start: int32 scalar, where the first segment begins.

    Returns:
        string scalar, the TIFF file in that segment; empty if there is no whole one.
    """

    def look(position: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # A segment begins with its marker, 0xFF.., and its length, of which the
        # length's own two bytes are part.
        marker, length = tf.unstack(_numbers(head, position, 2, tf.uint16, False))
        # Any number of bytes 0xFF may come before a marker.
        is_fill = marker == 0xFFFF
        end = position + tf.where(is_fill, 1, 2 + length)
        content = _substr(head, position + 4, 6)
        is_exif = (marker == 0xFFE1) & (content == b"Exif\0\0")
        # From 0xFFD0 on: RST, SOI, EOI and SOS, of which none belongs here.
        known = (marker >= 0xFFC0) & ((marker < 0xFFD0) | (marker > 0xFFDA))
        return position, end, is_exif, known & (is_fill | (length >= 2)) & ~is_exif

    position, end, is_exif, _ = tf.while_loop(
        lambda _position, _end, _is_exif, goes_on: goes_on,
        lambda _position, end, _is_exif, _goes_on: look(end),
        look(start),
        maximum_iterations=EXIF_SEGMENTS,
    )
    is_whole = is_exif & (end <= tf.strings.length(head))
    size = tf.where(is_whole, tf.maximum(end - position - 10, 0), 0)
    return _substr(head, position + 10, size)


def _tiff_orientation(tiff: tf.Tensor, little_endian: bool) -> tf.Tensor:
    """Reads tag 0x0112 of a TIFF file's first directory (TIFF 6.0, section 2).

    Args:
        tiff: string scalar.
        little_endian: The file's byte order.

    Returns:
        int32 scalar in 1..8; 1 if the file gives no other or is malformed.
    """
    start = _numbers(tiff, 4, 1, tf.int32, little_endian)[0]
    # What is past 2 GiB, and so negative here, is past the end too.
    start = tf.where(start < 0, EXIF_BYTES, tf.minimum(start, EXIF_BYTES))
    entry_count = _numbers(tiff, start, 1, tf.uint16, little_endian)[0]
    size = 12 * entry_count
    is_whole = start + 2 + size <= tf.strings.length(tiff)
    table = _substr(tiff, start + 2, tf.where(is_whole, size, 0))
    shorts = tf.io.decode_raw(table, tf.uint16, little_endian)
    shorts = tf.reshape(tf.cast(shorts, tf.int32), [-1, 6])
    longs = tf.reshape(tf.io.decode_raw(table, tf.int32, little_endian), [-1, 3])
    tag, kind, _, _, short, _ = tf.unstack(shorts, axis=1)
    _, value_count, long = tf.unstack(longs, axis=1)
    # The standard asks for a SHORT; some write a LONG, which readers accept.
    value = tf.where(kind == 3, short, long)
    is_orientation = (tag == 0x0112) & ((kind == 3) | (kind == 4)) & (value_count == 1)
    is_orientation &= (value >= 1) & (value <= 8)
    # Of no entries the maximum is the least integer.
    return tf.maximum(tf.reduce_max(tf.where(is_orientation, value, 1)), 1)


def _substr(text: tf.Tensor, start: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
    """Takes a part of a string scalar, as much of it as there is: string scalar."""
    return tf.strings.substr(text, tf.minimum(start, tf.strings.length(text)), size)


def _numbers(
    text: tf.Tensor,
    start: tf.Tensor | int,
    count: int,
    kind: tf.DType,
    little_endian: bool,
) -> tf.Tensor:
    """Reads numbers in a string scalar, zeros past its end: int32 [`count`]."""
    size = count * kind.size
    part = _substr(text, start, size)
    numbers = tf.io.decode_raw(part, kind, little_endian, fixed_length=size)
    return tf.cast(tf.ensure_shape(numbers, [count]), tf.int32)


def _decode(image_bytes: tf.Tensor, channels: int) -> tf.Tensor:
    """Decodes a file, or an animation's first frame: uint8 [H, W, `channels`]."""
    return tf.io.decode_image(image_bytes, channels, expand_animations=False)


def _decode_jpeg(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a JPEG file and turns it upright: uint8 [H, W, 3]."""
    pixels = _decode(image_bytes, 3)
    # This search costs little, unlike the walk, which most files do not need.
    head = tf.strings.substr(image_bytes, 0, EXIF_BYTES)
    without = tf.strings.regex_replace(head, r"Exif\x00\x00", "", replace_global=False)
    return tf.cond(head != without, lambda: _turn(pixels, head), lambda: pixels)


@_apart
def _turn(pixels: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    """Turns uint8 [H, W, 3] upright, as EXIF in the file's beginning says."""
    orientation = exif_orientation(head)

    def turn() -> tf.Tensor:
        # Transposed are 5..8, then upside down 3, 4, 7 and 8, mirrored 2, 3, 6 and 7.
        order = tf.where(orientation > 4, [1, 0, 2], [0, 1, 2])
        reversed_axes = tf.stack([orientation - 1, orientation]) & 2 > 0
        return tf.reverse(
            tf.transpose(pixels, order), tf.boolean_mask([0, 1], reversed_axes)
        )

    return tf.cond(orientation > 1, turn, lambda: pixels)


@_apart
def _decode_other(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes a file that is no JPEG: uint8 [H, W, 3]."""
    header = tf.io.decode_raw(image_bytes, tf.uint8, fixed_length=29)

    def has(position: int, expected: bytes) -> tf.Tensor:
        part = header[position : position + len(expected)]
        return tf.reduce_all(part == tf.constant(list(expected), tf.uint8))

    is_webp = has(0, b"RIFF") & has(8, b"WEBP")
    is_animated_webp = is_webp & has(12, b"VP8X") & (header[20] & 0x02 > 0)
    # By its colour type or, which may be elsewhere by chance, by the chunk tRNS.
    without = tf.strings.regex_replace(image_bytes, "tRNS", "", replace_global=False)
    has_alpha = (header[25] & 0x04 > 0) | (without != image_bytes)
    is_png_with_alpha = has(0, b"\x89PNG") & has_alpha
    # TensorFlow takes the palette's indices in BMP for shades of grey.
    is_palette_bmp = has(0, b"BM") & (header[28] == 8)
    return tf.case(
        [
            (is_palette_bmp, lambda: _decode_palette_bmp(image_bytes)),
            # Of WebP, TensorFlow gives only the channels that there are. Of animations
            # it takes four, and 2.21 corrupts memory where it is to choose itself.
            (is_animated_webp, lambda: _on_white(_decode(image_bytes, 4))),
            (is_webp, lambda: _on_white(_decode(image_bytes, 0))),
            (is_png_with_alpha, lambda: _on_white(_decode(image_bytes, 4))),
        ],
        default=lambda: _decode(image_bytes, 3),
    )


@_apart
def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Lays uint8 [H, W, 3 or 4] on white: uint8 [H, W, 3]."""
    colour, alpha = pixels[..., :3], pixels[..., 3:]

    def blend() -> tf.Tensor:
        # To the nearest integer: no sum is halfway between two. Integers take longer.
        opacity = tf.cast(alpha, tf.float32) / 255
        blended = 255.5 + (tf.cast(colour, tf.float32) - 255) * opacity
        return tf.cast(blended, tf.uint8)

    return tf.cond(tf.reduce_all(alpha == 255), lambda: colour, blend)


@_apart
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
    """Resizes uint8 [..., H, W, 3] to float32 [..., S, S, 3] in [0, 255].

    Bilinear with antialiasing, aspect ratio not kept.
    """
    size = [image_size, image_size]
    return tf.image.resize(pixels, size, method="bilinear", antialias=True)
