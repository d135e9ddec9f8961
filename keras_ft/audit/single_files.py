"""Findings about single files: unreadable, misnamed, rotated, dark, transparent, ..."""

import os
from collections.abc import Iterator

import numpy as np

from keras_ft.data.examples import Examples, Finding
from keras_ft.data.file_facts import (
    DETAILS,
    FORMATS,
    MIN_CONTRAST,
    Problem,
)

# Images with a shorter side are reported.
_MIN_SIDE = 8
# An image is dark if its brightest parts are below. A file of 16 bits is likely to have
# numbers of fewer bits, so more is reported.
_MIN_LARGEST, _MIN_LARGEST_OF_DEEP = 32, 64
_MIN_CONTRAST_OF_DEEP = 32
# Percentages of an image. A fourth band that is no alpha makes most pixels translucent.
_MAX_TRANSPARENT, _MAX_TRANSPARENT_GIF, _MAX_TRANSLUCENT = 50, 10, 25
# Findings about pictures that the network sees otherwise than the user.
SEEN_OTHERWISE = ("dark", "blank", "transparent", "not_turned")

# The format that an extension promises; .heif may be HEIC or AVIF.
_FORMAT_OF = {f".{name}": name for name in FORMATS if name}
_FORMAT_OF |= {".hif": "heic", ".tif": "tiff"}
_FORMAT_OF |= dict.fromkeys((".jp2", ".j2k"), "jpeg2000")
_FORMAT_OF |= dict.fromkeys((".pbm", ".pgm", ".pnm"), "ppm")
_FORMAT_OF |= dict.fromkeys((".jfif", ".jpe", ".jpg"), "jpeg")
# Which image of a file with several is used; of other formats the first frame.
_USED = {"tiff": "the first page", "heic": "the main image"}


def report_files(examples: Examples, facts: np.ndarray) -> Iterator[Finding]:
    """Reports the files that have a problem or a peculiarity, by their facts."""
    extensions = (os.path.splitext(path)[1].lower() for path in examples.paths)
    expected = np.array([_FORMAT_OF.get(extension, "") for extension in extensions])
    formats = np.array(FORMATS)[facts["format"]]
    is_misnamed = (expected != "") & (formats != "") & (expected != formats)
    is_small = np.minimum(facts["width"], facts["height"]) < _MIN_SIDE
    is_peculiar = facts["animated"] | (facts["orientation"] > 1) | facts["decoded"]
    reported = (facts["problem"] > 0) | is_misnamed | is_small | is_peculiar
    for i in np.flatnonzero(reported):
        for name, detail in _describe(facts[i], bool(is_misnamed[i])):
            yield Finding(examples.paths[i], name, detail)


def _describe(facts: np.void, is_misnamed: bool) -> Iterator[tuple[str, str]]:
    """Yields name and detail of the findings about one file."""
    size = f"{facts['width']} x {facts['height']} pixels"
    problem = Problem(facts["problem"])
    name = FORMATS[facts["format"]]
    if problem:
        has_size = problem is Problem.TOO_LARGE and facts["width"]
        yield problem.name.lower(), size if has_size else DETAILS[problem]
    elif min(facts["width"], facts["height"]) < _MIN_SIDE:
        yield "too_small", size
    if is_misnamed:
        yield "wrong_extension", f"its content is {name.upper()}"
    if facts["animated"] and not problem:
        used = _USED.get(name, "the first frame")
        yield "animated", f"{name.upper()}: {used} is used"
    if facts["orientation"] > 1 and facts["turned"]:
        detail = f"EXIF orientation {facts['orientation']}: is turned upright"
        yield "exif_orientation", detail
    elif facts["orientation"] > 1:
        yield (
            "not_turned",
            f"orientation {facts['orientation']}, but not in EXIF (in XMP, for "
            "instance): is not turned; write it as EXIF, or turn the pixels",
        )
    if facts["decoded"] and not problem:
        if damage := facts["damage"].decode(errors="replace"):
            yield "damaged", f"{damage}; is used as far as it can be decoded"
        yield from _describe_pixels(facts, name)


def _describe_pixels(facts: np.void, format_name: str) -> Iterator[tuple[str, str]]:
    """Yields findings about an image in which the network sees little or nothing."""
    deep, largest, contrast = (facts[n] for n in ("deep", "largest", "contrast"))
    largest, contrast = int(largest), int(contrast)
    advice = ""
    if deep:
        advice = (
            f"; of its 16 bits the upper 8 are used, so 65535 is white: its values are "
            f"below {256 * (largest + 1)}. Scale them to the whole range"
        )
    is_dark = largest < (_MIN_LARGEST_OF_DEEP if deep else _MIN_LARGEST)
    if is_dark and (deep or contrast):
        yield "dark", f"nearly black: at most {largest} of 255{advice}"
    elif contrast < (_MIN_CONTRAST_OF_DEEP if deep else MIN_CONTRAST):
        yield "blank", f"one colour, or nearly: differs by {contrast} of 255{advice}"
    transparent, translucent = int(facts["transparent"]), int(facts["translucent"])
    if format_name == "gif":
        if transparent > _MAX_TRANSPARENT_GIF:
            yield "transparent", f"{transparent} %, which is black in a GIF"
    elif translucent > _MAX_TRANSLUCENT:
        yield (
            "transparent",
            f"{translucent} % of it in part, composited on white; if its last band is "
            "no transparency (near infrared, for instance), remove the band",
        )
    elif transparent > _MAX_TRANSPARENT:
        yield "transparent", f"{transparent} % of it, which is white to the network"
