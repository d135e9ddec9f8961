"""Lists the images to predict while they are predicted, however many there are."""

import io
import itertools
import logging
import os
import sys
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from keras_ft.config.schema import DataConfig
from keras_ft.data import sources
from keras_ft.data.examples import SET_PREFIXES, Finding
from keras_ft.data.file_facts import FORMAT_NAMES
from keras_ft.data.folders import walk_images
from keras_ft.data.layout import count_ignored
from keras_ft.data.tables import UTF16_MARKS, is_table, read_table
from keras_ft.errors import UserError

log = logging.getLogger("keras_ft")

STANDARD_INPUT = "-"


class ImageStream(NamedTuple):
    """Images that are listed as they are taken.

    Attributes:
        images: Path, as written in predictions, and file of each.
        total: How many there are; None if only the end of the stream will show it.
    """

    images: Iterator[tuple[str, str]]
    total: int | None


def open_images(config: DataConfig) -> ImageStream:
    """Opens the images that `--data` names: a set, table, list, folder or file.

    Labels are optional, except in sets.

    Raises:
        UserError: There are none, or they can't be read.
    """
    data = config.data
    if data.startswith(SET_PREFIXES):
        examples, _ = sources.load_examples(config)
        pairs = zip(examples.paths, examples.files, strict=True)
        return ImageStream(pairs, len(examples))
    if data.startswith("@"):
        return _open_list(data.removeprefix("@"))
    if is_table(data):
        total = sum(1 for _ in read_table(data))
        return ImageStream(sources.read_table_images(config), total)
    left_out: list[Finding] = []
    total = sum(1 for _ in walk_images(data, left_out.append))
    counts = count_ignored(left_out)
    if not total:
        raise UserError(
            f"--data must contain image files, {FORMAT_NAMES}. "
            f"Received: none in {data}{counts and f'; {counts}'}"
        )
    if counts:
        log.warning("Not all is read: %s. Images are %s.", counts, FORMAT_NAMES)
    return ImageStream(((path, path) for path in walk_images(data)), total)


def _open_list(name: str) -> ImageStream:
    paths = _read_list(name)
    first = next(paths, None)
    if first is None:
        raise UserError(
            "--data=@FILE must be a list of images, one path per line. "
            f"Received: {name} without any"
        )
    # A pipe can be read only once.
    is_file = name != STANDARD_INPUT and os.path.isfile(name)
    total = sum(1 for _ in _read_list(name)) if is_file else None
    return ImageStream(((p, p) for p in itertools.chain([first], paths)), total)


def _read_list(name: str) -> Iterator[str]:
    is_stdin = name == STANDARD_INPUT
    try:
        # Bytes, since file names need not be valid UTF-8.
        source = sys.stdin.fileno() if is_stdin else name
        with open(source, "rb", closefd=not is_stdin) as file:
            lines: Iterable[bytes] = file
            if file.peek(2)[:2] in UTF16_MARKS:
                lines = map(os.fsencode, io.TextIOWrapper(file, "utf-16"))
            for number, line in enumerate(lines):
                # Some editors write a byte order mark, `find -print0` no line feeds.
                line = line.removeprefix(BOM_UTF8) if number == 0 else line
                paths = line.rstrip(b"\r\n").split(b"\0")
                yield from map(os.fsdecode, filter(None, paths))
    except (OSError, UnicodeError) as error:
        raise UserError(f"--data=@FILE can't be read: {error}") from error
