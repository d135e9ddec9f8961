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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.catalog.backbones import find_backbone
from keras_ft.data.examples import Strings
from keras_ft.host import onednn
from keras_ft.host.file_lock import lock_file
from keras_ft.host.files import PARTIAL
from keras_ft.system.agreement import find_blind, wait_for
from keras_ft.system.collectives import (
    current_workers,
    failing_together,
    gather_bytes,
    on_chief,
)
from keras_ft.system.workers import ALONE, Workers
from keras_ft.training.feature_pass import (
    FILE,
    Compute,
    Request,
    make_compute,
    write_entry,
)

log = logging.getLogger("keras_ft")

# To be raised with every change to decoding, augmentation, splitting or folding that
# changes features; a test compares them with stored values.
FEATURES_VERSION = 2


def describe(request: Request) -> dict[str, Any]:
    """Everything that the features depend on."""
    reader = request.reader
    varied = request.views > 1
    return {
        **request.origin,
        "normalisation": find_backbone(request.origin["backbone"]).normalisation,
        "image_size": list(reader.preprocessing.size),
        "resize": reader.preprocessing.mode,
        "weights": _hash_weights(request.frozen),
        "images": _hash_files(reader.split.files),
        "views": request.views,
        "augment": reader.augment if varied else "none",
        "mirror": reader.mirror and varied,
        "seed": reader.seed if varied else None,
        "precision": request.precision,
        "dtype": request.dtype,
        "onednn": onednn.is_on(),
        "devices": sorted({d.device_type for d in tf.config.list_logical_devices()}),
        "packages": {p: importlib.metadata.version(p) for p in ("tensorflow", "keras")},
        "version": FEATURES_VERSION,
    }


def load_features(
    requests: Sequence[Request], cache_dir: Path, limit_gb: float, jit: bool
) -> Iterator[np.ndarray]:
    """Reads features from the cache; missing ones are computed and cached.

    Those of a request are not computed before the caller asks for them.

    Args:
        requests: The features to load.
        cache_dir: Folder of the cache.
        limit_gb: Size that the cache may reach, in 10^9 bytes. The least
            recently used entries are removed.
        jit: Compile the frozen part with XLA.

    Yields:
        For each request a read-only memory map of its dtype, [V, N, ...].

    Raises:
        OSError: There is no room for what is missing, or it can't be written.
    """
    folder, workers = cache_dir / "features", current_workers()
    with failing_together(workers):
        folder.mkdir(parents=True, exist_ok=True)
    keys = [describe(request) for request in requests]
    team = workers
    if find_blind(folder):
        log.info(
            "The workers do not share --cache_dir=%s: each computes all features.",
            cache_dir,
        )
        team = ALONE

    def make_room() -> list[str]:
        """The name of each request's entry."""
        entries = [folder / _hash_json(key) for key in keys]
        _make_room(folder, requests, entries, limit_gb)
        return [entry.name for entry in entries]

    with failing_together(workers):
        names = on_chief(team, make_room)
    # One function for all requests of a model: tracing takes seconds.
    computes = {id(r.frozen): make_compute(r, jit) for r in requests}
    for request, key, name in zip(requests, keys, names, strict=True):
        entry, compute = folder / name, computes[id(request.frozen)]
        with failing_together(workers):
            _fill(request, key, entry, compute, team)
            features = _load(entry, workers)
        yield features


def _fill(
    request: Request, key: dict[str, Any], entry: Path, compute: Compute, team: Workers
) -> None:
    """Computes the features of a request unless the cache has them."""
    # Not earlier: other runs may have removed it in the meantime.
    if on_chief(team, lambda: _open(entry) is not None):
        log.info("Features of %s: from the cache.", request.name)
    else:
        write_entry(request, key, entry, compute, team)


def _load(entry: Path, workers: Workers) -> np.ndarray:
    path = entry / FILE
    if not workers.is_chief:
        wait_for(path)
    return np.load(path, mmap_mode="r")


def _open(entry: Path) -> np.ndarray | None:
    """An entry's features, or None if they are missing or damaged."""
    try:
        array = np.load(entry / FILE, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        shutil.rmtree(entry, ignore_errors=True)
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
    others = [path for path in folder.iterdir() if path.is_dir()]
    others = [p for p in others if p not in entries and not p.name.startswith(PARTIAL)]
    others.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    for entry in others:
        size += sum(path.stat().st_size for path in entry.iterdir())
        if size > limit_gb * 1e9:
            shutil.rmtree(entry, ignore_errors=True)


def _remove_partial(folder: Path) -> None:
    """Removes unfinished entries of processes that were killed."""
    for path in folder.glob(f"{PARTIAL}*/{FILE}"):
        # Another process may remove it, too.
        with contextlib.suppress(OSError), open(path, "rb") as stream:
            if lock_file(stream):
                shutil.rmtree(path.parent, ignore_errors=True)


def _hash_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_weights(network: keras.Model) -> str:
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _hash_files(files: Strings) -> str:
    """Hash of the contents of files, in their order; each worker reads a share."""

    def hash_file(file: str) -> bytes:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    workers = current_workers()
    share = workers.share(len(files))
    with failing_together(workers), concurrent.futures.ThreadPoolExecutor() as pool:
        digests = list(pool.map(hash_file, files[share.start : share.stop]))
    return hashlib.sha256(gather_bytes(np.array(digests, "V32")).tobytes()).hexdigest()
