"""Cached features: the output of the frozen part, computed once and kept on disk.

An entry is a folder named by the hash of everything that its content depends on. It is
renamed to that name when it is complete.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ft.catalog.backbones import find_builder, find_normalisation
from keras_ft.data.examples import Strings
from keras_ft.host import onednn, user_code
from keras_ft.host.file_lock import lock_file
from keras_ft.host.files import PARTIAL, compute_digest, discard
from keras_ft.models.weights import hash_weights
from keras_ft.system.team import current_team
from keras_ft.training.feature_pass import FILE, Request, make_compute, write_entry

log = logging.getLogger("keras_ft")

# To be raised with every change to decoding, augmentation, splitting or folding that
# changes features; a test compares them with stored values.
FEATURES_VERSION = 3


def describe(request: Request) -> dict[str, Any]:
    """Everything that the features depend on."""
    reader = request.reader
    varied = request.views > 1
    builder = find_builder(request.origin["backbone"])
    source = {}
    if builder.startswith(user_code.PREFIX):
        source = {"source": user_code.source_of(builder)}
    return {
        **request.origin,
        **source,
        "normalisation": find_normalisation(request.origin["backbone"]),
        "image_size": list(reader.preprocessing.size),
        "resize": reader.preprocessing.mode,
        "weights": hash_weights(request.frozen),
        "images": _hash_files(reader.split.files),
        "views": request.views,
        "augment": reader.augmentation if varied else "none",
        "mirror": reader.mirror and varied,
        "seed": reader.seed if varied else None,
        "precision": request.precision,
        "dtype": request.dtype,
        "onednn": onednn.is_on(),
        "devices": sorted({d.device_type for d in tf.config.list_logical_devices()}),
        "packages": {p: importlib.metadata.version(p) for p in ("tensorflow", "keras")},
        "version": FEATURES_VERSION,
    }


class FeatureCache:
    """Features on disk: those that are missing are computed when they are loaded.

    The cache may reach `limit_gb` * 10^9 bytes; the least recently used entries are
    removed. With `jit`, XLA compiles the frozen part.

    Raises:
        OSError: There is no room for what is missing.
    """

    def __init__(
        self, requests: Sequence[Request], cache_dir: Path, limit_gb: float, jit: bool
    ):
        self._folder = folder = cache_dir / "features"
        self._workers = current_team()
        with self._workers.failing_together():
            folder.mkdir(parents=True, exist_ok=True)
        self._keys = {request.name: describe(request) for request in requests}
        self._team = self._workers.with_folder(folder, f"--cache_dir={cache_dir}")

        def make_room() -> list[str]:
            entries = [folder / _hash_json(key) for key in self._keys.values()]
            _make_room(folder, requests, entries, limit_gb)
            return [entry.name for entry in entries]

        with self._workers.failing_together():
            names = self._team.on_chief(make_room)
        self._entries = dict(zip(self._keys, names, strict=True))
        self._requests = {request.name: request for request in requests}
        # One function for all requests of a model: tracing takes seconds.
        self._computes = {id(r.frozen): make_compute(r, jit) for r in requests}

    def load(self, name: str) -> np.ndarray:
        """A read-only memory map [V, N, ...]; raises an OSError if it can't be made."""
        request, entry = self._requests[name], self._folder / self._entries[name]
        with self._workers.failing_together():
            # Not earlier: other runs may have removed it in the meantime.
            if self._team.on_chief(lambda: _open(entry) is not None):
                log.info("Features of %s: from the cache.", name)
            else:
                compute = self._computes[id(request.frozen)]
                write_entry(request, self._keys[name], entry, compute, self._team)
            self._workers.wait_for(entry / FILE)
            return np.load(entry / FILE, mmap_mode="r")


def _open(entry: Path) -> np.ndarray | None:
    """An entry's features, or None if they are missing or damaged."""
    if not entry.is_dir():  # another process may be about to write it
        return None
    try:
        array = np.load(entry / FILE, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        discard(entry)
        return None
    with contextlib.suppress(OSError):  # the cache may be read-only
        os.utime(entry)  # marks it as recently used
    return array


def _make_room(
    folder: Path, requests: Sequence[Request], entries: list[Path], limit_gb: float
) -> None:
    """Removes other entries, or raises OSError if that would not be enough."""
    _remove_partial(folder)
    size = sum(request.num_bytes for request in requests)
    pairs = zip(requests, entries, strict=True)
    missing = sum(r.num_bytes for r, entry in pairs if _open(entry) is None)
    free = shutil.disk_usage(folder).free
    if missing and (size > limit_gb * 1e9 or missing > free):
        raise OSError(
            f"they take {size / 1e9:.3g} GB; --cache_limit_gb={limit_gb:g}, and "
            f"{free / 1e9:.3g} GB are free in {folder}"
        )
    others = []
    for path in set(folder.iterdir()) - set(entries):
        # Another process may remove it, too.
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.name.startswith(PARTIAL):
                num_bytes = sum(file.stat().st_size for file in path.iterdir())
                others.append((path.stat().st_mtime, num_bytes, path))
    for _, num_bytes, path in sorted(others, reverse=True):
        size += num_bytes
        if size > limit_gb * 1e9:
            discard(path)


def _remove_partial(folder: Path) -> None:
    """Removes unfinished entries of processes that were killed."""
    for path in folder.glob(f"{PARTIAL}*/{FILE}"):
        # Another process may remove it, too.
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            if lock_file(stream, without_locks=False):
                shutil.rmtree(path.parent, ignore_errors=True)


def _hash_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_files(files: Strings) -> str:
    """Hash of the contents of files, in their order; each worker reads a share."""

    def hash_file(file: str) -> bytes:
        return bytes.fromhex(compute_digest(Path(file), "sha256"))

    team = current_team()
    share = team.share(len(files))
    with team.failing_together(), concurrent.futures.ThreadPoolExecutor() as pool:
        digests = list(pool.map(hash_file, files[share.start : share.stop]))
    gathered = team.gather_bytes(np.array(digests, "V32"))
    return hashlib.sha256(gathered.tobytes()).hexdigest()
