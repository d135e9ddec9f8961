"""Computes features, a share by each worker, and writes them into the cache."""

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.host.file_lock import lock_file
from keras_ft.host.files import partial_folder
from keras_ft.host.progress import Progress
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.system.distribution import on_devices, over_devices
from keras_ft.system.team import Team

log = logging.getLogger("keras_ft")

Compute = Callable[[tf.Tensor], tf.Tensor]

FILE = "features.npy"


@dataclasses.dataclass(frozen=True)
class Request:
    """Features of N images.

    Attributes:
        frozen: From images to features, see `classifier.split`.
        origin: How the frozen part was made, as JSON values; part of the key.
        precision: Name of the dtype policy in which it computes.
        views: V, how many views of each image; see `ImageReader`.
        dtype: `float32`, or `float16` to save space.
    """

    name: str
    frozen: keras.Model
    reader: ImageReader
    origin: dict[str, Any]
    precision: str = "float32"
    views: int = 1
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, N, ...)."""
        return self.views, len(self.reader.split), *self.frozen.output_shape[1:]

    @property
    def num_bytes(self) -> int:
        """Size on disk, without a header of some hundred bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def make_compute(request: Request, jit: bool) -> Compute:
    """From a batch of images, as `over_devices` spreads it, to all its features."""
    image = tf.zeros(request.frozen.input_shape[1:])
    images = tf.data.Dataset.from_tensors(image).batch(request.reader.batch_size)

    @tf.function(jit_compile=jit)
    def run_frozen(images: tf.Tensor) -> tf.Tensor:
        # Devices can't gather bfloat16.
        return tf.cast(request.frozen(images, training=False), tf.float32)

    return on_devices(run_frozen, images)


def write_entry(
    request: Request, key: dict[str, Any], entry: Path, compute: Compute, team: Team
) -> None:
    """Computes an entry of the cache under another name, and renames it to `entry`.

    The workers of a team write their shares into one file. Raises an OSError if it
    can't be written, unless another process has written the same entry.
    """
    form = {"descr": np.dtype(request.dtype).str, "fortran_order": False}
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(header, form | {"shape": request.shape})
    try:
        with contextlib.ExitStack() as opened:

            def begin() -> str:
                partial = opened.enter_context(partial_folder(entry.parent))
                stream = opened.enter_context(open(partial / FILE, "wb"))
                lock_file(
                    stream, without_locks=False
                )  # until closed: see _remove_partial
                stream.write(header.getvalue())
                stream.flush()
                return partial.name

            def finish() -> None:
                (partial / "key.json").write_text(json.dumps(key, indent=2))
                partial.rename(entry)

            partial = entry.parent / team.on_chief(begin)
            with team.failing_together():
                _write_features(request, partial / FILE, header.tell(), compute, team)
            team.on_chief(finish)
    except OSError:
        # Another process may have written the same entry in the meantime.
        if not entry.exists():
            raise


def _write_features(
    request: Request, path: Path, start: int, compute: Compute, team: Team
) -> None:
    """Writes this worker's share into a file that begins with `start` bytes of header.

    Not through a memory map: then a full disk would kill the process.
    """
    views, num_examples, *_ = request.shape
    # Whole batches: how a row is rounded depends on the size of its batch.
    share = team.share(num_examples, request.reader.batch_size)
    of_views = f" in {views} views" if views > 1 else ""
    shared = f", of which this worker computes {len(share)}"
    shared = shared if len(share) < num_examples else ""
    log.info(
        "Features of %s: %d images%s%s.", request.name, num_examples, of_views, shared
    )
    largest = np.finfo(request.dtype).max
    begin = time.perf_counter()
    with (
        open(path, "wb", opener=_open_existing) as stream,
        Progress(
            f"Features of {request.name}", views * len(share), "image"
        ) as progress,
    ):
        for view in range(views):
            row = view * num_examples + share.start
            stream.seek(start + row * request.num_bytes // (views * num_examples))
            left = len(share)
            for batch in over_devices(make_inputs(request.reader, share, view)):
                rows = np.clip(compute(batch)[:left], -largest, largest)
                stream.write(rows.astype(request.dtype).tobytes())
                progress.update(len(rows))
                left -= len(rows)
        stream.flush()
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - begin
    log.info("%.1f seconds, %.1f images/s.", seconds, views * len(share) / seconds)


def _open_existing(path: str, _flags: int) -> int:
    # Other workers write the same file, so it must not be truncated; and opened for
    # writing alone, so that NFS sends no bytes but those that are written here.
    return os.open(path, os.O_WRONLY)
