"""What an image file is, told by its head alone and remembered: format, size, ...

Nothing is decoded here, so that a file which would fill the memory can't.
"""

import concurrent.futures
import contextlib
import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tqdm
from PIL import ExifTags, Image

log = logging.getLogger("keras_ft")

FORMATS = ("", "bmp", "gif", "jpeg", "png", "webp")
# Why a file can't be trained on, by the number in its facts.
PROBLEMS = (
    "",
    "missing_file",
    "empty_file",
    "not_an_image",
    "too_large",
    "unreadable",
)
# Pillow's limit against decompression bombs, 89 million pixels.
MAX_PIXELS = Image.MAX_IMAGE_PIXELS

# What is known of a file. `fingerprint` is a hash of its size, first and last bytes.
# Where its pixels were `decoded`, `hash` and `mirrored` are perceptual hashes of the
# image and of its mirror image.
FACTS = np.dtype(
    [
        ("scanned", np.bool_),
        ("problem", np.uint8),
        ("format", np.uint8),
        ("width", np.int32),
        ("height", np.int32),
        ("orientation", np.uint8),
        ("animated", np.bool_),
        ("fingerprint", "V16"),
        ("decoded", np.bool_),
        ("hash", "V32"),
        ("mirrored", "V32"),
    ]
)
# To be raised where the same facts get another meaning.
_VERSION = 1
_END_BYTES = 4096
_CHUNK = 2048


def image_format(header: bytes) -> str | None:
    """The format that a file's first 12 bytes tell: `jpeg`, `png`, ... or None."""
    signatures = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"BM": "bmp"}
    signatures |= {b"GIF8": "gif"}
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "webp"
    return next((f for s, f in signatures.items() if header.startswith(s)), None)


def scan(files: Sequence[str], cache_dir: Path) -> np.ndarray:
    """Reads the heads of image files, unless that was done before.

    Args:
        files: N files.
        cache_dir: Where facts are remembered, by a file's path, size and times.

    Returns:
        `FACTS` [N].
    """
    return recall(
        files, cache_dir, scan_file, lambda facts: facts["scanned"], "Heads of files"
    )


def recall(
    files: Sequence[str],
    cache_dir: Path,
    learn: Callable[[str, np.void], None],
    is_known: Callable[[np.void], bool],
    title: str,
) -> np.ndarray:
    """Facts about files: remembered ones, and those learned now.

    Args:
        files: N files.
        cache_dir: Where facts are remembered.
        learn: Fills in the facts of one file; called in several threads.
        is_known: Whether remembered facts say enough.
        title: Of the progress bar, which shows after two seconds.

    Returns:
        `FACTS` [N].
    """
    facts = np.zeros(len(files), FACTS)
    with (
        contextlib.closing(_Memory(cache_dir)) as memory,
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm.tqdm(
            total=len(files), desc=title, unit="file", delay=2, disable=None
        ) as progress,
    ):
        for start in range(0, len(files), _CHUNK):
            part = files[start : start + _CHUNK]
            states = [_state(file) for file in part]
            of_part = facts[start : start + _CHUNK]
            for i, remembered in memory.read(part, states):
                of_part[i] = remembered
            unknown = [i for i in range(len(part)) if not is_known(of_part[i])]
            progress.update(len(part) - len(unknown))
            for _ in pool.map(lambda i: learn(part[i], of_part[i]), unknown):  # noqa: B023
                progress.update()
            memory.write(part, states, of_part, unknown)
    return facts


def find_twins(files: Sequence[str], facts: np.ndarray) -> np.ndarray:
    """Finds files with the same bytes.

    Reads whole files only where size, first and last bytes are those of another.

    Args:
        files: N files.
        facts: `FACTS` [N] of readable files.

    Returns:
        int64 [N], for each file the index of the first file that is equal to it.
    """
    _, bucket, counts = np.unique(
        facts["fingerprint"], return_inverse=True, return_counts=True
    )
    twins = np.arange(len(files))
    first = {}
    for i in np.flatnonzero(counts[bucket] > 1):
        with open(files[i], "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
        twins[i] = first.setdefault(digest, i)
    return twins


def _is_scanned(facts: np.void) -> bool:
    return facts["scanned"]


def scan_file(file: str, facts: np.void) -> None:
    """Fills in what the head of a file tells."""
    facts["problem"] = PROBLEMS.index(_read_head(file, facts))
    facts["scanned"] = True


def _read_head(file: str, facts: np.void) -> str:
    """Fills in facts; returns the file's problem, or an empty string."""
    try:
        with open(file, "rb") as stream:
            head = stream.read(_END_BYTES)
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _END_BYTES))
            ends = head + stream.read(_END_BYTES) + str(size).encode()
            facts["fingerprint"] = hashlib.blake2b(ends, digest_size=16).digest()
            if not head:
                return "empty_file"
            kind = image_format(head)
            if kind is None:
                return "not_an_image"
            facts["format"] = FORMATS.index(kind)
            stream.seek(0)
            return _read_header(stream, facts)
    except (OSError, ValueError):  # a name with a null byte is a ValueError
        return "missing_file"


def _read_header(stream: BinaryIO, facts: np.void) -> str:
    try:
        with Image.open(stream, formats=("BMP", "GIF", "JPEG", "PNG", "WEBP")) as image:
            facts["width"], facts["height"] = image.size
            if image.width * image.height > MAX_PIXELS:
                return "too_large"
            # Phones put a second picture behind a JPEG's first: that is no animation.
            facts["animated"] = image.format in ("GIF", "PNG", "WEBP") and getattr(
                image, "is_animated", False
            )
            if image.format in ("JPEG", "MPO"):
                facts["orientation"] = _orientation(image)
    except Image.DecompressionBombError:
        return "too_large"
    except Exception:  # Pillow's parsers raise what they like for a broken header
        return "unreadable"
    return ""


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 (upright) to 8."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken EXIF: the picture may be fine
        return 1
    return value if value in range(1, 9) else 1


def _state(file: str) -> tuple[int, int, int] | None:
    """What tells whether a file is still the same, or None if it can't be reached."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class _Memory:
    """Facts of earlier runs, in a database of `cache_dir`.

    Without it nothing is lost but time, so where it can't be used it is left alone.
    """

    def __init__(self, cache_dir: Path):
        self.path = cache_dir / f"facts-{_VERSION}.sqlite3"
        self.database = None
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            self.database = sqlite3.connect(self.path, timeout=10)
            with self.database:
                self.database.execute(
                    "CREATE TABLE IF NOT EXISTS facts (path BLOB PRIMARY KEY, "
                    "size INT, mtime INT, ctime INT, facts BLOB) WITHOUT ROWID"
                )
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def read(
        self, files: Sequence[str], states: Sequence[tuple | None]
    ) -> Iterator[tuple[int, np.void]]:
        """Yields numbers and facts of the files that are as they were."""
        if self.database is None:
            return
        keys = [_key(file) for file in files]
        marks = ",".join("?" * len(keys))
        query = f"SELECT * FROM facts WHERE path IN ({marks})"
        try:
            rows = {path: row for path, *row in self.database.execute(query, keys)}
        except sqlite3.Error as error:
            self._give_up(error)
            return
        for i, (key, state) in enumerate(zip(keys, states, strict=True)):
            *then, facts = rows.get(key, (None, None))
            if state is not None and tuple(then) == state:
                yield i, np.frombuffer(facts, FACTS)[0]

    def write(
        self,
        files: Sequence[str],
        states: Sequence[tuple | None],
        facts: np.ndarray,
        which: Sequence[int],
    ) -> None:
        """Remembers the facts of some of the files."""
        if self.database is None:
            return
        rows = (
            (_key(files[i]), *states[i], facts[i].tobytes())
            for i in which
            if states[i] is not None
        )
        try:
            with self.database:
                self.database.executemany(
                    "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", rows
                )
        except sqlite3.Error as error:
            self._give_up(error)

    def close(self) -> None:
        """Closes the database."""
        if self.database is not None:
            self.database.close()

    def _give_up(self, error: Exception) -> None:
        log.warning(
            "What is known of files is not remembered: %s: %s", self.path, error
        )
        self.close()
        self.database = None
        if "malformed" in str(error) or "not a database" in str(error):
            self.path.unlink()


def _key(file: str) -> bytes:
    return os.fsencode(os.path.abspath(file))
