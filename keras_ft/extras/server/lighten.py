"""Removes from image files, or refuses, what takes long to decode and shows nothing.

The pixels that TensorFlow decodes stay the same.
"""

import re

from keras_ft.data.file_facts import detect_format
from keras_ft.errors import UserError

MAX_SCANS = 100
# Pixels times scans; programs write up to a dozen scans.
MAX_SCANNED_PIXELS = 1_000_000_000

# In data, 0xFF is followed by zero, or by a restart marker.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_EOI, _SOS = 0xD9, 0xDA
# Chunks with compressed text or a colour profile, which TensorFlow inflates only to
# ignore it: 6 MB of them take 30 s.
_IGNORED_CHUNKS = (b"zTXt", b"iTXt", b"iCCP")
_GIF_EXTENSION, _GIF_IMAGE = 0x21, 0x2C
_GIF_CONTROL = 0xF9  # the extension with the transparent colour of the next frame


def lighten(content: bytes, num_pixels: int) -> bytes:
    """Returns a file of the same pixels; UserError if it has too many scans."""
    match detect_format(content[:32]):
        case "jpeg":
            _check_scans(content, num_pixels)
        case "png":
            return _drop_chunks(content)
        case "gif":
            return _keep_first_frame(content)
    return content


def _check_scans(jpeg: bytes, num_pixels: int) -> None:
    """A scan is a pass over all pixels, and may have no data (ITU T.81, annex B)."""
    position, scans = 2, 0
    while found := _JPEG_MARKER.search(jpeg, position):
        marker, position = jpeg[found.end() - 1], found.end()
        if marker == _EOI:
            return
        if marker >= 0xC0:  # the decoder skips other ones without the length
            position += int.from_bytes(jpeg[position : position + 2])
        scans += marker == _SOS
        if scans > MAX_SCANS or scans * num_pixels > MAX_SCANNED_PIXELS:
            raise UserError(
                f"A JPEG may have at most {MAX_SCANS} scans, and its pixels times its "
                f"scans may be at most {MAX_SCANNED_PIXELS}"
            )


def _drop_chunks(png: bytes) -> bytes:
    kept, position = [png[:8]], 8
    while position < len(png):
        end = position + 12 + int.from_bytes(png[position : position + 4])
        if png[position + 4 : position + 8] not in _IGNORED_CHUNKS:
            kept.append(png[position:end])
        position = end
    return b"".join(kept)


def _keep_first_frame(gif: bytes) -> bytes:
    """TensorFlow decodes all frames, and returns the first one (GIF89a).

    It also keeps each block of a comment in memory, and there may be millions.
    """
    position = 13 + _color_table_size(gif[10:11])
    header, control = gif[:position], b""
    while (kind := int.from_bytes(gif[position : position + 1])) == _GIF_EXTENSION:
        start, position = position, _skip_blocks(gif, position + 2)
        if gif[start + 1 : start + 2] == bytes([_GIF_CONTROL]):
            control = gif[start:position]
    if kind != _GIF_IMAGE:
        return gif  # damaged
    start = position
    position += 11 + _color_table_size(gif[position + 9 : position + 10])
    return header + control + gif[start : _skip_blocks(gif, position)] + b";"


def _color_table_size(flags: bytes) -> int:
    [number] = flags or [0]
    return 3 << (number & 7) + 1 if number & 0x80 else 0


def _skip_blocks(gif: bytes, position: int) -> int:
    while position < len(gif) and gif[position]:
        position += gif[position] + 1
    return position + 1
