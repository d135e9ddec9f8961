"""Sets of images that are unpacked once, to files below `--cache_dir`."""

import contextlib
import csv
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from keras_ft.data.examples import Row
from keras_ft.errors import UserError
from keras_ft.system import files

log = logging.getLogger("keras_ft")

_INDEX = "index.csv"


def unpack_rows(
    prefix: str,
    folder: Path,
    load_images: Callable[[], Iterable[tuple[bytes, str]]],
    split: str = "",
) -> list[Row]:
    """Lists the examples of an unpacked set; unpacks it first if a file is missing.

    Args:
        prefix: The paths of the examples are `prefix/0`, `prefix/1`, ...
        folder: The folder to unpack to.
        load_images: Returns the encoded images and their class names.
        split: The split of the examples. Defaults to none.

    Raises:
        UserError: The folder can't be written.
    """
    if not _is_complete(folder):
        _unpack(prefix, folder, load_images())
    return [
        Row(f"{prefix}/{name}", str(folder / name), class_name, split)
        for name, class_name in _read_index(folder)
    ]


def _read_index(folder: Path) -> list[list[str]]:
    with open(folder / _INDEX, newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def _is_complete(folder: Path) -> bool:
    # Programs that clean cache folders remove single old files.
    return (folder / _INDEX).exists() and all(
        (folder / name).exists() for name, _ in _read_index(folder)
    )


def _unpack(title: str, folder: Path, examples: Iterable[tuple[bytes, str]]) -> None:
    """Writes `folder`: the images as files 0, 1, ... and an index of their labels."""
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = stack.enter_context(files.partial_folder(folder.parent))
        except OSError as error:
            raise UserError(
                f"--cache_dir must be a folder that can be written. Received: {error}"
            ) from error
        index = []
        for i, (image, label) in enumerate(examples):
            (partial / str(i)).write_bytes(image)
            index.append((str(i), label))
        with open(partial / _INDEX, "w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(index)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    log.info("Unpacked the %d images of %s to %s.", len(index), title, folder)
