"""Cached features: the output of the frozen part, computed once and kept on disk.

An entry is a folder named by the hash of everything that its content depends on. It is
renamed to that name when it is complete.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import keras
import numpy as np
import tensorflow as tf

from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.models.backbones import find_backbone
from keras_ft.system import onednn
from keras_ft.system.files import PARTIAL, partial_folder

log = logging.getLogger("keras_ft")

Compute = Callable[[tf.Tensor], tf.Tensor]

# To be raised with every change to decoding, augmentation, splitting or folding that
# changes features; a test compares them with stored values.
FEATURES_VERSION = 2


@dataclasses.dataclass(frozen=True)
class Request:
    """Features of some examples.

    Attributes:
        name: The split, for the log.
        frozen: From images to features, see `classifier.split`.
        precision: Name of the dtype policy in which it computes.
        reader: Reads the N images.
        views: V, how many views of each image; see `ImageReader`.
        dtype: `float32`, or `float16` to save space.
        origin: How the frozen part was made, for the key: JSON values.
    """

    name: str
    frozen: keras.Model
    precision: str
    reader: ImageReader
    views: int
    dtype: str
    origin: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, N, ...)."""
        return self.views, len(self.reader.split), *self.frozen.output_shape[1:]

    @property
    def num_bytes(self) -> int:
        """Size on disk, without a header of some hundred bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def describe(request: Request) -> dict[str, Any]:
    """Everything that the features depend on."""
    reader = request.reader
    varied = request.views > 1
    return {
        **request.origin,
        "normalisation": find_backbone(request.origin["backbone"]).normalisation,
        "image_size": list(reader.image_size),
        "resize": reader.resize,
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
) -> list[np.ndarray]:
    """Reads features from the cache; missing ones are computed and cached.

    Args:
        requests: The features to load.
        cache_dir: Folder of the cache.
        limit_gb: Size that the cache may reach, in 10^9 bytes. The least
            recently used entries are removed.
        jit: Compile the frozen part with XLA.

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
    _make_room(folder, requests, entries, limit_gb)
    # One function for all requests of a model: tracing takes seconds.
    computes = {id(r.frozen): _make_compute(r, jit) for r in requests}
    arrays = []
    for request, key, entry, array in zip(requests, keys, entries, found, strict=True):
        if array is None:
            _write_entry(request, key, entry, computes[id(request.frozen)])
            array = np.load(entry / "features.npy", mmap_mode="r")
        else:
            log.info("Features of %s: from the cache.", request.name)
        arrays.append(array)
    return arrays


def _open(entry: Path) -> np.ndarray | None:
    """An entry's features, or None if they are missing or damaged."""
    try:
        array = np.load(entry / "features.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError):
        shutil.rmtree(entry, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):  # the cache may be read-only
        os.utime(entry)  # marks it as recently used
    return array


def _make_compute(request: Request, jit: bool) -> Compute:
    """From a batch of images, as the strategy distributes it, to all its features."""
    strategy = tf.distribute.get_strategy()
    image = tf.zeros(request.frozen.input_shape[1:])
    images = tf.data.Dataset.from_tensors(image).batch(request.reader.batch_size)
    spec = strategy.experimental_distribute_dataset(images).element_spec

    @tf.function(jit_compile=jit)
    def run_frozen(images: tf.Tensor) -> tf.Tensor:
        # Devices can't gather bfloat16.
        return tf.cast(request.frozen(images, training=False), tf.float32)

    @tf.function(input_signature=[spec])
    def run_everywhere(images: tf.Tensor) -> tf.Tensor:
        return strategy.run(run_frozen, args=(images,))

    return lambda images: strategy.gather(run_everywhere(images), axis=0)


def _write_entry(
    request: Request, key: dict[str, Any], entry: Path, compute: Compute
) -> None:
    try:
        with partial_folder(entry.parent) as partial:
            with open(partial / "features.npy", "wb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)  # until closed: see _remove_partial
                _write_features(request, stream, compute)
                stream.flush()
                os.fsync(stream.fileno())
            (partial / "key.json").write_text(json.dumps(key, indent=2))
            partial.rename(entry)
    except OSError:
        # Another process may have written the same entry in the meantime.
        if not entry.exists():
            raise


def _write_features(request: Request, stream: BinaryIO, compute: Compute) -> None:
    """Writes an .npy file, not a memory map, in which a full disk kills the process."""
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
    largest = np.finfo(request.dtype).max
    progress = keras.utils.Progbar(views * num_examples, unit_name="image")
    start = time.perf_counter()
    for view in range(views):
        images = make_inputs(request.reader, num_examples, view)
        left = num_examples
        for batch in strategy.experimental_distribute_dataset(images):
            rows = np.clip(compute(batch)[:left], -largest, largest)
            stream.write(rows.astype(request.dtype).tobytes())
            progress.add(len(rows))
            left -= len(rows)
    seconds = time.perf_counter() - start
    log.info("%.1f seconds, %.1f images/s.", seconds, views * num_examples / seconds)


def _make_room(
    folder: Path, requests: Sequence[Request], entries: list[Path], limit_gb: float
) -> None:
    """Removes other entries, or raises OSError if that would not be enough."""
    _remove_partial(folder)
    size = sum(request.num_bytes for request in requests)
    pairs = zip(requests, entries, strict=True)
    missing = sum(request.num_bytes for request, entry in pairs if not entry.exists())
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
    for path in folder.glob(f"{PARTIAL}*/features.npy"):
        try:
            with open(path, "rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:
            continue  # its process is still running


def _hash_json(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _hash_weights(network: keras.Model) -> str:
    digest = hashlib.sha256()
    for weight in network.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode())
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()


def _hash_files(files: Iterable[str]) -> str:
    """Hash of the contents of files, in their order."""

    def hash_file(file: str) -> bytes:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(hash_file, files))).hexdigest()
