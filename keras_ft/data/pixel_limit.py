"""How many pixels an image may have: Pillow's limit against decompression bombs."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from PIL import Image

_Rest = ParamSpec("_Rest")
_Result = TypeVar("_Result")


def max_pixels() -> float:
    """The number of pixels from which on an image is not read."""
    return Image.MAX_IMAGE_PIXELS or math.inf


def set_limit(megapixels: int | None) -> None:
    """Sets the limit of this process to `--max_megapixels`; None changes nothing."""
    if megapixels:
        Image.MAX_IMAGE_PIXELS = megapixels * 10**6


@contextlib.contextmanager
def pixel_limit(megapixels: int | None) -> Iterator[None]:
    """In this block, the limit is `--max_megapixels`."""
    before = Image.MAX_IMAGE_PIXELS
    set_limit(megapixels)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def with_pixel_limit(
    job: Callable[Concatenate[Any, _Rest], _Result],
) -> Callable[Concatenate[Any, _Rest], _Result]:
    """Lets a function of a Config read images of up to its `max_megapixels`."""

    @functools.wraps(job)
    def limited(config: Any, *args: _Rest.args, **kwargs: _Rest.kwargs) -> _Result:
        with pixel_limit(config.data.max_megapixels):
            return job(config, *args, **kwargs)

    return limited
