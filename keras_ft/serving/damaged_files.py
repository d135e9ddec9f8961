"""Names the damaged JPEG files among those that are classified."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keras_ft.data.layout import list_some
from keras_ft.host import jpeg_lines
from keras_ft.images.damage import find_damaged
from keras_ft.serving.encoded import name_image, read_image

log = logging.getLogger("keras_ft")

# Files that are decoded again, to find the damaged ones among them, or a few more.
_MAX_SUSPECTS = 256

# Number and file, see `read_image`.
_Numbered = tuple[int, Any]


@contextlib.contextmanager
def naming_damaged() -> Iterator[Callable[[Iterable[_Numbered]], None]]:
    """Keeps the lines of libjpeg off standard error, and warns at the end of the block.

    Yields:
        A function to call now and then with all files that may have been decoded, as a
        whole or in part, since its last call.
    """
    suspects: dict[int, Any] = {}

    def note_decoded(files: Iterable[_Numbered]) -> None:
        if len(suspects) < _MAX_SUSPECTS and jpeg_lines.take():
            suspects.update(files)

    with jpeg_lines.caught():
        jpeg_lines.take()  # those of other images
        yield note_decoded
    if suspects:
        _warn_of_damaged(list(suspects.items()))


def _warn_of_damaged(suspects: list[_Numbered]) -> None:
    found = find_damaged(suspects, lambda numbered: read_image(numbered[1]).content)
    damaged = [
        f"{name_image(file, number)} ({line})"
        for (number, file), line in ((suspects[i], line) for i, line in found)
    ]
    if damaged:
        log.warning(
            "Damaged JPEG files are used as far as they can be decoded: %s%s",
            list_some(damaged),
            "; there may be more." if len(suspects) >= _MAX_SUSPECTS else ".",
        )
