"""Keras's published weights: found in its cache or downloaded, nothing overwritten."""

import hashlib
import http.client
import logging
import os
import pathlib
import queue
import shutil
import tempfile
import threading
import urllib.request

from keras.src.backend import config as keras_config

from keras_ft.system.signals import cleanup

log = logging.getLogger("keras_ft")

PROBE_SECONDS = 4.0  # from asking for a file until its server must have answered
STALL_SECONDS = 30.0  # without a byte, after which a download is given up


class UnusableWeights(Exception):
    """Why one item of the preference list cannot be used, in one line.

    Attributes:
        remedy: What the user can do about it, in one line, or None.
    """

    def __init__(self, reason: str, remedy: str | None = None):
        super().__init__(reason)
        self.remedy = remedy


def get_file(
    fname: str, origin: str, cache_subdir: str, file_hash: str | None
) -> pathlib.Path:
    """Finds a published file in Keras's cache or downloads it into it.

    Args:
        fname: Name of the file.
        origin: Its URL.
        cache_subdir: Folder in Keras's home.
        file_hash: SHA-256 or MD5 in hexadecimal, or None if Keras knows none.

    Returns:
        The file.

    Raises:
        UnusableWeights: It can't be had, or another file has its place.
    """
    folders = _cache_folders(cache_subdir)
    for file in (folder / fname for folder in folders):
        if not os.path.exists(file):
            continue
        if not _has_hash(file, file_hash):
            raise UnusableWeights(
                f"{file} is not the published file, whose hash is {file_hash}; "
                "it was left untouched, move it away to have it downloaded"
            )
        return file
    target = folders[-1] / fname
    try:
        _download(origin, target, file_hash)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error).removeprefix("<urlopen error ").removesuffix(">")
        raise UnusableWeights(
            f"{fname} is not in {folders[0]} and could not be downloaded: {reason}",
            remedy=f"Put {origin} into {folders[0]} to use imagenet.",
        ) from error
    return target


def _cache_folders(cache_subdir: str) -> list[pathlib.Path]:
    """Returns where Keras would look: its home and, if that is read-only, /tmp."""
    homes = [os.path.expanduser(keras_config.keras_home())]
    if not os.access(homes[0], os.W_OK):
        temporary = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()
        homes.append(os.path.join(temporary, ".keras"))
    return [pathlib.Path(home, cache_subdir) for home in homes]


def _download(origin: str, target: pathlib.Path, file_hash: str | None) -> None:
    """Downloads `target`, which appears complete and verified or not at all.

    Raises:
        OSError: No answer, a broken connection, a wrong hash, or no place to write.
    """
    with _open_url(origin, PROBE_SECONDS) as response:
        size = int(response.headers.get("Content-Length", 0))
        log.info("weights: downloading %s (%.1f MB) to %s", origin, size / 1e6, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(
                prefix=".keras_ft_", dir=target.parent
            ) as folder,
            cleanup(lambda: shutil.rmtree(folder, ignore_errors=True)),
        ):
            part = pathlib.Path(folder, target.name)
            with part.open("wb") as stream:
                shutil.copyfileobj(response, stream)
            received = part.stat().st_size
            if received < size:
                raise OSError(f"broke off after {received} of {size} bytes")
            if not _has_hash(part, file_hash):
                raise OSError(f"what arrived does not have the hash {file_hash}")
            _move_into_place(part, target)
    if not _has_hash(target, file_hash):
        raise OSError("meanwhile another file has appeared there")


def _move_into_place(part: pathlib.Path, target: pathlib.Path) -> None:
    """Moves a file within its file system; one that is already there stays."""
    try:
        os.link(part, target)  # unlike a rename, this never replaces a file
    except FileExistsError:
        pass  # another run was faster
    except OSError:  # some file systems know no hard links
        if not os.path.exists(target):
            part.rename(target)


def _open_url(origin: str, seconds: float) -> http.client.HTTPResponse:
    """Opens a URL, through the proxies of the environment, within a time limit.

    Raises:
        OSError: It cannot be opened, or (TimeoutError) not within `seconds`.
    """
    answers = queue.SimpleQueue()

    def connect():
        try:
            answers.put(urllib.request.urlopen(origin, timeout=STALL_SECONDS))
        except Exception as error:  # raised again below, by the thread that asked
            answers.put(error)

    # A thread, since a socket's time limit does not cover the resolution of the name;
    # a daemon, so that one that hangs does not keep the program from ending.
    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _has_hash(file: pathlib.Path, file_hash: str | None) -> bool:
    """Whether a file has a SHA-256 or MD5; true for None, which some builders pass."""
    if file_hash is None:
        return True
    return digest(file, "sha256" if len(file_hash) == 64 else "md5") == file_hash


def digest(file: pathlib.Path, algorithm: str) -> str:
    """Hexadecimal digest of a file by an algorithm of hashlib."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()
