"""Facts about image files: format, size, ..., read from the file header.

Nothing is decoded here, so a file that would fill the memory can't.
"""

import enum
import hashlib
import re
import struct
import threading
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from keras_ft.data.pixel_limit import max_pixels
from keras_ft.host import packages
from keras_ft.host.files import open_regular

# fmt: off
FORMATS = (
    "", "bmp", "gif", "jpeg", "png", "webp", "tiff", "avif", "heic", "jpeg2000", "ppm",
    "tga",
)
# fmt: on
# Of these, TensorFlow can decode no file, see `to_png`.
_FOREIGN = ("tiff", "avif", "heic", "jpeg2000", "ppm", "tga")
FORMAT_NAMES = "JPEG, PNG, BMP, GIF, WebP, TIFF, AVIF, HEIC, JPEG 2000, PPM or TGA"


class Problem(enum.IntEnum):
    """Why a file can't be trained on: `problem` in its facts."""

    NONE = 0
    MISSING_FILE = 1
    EMPTY_FILE = 2
    NOT_AN_IMAGE = 3
    TOO_LARGE = 4
    UNREADABLE = 5
    MISSING_PACKAGE = 6
    UNSUPPORTED_PIXELS = 7


NEEDS_PACKAGE = packages.explain("HEIC", "pillow_heif", "heic")
# What the user can do about a problem of a file that is not damaged.
ADVICE = {
    Problem.MISSING_PACKAGE: NEEDS_PACKAGE,
    Problem.UNSUPPORTED_PIXELS: "its pixels are 32-bit or floating-point numbers, "
    "whose range is not known: scale them to 8 or 16 bits",
}
DETAILS = {
    Problem.MISSING_FILE: "can't be opened as a file",
    Problem.TOO_LARGE: "more pixels than --max_megapixels allows",
    Problem.EMPTY_FILE: "zero bytes",
    Problem.NOT_AN_IMAGE: f"its content is no {FORMAT_NAMES}",
    Problem.UNREADABLE: "can't be decoded: truncated, damaged or of an unsupported "
    "kind",
    **ADVICE,
}

# `orientation` is that of EXIF or XMP; training and serving apply it if it is `turned`.
# A `foreign` file has to be converted, since TensorFlow can't decode it.
# A `deep` file has 16 bits per value. `digest` is the SHA-256 of the file, zeros if it
# is of no image format.
# What follows `decoded` is computed then: perceptual hashes of the image and of its
# mirror image; the `largest` value, without single pixels; its `contrast`, at least the
# range of its values; which percentages of it are `transparent` and `translucent`; what
# libjpeg says of its `damage`, empty if nothing.
FACTS = np.dtype(
    [
        ("header_read", np.bool_),
        ("problem", np.uint8),
        ("format", np.uint8),
        ("width", np.int32),
        ("height", np.int32),
        ("orientation", np.uint8),
        ("turned", np.bool_),
        ("foreign", np.bool_),
        ("deep", np.bool_),
        ("animated", np.bool_),
        ("digest", "V32"),
        ("decoded", np.bool_),
        ("hash", "V32"),
        ("mirrored", "V32"),
        ("largest", np.uint8),
        ("contrast", np.uint8),
        ("transparent", np.uint8),
        ("translucent", np.uint8),
        ("damage", "S80"),
    ]
)
# Facts that decoding adds or changes.
# fmt: off
PIXEL_FACTS = (
    "problem", "decoded", "hash", "mirrored", "largest", "contrast", "transparent",
    "translucent", "damage",
)
# fmt: on
# Increment it when the same facts get another meaning: it is part of the cache's name.
FACTS_VERSION = 6
_START_BYTES = 4096
# Images with less contrast are of one colour, or nearly.
MIN_CONTRAST = 9
_SIGNATURES = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"BM": "bmp", b"GIF8": "gif"}
_SIGNATURES |= dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tiff")
_SIGNATURES |= dict.fromkeys((b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51"), "jpeg2000")
_BMP_MASKS = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)  # of blue, green, red, unused
# While an import fails in one thread, others get an incomplete module.
_IMPORT = threading.Lock()


def detect_format(header: bytes) -> str | None:
    """Returns the format of a file, `jpeg`, `png`, ..., by its first bytes."""
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "webp"
    if header[4:8] == b"ftyp":
        return _detect_heif(header)
    if re.match(rb"P[1-6]\s", header):
        return "ppm"
    known = next((f for s, f in _SIGNATURES.items() if header.startswith(s)), None)
    return known or ("tga" if _is_tga(header) else None)


def _is_tga(header: bytes) -> bool:
    """Whether all fields of a header are those of a TGA, which has no signature."""
    if len(header) < 18:
        return False
    _, has_palette, kind, start, size, entry, _, _, width, height, depth, flags = (
        struct.unpack("<3B2HB4H2B", header[:18])
    )
    if not width or not height or flags & 0xC0:
        return False
    if has_palette == 1:
        return kind in (1, 9) and size > 0 and entry in (16, 24, 32) and depth == 8
    is_colour = kind in (2, 10) and depth in (16, 24, 32)
    is_grey = kind in (3, 11) and depth == 8
    return not (has_palette or start or size or entry) and (is_colour or is_grey)


def _detect_heif(header: bytes) -> str | None:
    """Returns the coding of a HEIF file by its brands (ISO/IEC 23008-12, annex B)."""
    size = int.from_bytes(header[:4], "big")
    brands = {header[i : i + 4] for i in range(8, min(size, len(header)), 4)}
    if brands & {b"avif", b"avis"}:
        return "avif"
    return "heic" if brands & {b"heic", b"heix", b"hevc", b"mif1", b"msf1"} else None


def open_image(stream: BinaryIO, name: str) -> Image.Image:
    """Opens an image of a format in `FORMATS` with Pillow, which reads its header only.

    Raises:
        ImportError: The package that reads HEIC is not installed.
        Exception: Any other, if the header is broken.
    """
    if name == "heic":
        with _IMPORT:
            import pillow_heif

            pillow_heif.register_heif_opener()
        name = "heif"
    return Image.open(stream, formats=[name])


def read_header(file: str, facts: np.void) -> None:
    """Fills in the facts that the header of a file contains, and the hash of it all."""
    try:
        with open_regular(file) as stream:
            read_header_of(stream, facts)
            if facts["format"]:
                stream.seek(0)
                facts["digest"] = hashlib.file_digest(stream, "sha256").digest()
    except (OSError, ValueError):  # a name with a null byte is a ValueError
        facts["problem"] = Problem.MISSING_FILE
        facts["header_read"] = True


def read_header_of(stream: BinaryIO, facts: np.void) -> None:
    """The same of an open file, without a hash; an OSError if it can't be read."""
    facts["problem"] = _check(stream, facts)
    facts["header_read"] = True


def find_exact_duplicates(facts: np.ndarray) -> np.ndarray:
    """For each of N readable files, the first one with the same bytes: int64 [N]."""
    _, first, which = np.unique(facts["digest"], return_index=True, return_inverse=True)
    return first[which]


def list_hashes(facts: np.ndarray) -> list[str]:
    """The SHA-256 of each file in hexadecimal digits, empty if it is unknown."""
    digests = (facts["digest"][i].tobytes() for i in range(len(facts)))
    return [digest.hex() if any(digest) else "" for digest in digests]


def _check(stream: BinaryIO, facts: np.void) -> Problem:
    start = stream.read(_START_BYTES)
    if not start:
        return Problem.EMPTY_FILE
    name = detect_format(start)
    if name is None:
        return Problem.NOT_AN_IMAGE
    facts["format"] = FORMATS.index(name)
    return _parse_header(stream, name, facts)


def _parse_header(stream: BinaryIO, name: str, facts: np.void) -> Problem:
    stream.seek(0)
    start = stream.read(66)
    stream.seek(0)
    try:
        with open_image(stream, name) as image:
            facts["width"], facts["height"] = image.size
            if image.width * image.height > max_pixels():
                return Problem.TOO_LARGE
            # Phones append a second picture to a JPEG: that is no animation.
            facts["animated"] = name != "jpeg" and getattr(image, "is_animated", False)
            facts["foreign"] = name in _FOREIGN or _is_foreign(start, name, facts)
            if name in ("jpeg", "png", "tiff", "webp"):
                _read_orientation(image, facts)
            # Pillow scales the values of a PPM to 16 bits, and those of a JPEG 2000.
            facts["deep"] = image.mode in ("I", "I;16")
            if name == "png":
                facts["deep"] = start[24] == 16
            if isinstance(image, TiffImageFile):
                facts["deep"] = max(image.tag_v2.get(BITSPERSAMPLE, [1])) == 16
                if image.mode in ("I", "F"):
                    return Problem.UNSUPPORTED_PIXELS
    except Image.DecompressionBombError:
        return Problem.TOO_LARGE
    except ImportError:
        return Problem.MISSING_PACKAGE
    except Exception:  # a broken header can make Pillow raise any exception
        return Problem.UNREADABLE
    return Problem.NONE


def _is_foreign(start: bytes, name: str, facts: np.void) -> bool:
    """Whether TensorFlow can't decode a file of a format that it knows."""
    if name == "webp":  # an animation without an alpha channel
        return bool(facts["animated"]) and not start[20] & 0x10
    if name != "bmp":
        return False
    [size] = struct.unpack("<I", start[14:18])
    if size < 40:  # of OS/2
        return True
    bits, compression = struct.unpack("<HI", start[28:34])
    if (bits, compression) == (32, 3):
        return start[54:66] != _BMP_MASKS
    return bits not in (8, 24, 32) or compression != 0


def _read_orientation(image: Image.Image, facts: np.void) -> None:
    """Fills in the orientation, 1 (upright) to 8, and whether it is applied."""
    try:
        # Not the method of a PNG, which would decode the pixels.
        everywhere = Image.Image.getexif(image)
        in_exif = Image.Exif()
        in_exif.load(image.info.get("exif", b""))
    except Exception:  # broken EXIF: the pixels may be fine
        everywhere = in_exif = Image.Exif()
    value = everywhere.get(ExifTags.Base.Orientation, 1)
    facts["orientation"] = value if value in range(1, 9) else 1
    # What is converted is turned by Pillow, which also looks into XMP.
    facts["turned"] = facts["foreign"] or ExifTags.Base.Orientation in in_exif
