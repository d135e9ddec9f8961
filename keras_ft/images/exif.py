"""Reads the EXIF orientation of a JPEG, PNG or WebP, in TensorFlow operations."""

import tensorflow as tf

# Bytes of a JPEG to search. EXIF is the first segment, or follows one or two others,
# and no segment is longer than 64 KiB.
EXIF_BYTES = 128 * 1024
# Limits the time that a malicious file takes; real ones have about ten segments.
_MAX_SEGMENTS = 256
# What precedes EXIF in a PNG: the type of its chunk; and in a WebP: type and size of
# its chunk, and with some programs the mark that it has in a JPEG.
_BEFORE_TIFF = r"^\C*?(?:eXIf|EXIF\C{4}(?:Exif\x00\x00)?)"


def read_orientation(tiff: tf.Tensor) -> tf.Tensor:
    """Reads the orientation in EXIF (EXIF 2.3, section 4.6.4; tag 0x0112 of IFD0).

    Args:
        tiff: string scalar, the TIFF file that EXIF is, or its start.

    Returns:
        int32 scalar in 1..8; 1, upright, if the bytes have no valid orientation.
    """
    order = tf.strings.substr(tiff, 0, 4)
    return tf.case(
        [
            (order == b"II*\0", lambda: _tiff_orientation(tiff, little_endian=True)),
            (order == b"MM\0*", lambda: _tiff_orientation(tiff, little_endian=False)),
        ],
        default=lambda: tf.constant(1),
    )


def find_in_chunks(image_bytes: tf.Tensor) -> tf.Tensor:
    """Returns the start of the EXIF in a PNG or WebP file, a TIFF file, or nothing.

    The chunk may follow the pixels, so it is searched for by its mark: a PNG can have
    thousands of chunks.
    """
    tiff = tf.constant(b"")
    for header, pattern in ((b"II*\0", r"II\*\x00"), (b"MM\0*", r"MM\x00\*")):
        # Without groups to be returned, the time is linear in the size of the file.
        rest = tf.strings.regex_replace(
            image_bytes, _BEFORE_TIFF + pattern, "", replace_global=False
        )
        found = tf.strings.join([header, tf.strings.substr(rest, 0, EXIF_BYTES)])
        tiff = tf.where(rest != image_bytes, found, tiff)
    return tiff


def find_in_jpeg(jpeg: tf.Tensor) -> tf.Tensor:
    """Returns the TIFF file in the first segment with EXIF (ITU T.81, annex B).

    It is empty if there is no complete one. The start of a JPEG file suffices.
    """

    def parse(position: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # A segment starts with its marker, 0xFF.., and its length, which includes the
        # two bytes of the length itself.
        marker, length = tf.unstack(_numbers(jpeg, position, 2, tf.uint16, False))
        # Any number of bytes 0xFF may precede a marker.
        is_fill = marker == 0xFFFF
        end = position + tf.where(is_fill, 1, 2 + length)
        content = _substr(jpeg, position + 4, 6)
        is_exif = (marker == 0xFFE1) & (content == b"Exif\0\0")
        # From 0xFFD0: RST, SOI, EOI and SOS, none of which is valid here.
        is_valid = (marker >= 0xFFC0) & ((marker < 0xFFD0) | (marker > 0xFFDA))
        is_valid &= is_fill | (length >= 2)
        return position, end, is_exif, is_valid & ~is_exif

    position, end, is_exif, _ = tf.while_loop(
        lambda _position, _end, _is_exif, continues: continues,
        lambda _position, end, _is_exif, _continues: parse(end),
        parse(tf.constant(2)),
        maximum_iterations=_MAX_SEGMENTS,
    )
    is_complete = is_exif & (end <= tf.strings.length(jpeg))
    size = tf.where(is_complete, tf.maximum(end - position - 10, 0), 0)
    return _substr(jpeg, position + 10, size)


def _tiff_orientation(tiff: tf.Tensor, little_endian: bool) -> tf.Tensor:
    """Reads tag 0x0112 in the first directory of a TIFF file (TIFF 6.0, section 2)."""
    start = _numbers(tiff, 4, 1, tf.int32, little_endian)[0]
    # An offset of 2 GiB or more is negative here; it is past the end too.
    start = tf.where(start < 0, EXIF_BYTES, tf.minimum(start, EXIF_BYTES))
    entry_count = _numbers(tiff, start, 1, tf.uint16, little_endian)[0]
    size = 12 * entry_count
    is_complete = start + 2 + size <= tf.strings.length(tiff)
    table = _substr(tiff, start + 2, tf.where(is_complete, size, 0))
    shorts = tf.io.decode_raw(table, tf.uint16, little_endian)
    shorts = tf.reshape(tf.cast(shorts, tf.int32), [-1, 6])
    longs = tf.reshape(tf.io.decode_raw(table, tf.int32, little_endian), [-1, 3])
    tag, kind, _, _, short, _ = tf.unstack(shorts, axis=1)
    _, value_count, long = tf.unstack(longs, axis=1)
    # The standard requires a SHORT; some programs write a LONG, which readers accept.
    value = tf.where(kind == 3, short, long)
    is_orientation = (tag == 0x0112) & ((kind == 3) | (kind == 4)) & (value_count == 1)
    is_orientation &= (value >= 1) & (value <= 8)
    # The maximum of no entries is the least integer.
    return tf.maximum(tf.reduce_max(tf.where(is_orientation, value, 1)), 1)


def _substr(text: tf.Tensor, start: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
    """Returns a substring of a string scalar, shorter where the string ends."""
    return tf.strings.substr(text, tf.minimum(start, tf.strings.length(text)), size)


def _numbers(
    text: tf.Tensor,
    start: tf.Tensor | int,
    count: int,
    kind: tf.DType,
    little_endian: bool,
) -> tf.Tensor:
    """Parses numbers in a string scalar, zeros past its end: int32 [`count`]."""
    size = count * kind.size
    part = _substr(text, start, size)
    numbers = tf.io.decode_raw(part, kind, little_endian, fixed_length=size)
    return tf.cast(tf.ensure_shape(numbers, [count]), tf.int32)
