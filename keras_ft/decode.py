"""Encoded image -> pixels: the one function that training and serving share."""

import tensorflow as tf


def decode_image(image_bytes: tf.Tensor) -> tf.Tensor:
    """Decodes one image.

    Colour from grey, palette and CMYK; 8 bits from 16; alpha dropped; an animated
    GIF's first frame.

    Args:
        image_bytes: string scalar, a JPEG, PNG, BMP, GIF or still WebP file.

    Returns:
        uint8 [H, W, 3], RGB.

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
    return pixels


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
