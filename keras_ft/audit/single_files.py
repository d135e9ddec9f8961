"""Findings about single files: unreadable, misnamed, small, animated or rotated."""

import os
from collections.abc import Iterator

import numpy as np

from keras_ft.data.examples import Examples, Finding
from keras_ft.data.file_facts import (
    ADVICE,
    CONVERTED_FORMATS,
    FORMAT_NAMES,
    FORMATS,
    MAX_PIXELS,
    Problem,
)

# Images with a shorter side are reported.
_MIN_SIDE = 8

# The format that an extension promises; .heif may be HEIC or AVIF.
_FORMAT_OF = {f".{name}": name for name in FORMATS if name}
_FORMAT_OF |= {".hif": "heic", ".tif": "tiff"}
_FORMAT_OF |= dict.fromkeys((".jfif", ".jpe", ".jpg"), "jpeg")
_DETAILS = {
    Problem.MISSING_FILE: "can't be opened",
    Problem.TOO_LARGE: f"more than {2 * MAX_PIXELS} pixels",
    Problem.EMPTY_FILE: "zero bytes",
    Problem.NOT_AN_IMAGE: f"its content is no {FORMAT_NAMES}",
    Problem.UNREADABLE: "can't be decoded: truncated, damaged or of an unsupported "
    "kind",
    **ADVICE,
}
# Which image of a file with several is used; of other formats the first frame.
_USED = {"tiff": "the first page", "heic": "the main image"}


def report_files(examples: Examples, facts: np.ndarray) -> Iterator[Finding]:
    """Reports the files that have a problem or a peculiarity, by their facts."""
    extensions = (os.path.splitext(path)[1].lower() for path in examples.paths)
    expected = np.array([_FORMAT_OF.get(extension, "") for extension in extensions])
    formats = np.array(FORMATS)[facts["format"]]
    is_misnamed = (expected != "") & (formats != "") & (expected != formats)
    is_small = np.minimum(facts["width"], facts["height"]) < _MIN_SIDE
    is_peculiar = facts["animated"] | (facts["orientation"] > 1)
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
        yield problem.name.lower(), size if has_size else _DETAILS[problem]
    elif min(facts["width"], facts["height"]) < _MIN_SIDE:
        yield "too_small", size
    if is_misnamed:
        yield "wrong_extension", f"its content is {name.upper()}"
    if facts["animated"] and not problem:
        used = _USED.get(name, "the first frame")
        yield "animated", f"{name.upper()}: {used} is used"
    elif facts["animated"] and name not in CONVERTED_FORMATS:
        reason = "TensorFlow can't read animations of this kind"
        yield "animated", f"{name.upper()}: {reason}"
    if facts["orientation"] > 1:
        detail = f"EXIF orientation {facts['orientation']}: is turned upright"
        yield "exif_orientation", detail
