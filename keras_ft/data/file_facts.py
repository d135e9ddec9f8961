"""Facts about image files: format, size, ..., read from the file header.

Nothing is decoded here, so a file that would fill the memory can't.
"""

import hashlib
import os
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from keras_ft.data.examples import Strings

FORMATS = ("", "bmp", "gif", "jpeg", "png", "webp")
# Why a file can't be trained on; `problem` in its facts is the index.
PROBLEMS = (
    "",
    "missing_file",
    "empty_file",
    "not_an_image",
    "too_large",
    "unreadable",
)
# Pillow's default limit against decompression bombs, 89 million pixels.
MAX_PIXELS = 1024**3 // 4 // 3

# `fingerprint` is a hash of the file's size, first and last bytes. `hash` and
# `mirrored` are perceptual hashes of the image and of its mirror image, computed when
# the file is `decoded`.
FACTS = np.dtype(
    [
        ("header_read", np.bool_),
        ("problem", np.uint8),
        ("format", np.uint8),
        ("width", np.int32),
        ("height", np.int32),
        ("orientation", np.uint8),
        ("animated", np.bool_),
        ("fingerprint", "V16"),
        ("decoded", np.bool_),
        ("hash", "V32"),
        ("mirrored", "V32"),
    ]
)
# Increment it when the same facts get another meaning: it is part of the cache's name.
FACTS_VERSION = 1
_END_BYTES = 4096


def detect_format(header: bytes) -> str | None:
    """Returns the format of a file, `jpeg`, `png`, ..., by its first 12 bytes."""
    signatures = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"BM": "bmp"}
    signatures |= {b"GIF8": "gif"}
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "webp"
    return next((f for s, f in signatures.items() if header.startswith(s)), None)


def read_header(file: str, facts: np.void) -> None:
    """Fills in the facts that the header of a file contains."""
    facts["problem"] = PROBLEMS.index(_check_file(file, facts))
    facts["header_read"] = True


def find_exact_duplicates(files: Strings, facts: np.ndarray) -> np.ndarray:
    """Finds files with the same bytes.

    Reads a whole file only if another one has the same size, first and last bytes.

    Args:
        files: N files.
        facts: `FACTS` [N] of readable files.

    Returns:
        int64 [N], for each file the index of the first file with the same bytes.
    """
    _, bucket, counts = np.unique(
        facts["fingerprint"], return_inverse=True, return_counts=True
    )
    duplicates = np.arange(len(files))
    first: dict[bytes, int] = {}
    for i in np.flatnonzero(counts[bucket] > 1).tolist():
        with open(files[i], "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        duplicates[i] = first.setdefault(digest, i)
    return duplicates


def _check_file(file: str, facts: np.void) -> str:
    """Fills in facts; returns the problem of the file, or an empty string."""
    try:
        with open(file, "rb") as stream:
            start = stream.read(_END_BYTES)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _END_BYTES))
            ends = start + stream.read(_END_BYTES) + str(size).encode()
            facts["fingerprint"] = hashlib.blake2b(ends, digest_size=16).digest()
            if not start:
                return "empty_file"
            name = detect_format(start)
            if name is None:
                return "not_an_image"
            facts["format"] = FORMATS.index(name)
            stream.seek(0)
            return _parse_header(stream, facts)
    except (OSError, ValueError):  # a name with a null byte is a ValueError
        return "missing_file"


def _parse_header(stream: BinaryIO, facts: np.void) -> str:
    """Fills in facts; returns the problem of the image, or an empty string."""
    try:
        with Image.open(stream, formats=("BMP", "GIF", "JPEG", "PNG", "WEBP")) as image:
            facts["width"], facts["height"] = image.size
            if image.width * image.height > MAX_PIXELS:
                return "too_large"
            # Phones append a second picture to a JPEG: that is no animation.
            facts["animated"] = image.format in ("GIF", "PNG", "WEBP") and getattr(
                image, "is_animated", False
            )
            if image.format in ("JPEG", "MPO"):
                facts["orientation"] = _read_orientation(image)
    except Image.DecompressionBombError:
        return "too_large"
    except Exception:  # a broken header can make Pillow raise any exception
        return "unreadable"
    return ""


def _read_orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 (upright) to 8."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF: the pixels may be fine
        return 1
    return value if value in range(1, 9) else 1
