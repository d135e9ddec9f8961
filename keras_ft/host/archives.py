"""ZIP archives of anyone: models, checkpoints, parts of a prediction."""

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_ENTRIES = 10_000
# This program and Keras store what they write uncompressed. A user may have compressed
# it, but no network to a small part of its size.
_MAX_RATIO, _MAX_SMALL = 20, 64_000_000
_MAX_DOCUMENT = 64_000_000  # of which this program parses the whole


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens an archive to read, unless it would unpack to much more than it is.

    Raises:
        OSError: It can't be read.
        zipfile.BadZipFile: It is damaged, which may show in the block, or a bomb.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive, os.path.getsize(path))
            yield archive
    # What zipfile raises for entries that are encrypted, cut, or packed in other ways.
    except (RuntimeError, NotImplementedError, EOFError, zlib.error) as error:
        raise zipfile.BadZipFile(str(error)) from error


def check_archive(path: Path) -> None:
    """Raises as `open_archive`, before other code reads the archive."""
    with open_archive(path):
        pass


def read_document(archive: zipfile.ZipFile, name: str) -> bytes:
    """Reads a document of an archive; KeyError if it has none of this name."""
    if (size := archive.getinfo(name).file_size) > _MAX_DOCUMENT:
        raise zipfile.BadZipFile(f"{name} in it has {size:,} bytes")
    return archive.read(name)


def _check(archive: zipfile.ZipFile, num_bytes: int) -> None:
    entries = archive.infolist()
    if len(entries) > _MAX_ENTRIES:
        raise zipfile.BadZipFile(f"it is an archive of {len(entries):,} files")
    # zipfile reads no more of an entry than it declares.
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _MAX_RATIO * num_bytes + _MAX_SMALL:
        raise zipfile.BadZipFile(
            f"it has {num_bytes:,} bytes, and {unpacked:,} when it is unpacked"
        )
