"""Converts images that TensorFlow can't decode to PNG: TIFF, HEIC and others.

The PNG keeps transparency and 16-bit grey, so that one function, `decode_image`, says
how they are seen in all formats.
"""

import dataclasses
import functools
import io
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from keras_ft.data.examples import Examples
from keras_ft.data.facts_cache import load_facts, load_header_facts
from keras_ft.data.file_facts import (
    FORMATS,
    PIXEL_FACTS,
    Problem,
    open_image,
    read_header,
)
from keras_ft.errors import UserError
from keras_ft.host.files import open_regular, partial_folder, replacing

# Modes of Pillow that a PNG can store, and the one to convert others to.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")
_CLOSEST_MODE = {"La": "LA", "PA": "RGBA"}


def convert_images(
    examples: Examples, facts: np.ndarray, cache_dir: Path
) -> tuple[Examples, np.ndarray]:
    """Replaces files that TensorFlow can't decode by PNG files in the cache.

    A file is converted once: its PNG is named by a hash of its content.

    Returns:
        The examples, whose files can all be decoded unless they have a problem, and
        their facts: of a converted image those of its PNG that only pixels contain.

    Raises:
        UserError: The cache can't be written.
    """
    which = np.flatnonzero(needs_conversion(facts))
    if not len(which):
        return examples, facts
    folder = cache_dir / "converted"
    files, facts = examples.files.copy(), facts.copy()
    facts[which] = load_facts(
        files[which],
        cache_dir,
        functools.partial(_convert, folder),
        functools.partial(_is_converted, folder),
        "Converting images",
    )
    which = which[facts["problem"][which] == 0]
    files[which] = [str(_find_png(folder, facts[i])) for i in which]
    of_png = load_header_facts(files[which], cache_dir)
    for name in PIXEL_FACTS:
        facts[name][which] = of_png[name]
    return dataclasses.replace(examples, files=files), facts


def needs_conversion(facts: np.ndarray | np.void) -> np.ndarray:
    """Returns whether files have no problem, and must be converted: bool [N]."""
    return (facts["problem"] == 0) & facts["foreign"]


def to_png(stream: BinaryIO, facts: np.void) -> tuple[bytes, Problem]:
    """Converts a file to the content of an upright PNG, none if it has a problem."""
    try:
        with open_image(stream, FORMATS[facts["format"]]) as image:
            return encode_png(image), Problem.NONE
    except MemoryError:  # says nothing about the image
        raise
    except ImportError:
        return b"", Problem.MISSING_PACKAGE
    except Exception:  # a broken file can make Pillow raise any exception
        return b"", Problem.UNREADABLE


def encode_png(image: Image.Image) -> bytes:
    """Encodes an image as an upright PNG."""
    png = io.BytesIO()
    # Of photographs, run lengths make files of the same size in a fifth of the time.
    # Colour profiles are left out: those of no format are applied.
    _prepare(image).save(png, "PNG", compress_type=zlib.Z_RLE, icc_profile=None)
    return png.getvalue()


def _prepare(image: Image.Image) -> Image.Image:
    """Makes an image upright, in a mode that a PNG can store."""
    if isinstance(image, TiffImageFile) and image.mode in ("I;16", "I;16B"):
        image = _scale_grey(image)
    elif isinstance(image, PpmImageFile) and image.mode == "I":  # 16 bits
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    elif isinstance(image, BmpImageFile):
        return image.convert("RGB")  # without alpha, as TensorFlow decodes it
    image = ImageOps.exif_transpose(image)
    if image.mode in _PNG_MODES:
        return image
    return image.convert(_CLOSEST_MODE.get(image.mode, "RGB"))


def _scale_grey(image: TiffImageFile) -> Image.Image:
    """Makes 0 black and 65535 white, which Pillow does for 8 bits only."""
    is_inverted = image.tag_v2.get(PHOTOMETRIC_INTERPRETATION) == 0
    shift = 16 - image.tag_v2[BITSPERSAMPLE][0]
    pixels = np.asarray(image) << shift  # after it is loaded, the image is upright
    return Image.fromarray(65535 - pixels if is_inverted else pixels)


def _convert(folder: Path, file: str, facts: np.void) -> None:
    """Writes the PNG of a file to a folder; fills in the header and the problem."""
    if not facts["header_read"]:
        read_header(file, facts)
    if not needs_conversion(facts):
        return
    png = _find_png(folder, facts)
    if os.access(png, os.R_OK):
        return
    try:
        with open_regular(file) as stream:
            content, problem = to_png(stream, facts)
    except OSError:
        facts["problem"] = Problem.MISSING_FILE
        return
    facts["problem"] = problem
    if not problem:
        _write(png, content)


def _is_converted(folder: Path, facts: np.void) -> bool:
    return bool(facts["problem"]) or os.access(_find_png(folder, facts), os.R_OK)


def _find_png(folder: Path, facts: np.void) -> Path:
    return folder / f"{facts['digest'].tobytes().hex()}.png"


def _write(png: Path, content: bytes) -> None:
    """Writes a PNG; other threads and programs may do the same at the same time."""
    try:
        png.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(png.parent) as folder:
            complete = folder / png.name
            with replacing(complete) as partial:
                partial.write_bytes(content)
            os.replace(complete, png)
    except OSError as error:
        raise UserError(
            "TIFF, HEIC and other images are converted to PNG files in --cache_dir, "
            f"which must be a folder that can be written. Received: {error}"
        ) from error
