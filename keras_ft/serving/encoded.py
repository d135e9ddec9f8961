"""Image files of any format -> bytes that TensorFlow decodes."""

import io
import os
from collections.abc import Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from keras_ft.data import file_facts
from keras_ft.data.file_facts import FORMAT_NAMES, Problem
from keras_ft.data.pixel_limit import max_pixels
from keras_ft.data.to_png import encode_png, needs_conversion, to_png
from keras_ft.errors import UserError
from keras_ft.host.files import open_regular

NO_IMAGE = f"not a readable {FORMAT_NAMES} image"


class Encoded(NamedTuple):
    """An image as TensorFlow decodes it, or the reason why there is none."""

    content: bytes  # JPEG, PNG, BMP, GIF or WebP
    error: str = ""  # empty if the header could be read; the rest may be damaged
    num_pixels: int = 0
    is_foreign: bool = False  # it is the file as it was, which TensorFlow can't decode


_IMAGE = (str, os.PathLike, bytes, Image.Image)
_MAX_NAME = 200  # characters of a path in a message


def is_one_image(images: Any) -> bool:
    """Whether an object is one image, not several: an array of three dimensions is."""
    is_array = isinstance(images, np.ndarray)  # of numbers, or of paths
    is_pixels = is_array and images.ndim < 4 and images.dtype.kind not in "OSU"
    return is_pixels or isinstance(images, _IMAGE)


def name_image(image: Any, number: int) -> str:
    """The path of an image, which may be no path but what was taken for one."""
    if not isinstance(image, str | os.PathLike):
        return f"number {number}"
    path = os.fspath(image)
    rest = len(path) - _MAX_NAME
    return path if rest <= 0 else f"{path[:_MAX_NAME]}... and {rest} characters more"


def check_images(images: Sequence[Any]) -> None:
    """Raises a UserError unless `read_image` takes each of some objects."""
    for image in images:
        is_pixels = isinstance(image, np.ndarray)
        if is_pixels and (image.dtype, image.shape[2:]) == (np.uint8, (3,)):
            continue
        if isinstance(image, _IMAGE):
            continue
        received = f"{image.dtype} of shape {image.shape}" if is_pixels else image
        raise UserError(
            "Images must be paths, the bytes of files, PIL images or arrays uint8 "
            f"[H, W, 3]. Received: {type(image).__name__} {received!s:.80}"
        )


def read_image(file: Any) -> Encoded:
    """Reads an image: a path, the bytes of a file, a PIL image or its pixels.

    Pixels are uint8 [H, W, 3], RGB.
    """
    try:
        if isinstance(file, np.ndarray):
            file = Image.fromarray(file)
        if isinstance(file, Image.Image):
            file = encode_png(file)
        if isinstance(file, bytes):
            return _encode_image(io.BytesIO(file))
        with open_regular(file) as stream:
            return _encode_image(stream)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        return Encoded(b"", getattr(error, "strerror", "") or str(error))


def inspect_image(content: bytes) -> Encoded:
    """Reads the header of an image file; converts nothing."""
    return _encode_image(io.BytesIO(content), convert=False)


def _encode_image(stream: BinaryIO, convert: bool = True) -> Encoded:
    """Reads an image, or raises OSError; what TensorFlow can't decode becomes PNG."""
    [facts] = np.zeros(1, file_facts.FACTS)
    file_facts.read_header_of(stream, facts)
    problem = Problem(facts["problem"])
    stream.seek(0)
    content = b""
    is_foreign = bool(needs_conversion(facts))
    if is_foreign and convert:
        content, problem = to_png(stream, facts)
        is_foreign = False
    elif not problem:
        content = stream.read()
    if problem is Problem.TOO_LARGE:
        return Encoded(b"", f"more than {max_pixels()} pixels")
    if problem:
        return Encoded(b"", file_facts.ADVICE.get(problem, NO_IMAGE))
    num_pixels = int(facts["width"]) * int(facts["height"])
    return Encoded(content, num_pixels=num_pixels, is_foreign=is_foreign)
