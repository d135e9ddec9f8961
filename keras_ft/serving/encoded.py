"""Image files of any format -> bytes that TensorFlow decodes."""

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from keras_ft.data.file_facts import (
    ADVICE,
    FACTS,
    FORMAT_NAMES,
    MAX_PIXELS,
    Problem,
    read_header_of,
)
from keras_ft.data.to_png import needs_conversion, to_png

NO_IMAGE = f"not a readable {FORMAT_NAMES} image"


class Encoded(NamedTuple):
    """An image as TensorFlow decodes it, or the reason why there is none.

    Attributes:
        content: JPEG, PNG, BMP, GIF or WebP.
        error: Empty if the header could be read; the rest may still be damaged.
        num_pixels: Height times width.
    """

    content: bytes
    error: str = ""
    num_pixels: int = 0


def read_image(file: str) -> Encoded:
    """Reads an image file."""
    try:
        with Path(file).open("rb") as stream:
            return encode_image(stream)
    except OSError as error:
        return Encoded(b"", error.strerror or str(error))
    except ValueError as error:  # a name with a null byte
        return Encoded(b"", str(error))


def encode_image(stream: BinaryIO) -> Encoded:
    """Reads an image; TIFF, AVIF and HEIC are converted to PNG.

    Raises:
        OSError: It can't be read.
    """
    [facts] = np.zeros(1, FACTS)
    read_header_of(stream, facts)
    problem = Problem(facts["problem"])
    stream.seek(0)
    content = b""
    if needs_conversion(facts):
        content, problem = to_png(stream, facts)
    elif not problem:
        content = stream.read()
    if problem is Problem.TOO_LARGE:
        return Encoded(b"", f"more than {MAX_PIXELS} pixels")
    if problem:
        return Encoded(b"", ADVICE.get(problem, NO_IMAGE))
    return Encoded(content, num_pixels=int(facts["width"]) * int(facts["height"]))
