"""How images become the input of a network; it needs no TensorFlow."""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

_PATTERN = re.compile(r"([1-9][0-9]*)(?:x([1-9][0-9]*))?")
RESIZE_MODES = ("stretch", "crop", "pad")  # see `Preprocessing`


class ImageSize(NamedTuple):
    """In pixels; as text `HEIGHTxWIDTH`, or one number if both are the same."""

    height: int
    width: int

    def __str__(self) -> str:
        is_square = self.height == self.width
        return str(self.height) if is_square else f"{self.height}x{self.width}"


def parse_image_size(value: str | int | Sequence[int]) -> ImageSize:
    """Reads a size: `96x128`, (96, 128), or 96 for both sides, as text or number.

    Raises a ValueError if it is none of these, or a side is less than 1.
    """
    sides = value if isinstance(value, list | tuple) else [value]
    match = _PATTERN.fullmatch("x".join(map(str, sides)))
    if match is None:
        raise ValueError(f"HEIGHTxWIDTH or one number of pixels. Received: {value}")
    height, width = match.groups(default=match[1])
    return ImageSize(int(height), int(width))


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images get the size in pixels that a network takes.

    Mode `stretch` does not keep the aspect ratio. `crop` keeps it: the shorter side
    fits, and of the other one the centre is used. `pad` keeps it, too: the longer side
    fits, and the image is in the centre of grey.
    """

    height: int
    width: int
    mode: str = "stretch"

    @property
    def size(self) -> ImageSize:
        return ImageSize(self.height, self.width)
