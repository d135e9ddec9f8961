"""What the frozen prefix computes, computed once and kept on disk.

An entry is a folder named by the hash of everything that its content depends on. It is
written beside and renamed when whole, so that what carries the name is complete.
"""

import concurrent.futures
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft import augment, fold, model, pipeline
from keras_ft.backbones import BACKBONES
from keras_ft.pipeline import ImageReader

log = logging.getLogger("keras_ft")

_PARTIAL = "partial-"


@dataclasses.dataclass(frozen=True)
class Request:
    """Features of some examples.

    Attributes:
        name: What they are for, said in the log.
        prefix: From images to features, see `model.split`.
        reader: Reads the N images.
        views: V, how many views of each image; see `ImageReader`.
        dtype: `float32`, or `float16` to save space.
        origin: What the prefix was made from, for the key: JSON values.
    """

    name: str
    prefix: keras.Model
    reader: ImageReader
    views: int
    dtype: str
    origin: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, N, ...)."""
        return self.views, len(self.reader.split), *self.prefix.output_shape[1:]

    @property
    def num_bytes(self) -> int:
        """Size on disk, less a header of some hundred bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def describe(request: Request) -> dict[str, Any]:
    """Everything that the features depend on."""
    reader = request.reader
    varied = request.views > 1
    return {
        **request.origin,
        "normalisation": BACKBONES[request.origin["backbone"]].normalisation,
        "image_size": reader.image_size,
        "weights": _hash_weights(request.prefix),
        "images": _hash_files(reader.split.files),
        "views": request.views,
        "augment": reader.augment if varied else "none",
        "seed": reader.seed if varied else None,
        "precision": keras.config.dtype_policy().name,
        "dtype": request.dtype,
        "devices": sorted({d.device_type for d in tf.config.list_logical_devices()}),
        "packages": {p: importlib.metadata.version(p) for p in ("tensorflow", "keras")},
        # The version of this package would miss a change to a checkout.
        "code": _hash_files([m.__file__ for m in (augment, fold, model, pipeline)]),
    }


def load_features(
    requests: Sequence[Request], cache_dir: Path, limit_gb: float, jit: bool
) -> list[np.ndarray]:
    """Features from the cache; what is not there is computed and kept.

    Args:
        requests: What is wanted.
        cache_dir: Folder of the cache.
        limit_gb: Size that the cache may reach, in 10^9 bytes. Entries that were not
            used for longest make room.
        jit: Compile the prefix with XLA.

    Returns:
        For each request a read-only memory map of its dtype, [V, N, ...].

    Raises:
        OSError: There is no room for what is missing, or it can't be written.
    """
    folder = cache_dir / "features"
    folder.mkdir(parents=True, exist_ok=True)
    keys = [describe(request) for request in requests]
    entries = [folder / _hash_json(key) for key in keys]
    found = [_open(entry) for entry in entries]
    missing = [r for r, array in zip(requests, found, strict=True) if array is None]
    _make_room(folder, sum(r.num_bytes for r in missing), limit_gb, keep=entries)
    for i, (request, key) in enumerate(zip(requests, keys, strict=True)):
        if found[i] is None:
            _write_entry(request, key, entries[i], jit)
            found[i] = np.load(entries[i] / "features.npy", mmap_mode="r")
        else:
            log.info("Features of %s: from the cache.", request.name)
    return found


def _open(entry: Path) -> np.ndarray | None:
    """An entry's features, or None if they are not there or the file is damaged."""
    try:
        array = np.load(entry / "features.npy", mmap_mode="r")
        os.utime(entry)  # used just now
    except (OSError, ValueError, EOFError):
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return array


def _write_entry(request: Request, key: dict[str, Any], entry: Path, jit: bool) -> None:
    partial = Path(tempfile.mkdtemp(dir=entry.parent, prefix=_PARTIAL))
    try:
        with open(partial / "features.npy", "wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # until closed: see _remove_partial
            _compute(request, stream, jit)
            stream.flush()
            os.fsync(stream.fileno())
        (partial / "key.json").write_text(json.dumps(key, indent=2))
        partial.rename(entry)
    except OSError:
        # Another process may have been faster with the same entry.
        if not entry.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _compute(request: Request, stream: Any, jit: bool) -> None:
    """Writes an .npy file; through the file and not a map, where a full disk kills."""
    header = {"descr": np.dtype(request.dtype).str, "fortran_order": False}
    np.lib.format.write_array_header_2_0(stream, header | {"shape": request.shape})
    views, num_examples, *_ = request.shape
    log.info(
        "Features of %s: %d images%s.",
        request.name,
        num_examples,
        f" in {views} views" if views > 1 else "",
    )
    strategy = tf.distribute.get_strategy()
    step = tf.function(lambda x: request.prefix(x, training=False), jit_compile=jit)
    compute = tf.function(lambda images: strategy.run(step, args=(images,)))
    largest = np.finfo(request.dtype).max
    progress = keras.utils.Progbar(views * num_examples, unit_name="image")
    start = time.perf_counter()
    for view in range(views):
        examples = tf.data.Dataset.range(num_examples)
        images = request.reader.read(examples, view).prefetch(tf.data.AUTOTUNE)
        for batch in strategy.experimental_distribute_dataset(images):
            rows = strategy.gather(compute(batch), axis=0)
            rows = np.clip(tf.cast(rows, tf.float32), -largest, largest)
            stream.write(rows.astype(request.dtype).tobytes())
            progress.add(len(rows))
    seconds = time.perf_counter() - start
    log.info("%.1f seconds, %.1f images/s.", seconds, views * num_examples / seconds)


def _make_room(folder: Path, needed: int, limit_gb: float, keep: list[Path]) -> None:
    """Removes old entries, or raises OSError where that would not be enough."""
    _remove_partial(folder)
    if not needed:
        return
    free = shutil.disk_usage(folder).free
    if needed > min(limit_gb * 1e9, free):
        raise OSError(
            f"they would take {needed / 1e9:.3g} GB; --cache_limit_gb={limit_gb:g}, "
            f"and {free / 1e9:.3g} GB are free in {folder}"
        )
    entries = sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime)
    sizes = {entry: _size(entry) for entry in entries}
    for entry in entries:
        if sum(sizes.values()) + needed <= limit_gb * 1e9:
            break
        if entry not in keep:
            del sizes[entry]
            shutil.rmtree(entry, ignore_errors=True)


def _remove_partial(folder: Path) -> None:
    """Removes what killed processes left behind."""
    for path in folder.glob(f"{_PARTIAL}*/features.npy"):
        try:
            with open(path, "rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            continue  # its writer lives


def _size(entry: Path) -> int:
    return sum(path.stat().st_size for path in entry.iterdir())


def _hash_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_weights(network: keras.Model) -> str:
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight))
    return digest.hexdigest()


def _hash_files(files: Sequence[str]) -> str:
    """Hash of the contents of files, in their order."""

    def hash_file(file: str) -> bytes:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(hash_file, files))).hexdigest()
