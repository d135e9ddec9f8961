"""ImageNet weights that Keras publishes: in Keras's cache, or downloaded into it.

`published.csv` has URL and hash (MD5 or SHA-256) of each backbone's weights, as its
builder in keras.applications passes them to `keras.utils.get_file`. The builders do not
download for us because `get_file` deletes a cached file whose hash is wrong, ignores a
cache that is read-only, and may wait for minutes without a network.
"""

import logging
import os
import queue
import socket
import threading
import urllib.request
from pathlib import Path

import keras

from keras_ft.catalog.preference import UnusableWeights
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.host.files import compute_digest, partial_folder, read_rows

log = logging.getLogger("keras_ft")

PROBE_SECONDS = 4.0  # how long the server may take to answer
STALL_SECONDS = 30.0  # how long a download may go without receiving a byte
# MobileNetV2's weights exist for these image sizes; the last are used for all others.
_MOBILENET_V2_SIZES = (96, 128, 160, 192, 224)


def load_published(name: str, image_size: ImageSize) -> Path:
    """Finds the file of a backbone's ImageNet weights, or downloads it.

    A cached file is used without a network. No file in Keras's cache is ever replaced
    or removed, one with a wrong hash is never used, and an unfinished download never
    gets the name of a complete one. A server that does not answer within
    `PROBE_SECONDS`, name resolution included, counts as unreachable.

    Raises:
        UnusableWeights: If there are no such weights, they can't be downloaded, or the
            cache contains another file of the same name.
    """
    url, file_hash = find_url(name, image_size)
    # Keras looks in its home and, if that is read-only, in /tmp.
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    homes = [home] if os.access(home, os.W_OK) else [home, Path("/tmp/.keras")]
    files = [folder / "models" / os.path.basename(url) for folder in homes]
    file = next((file for file in files if file.exists()), files[-1])
    if not file.exists():
        try:
            _download(url, file_hash, file)
        except Exception as error:  # get_file raises Exception itself
            reason = str(error).removeprefix("<urlopen error ").removesuffix(">")
            raise UnusableWeights(
                f"{file.name} is not in {file.parent} and could not be downloaded: "
                f"{reason}",
                remedy=f"Put {url} into {file.parent} to use imagenet.",
            ) from error
    algorithm = "sha256" if len(file_hash) == 64 else "md5"
    try:
        is_published = not file_hash or compute_digest(file, algorithm) == file_hash
    except OSError as error:
        raise UnusableWeights(f"{file} cannot be read: {error}") from error
    if not is_published:
        raise UnusableWeights(
            f"{file} is not the published file, whose hash is {file_hash}; "
            "it was left untouched, move it away to have it downloaded"
        )
    return file


def find_url(name: str, image_size: ImageSize) -> tuple[str, str]:
    """Returns URL and hash of a backbone's weights; the hash is empty if unknown."""
    for row in read_rows(Path(__file__).with_name("published.csv")):
        if row["backbone"] == name:
            height, width = image_size
            is_published = height == width and height in _MOBILENET_V2_SIZES
            size = height if is_published else _MOBILENET_V2_SIZES[-1]
            return row["url"].format(size=size), row["hash"]
    raise UnusableWeights(f"Keras publishes none for {name}")


def shorten(message: str) -> str:
    """Shortens a message that can fill pages to a line of about 160 characters."""
    text = " ".join(message.split())
    # Keras quotes one of the failures and then lists all of them.
    text = text.partition("Example error message for ")[2] or text
    text = text.partition(" List of objects ")[0]
    return text if len(text) <= 160 else text[:160].rsplit(" ", 1)[0] + " ..."


def _download(url: str, file_hash: str, file: Path) -> None:
    size = _probe(url)
    log.info("weights: downloading %s (%.1f MB) to %s", url, size / 1e6, file)
    file.parent.mkdir(parents=True, exist_ok=True)
    previous = socket.getdefaulttimeout()
    with partial_folder(file.parent) as partial:
        socket.setdefaulttimeout(STALL_SECONDS)  # get_file sets none
        try:
            part = keras.utils.get_file(
                origin=url,
                file_hash=file_hash or None,
                cache_dir=partial,
                cache_subdir="",
            )
        finally:
            socket.setdefaulttimeout(previous)
        if not os.path.lexists(file):  # another program may have been faster
            os.rename(part, file)


def _probe(url: str) -> int:
    """The size in bytes that a server announces for a file."""
    answers: queue.SimpleQueue[int | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=PROBE_SECONDS) as response:
                answers.put(int(response.headers.get("Content-Length", 0)))
        except Exception as error:  # raised again below, in the thread that waits
            answers.put(error)

    # A thread, because a socket's timeout does not include the name resolution; a
    # daemon, so that it can't keep the program from ending.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {PROBE_SECONDS:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
