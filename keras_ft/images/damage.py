"""Finds the files about which libjpeg prints a line, which does not name them."""

import concurrent.futures
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tensorflow as tf

from keras_ft.host import jpeg_lines

_File = TypeVar("_File")

_PARTS = 8


def find_damaged(
    files: Sequence[_File], read: Callable[[_File], bytes]
) -> Iterator[tuple[int, str]]:
    """Decodes JPEG files again: many at once, then each part that has damaged ones.

    No other thread may decode meanwhile.

    Args:
        files: Of any format.
        read: Returns the content of a file; an OSError is passed over.

    Yields:
        The index of each file that is decoded nevertheless, and the line.
    """

    def decode(index: int) -> bool:
        try:
            content = read(files[index])
            if content.startswith(b"\xff\xd8"):
                tf.io.decode_jpeg(content)
        except (OSError, tf.errors.OpError):
            return False
        return True

    def search(indices: range) -> Iterator[tuple[int, str]]:
        size = max(1, -(-len(indices) // _PARTS))
        for start in range(0, len(indices), size):
            part = indices[start : start + size]
            are_decoded = list(pool.map(decode, part))
            lines = jpeg_lines.take()
            if lines and len(part) > 1:
                yield from search(part)
            elif lines and all(are_decoded):
                yield part[0], lines[0]

    with (
        jpeg_lines.caught(),
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        jpeg_lines.take()  # those of other images
        yield from search(range(len(files)))
