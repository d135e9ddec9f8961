"""Computes features and writes them into an entry of the cache.

Several workers compute a share each and write it into the same file.
"""

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.host.file_lock import lock_file
from keras_ft.host.files import partial_folder
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.system.collectives import current_workers, failing_together, on_chief
from keras_ft.system.workers import Workers

log = logging.getLogger("keras_ft")

Compute = Callable[[tf.Tensor], tf.Tensor]

FILE = "features.npy"


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


def make_compute(request: Request, jit: bool) -> Compute:
    """From a batch of images, as the strategy distributes it, to all its features."""
    strategy = tf.distribute.get_strategy()
    image = tf.zeros(request.frozen.input_shape[1:])
    images = tf.data.Dataset.from_tensors(image).batch(request.reader.batch_size)

    @tf.function(jit_compile=jit)
    def run_frozen(images: tf.Tensor) -> tf.Tensor:
        # Devices can't gather bfloat16.
        return tf.cast(request.frozen(images, training=False), tf.float32)

    if current_workers().count > 1:  # each computes batches of its own
        return tf.function(run_frozen, input_signature=[images.element_spec])
    spec = strategy.experimental_distribute_dataset(images).element_spec

    @tf.function(input_signature=[spec])
    def run_everywhere(images: tf.Tensor) -> tf.Tensor:
        return strategy.run(run_frozen, args=(images,))

    return lambda images: strategy.gather(run_everywhere(images), axis=0)


def write_entry(
    request: Request, key: dict[str, Any], entry: Path, compute: Compute, team: Workers
) -> None:
    header = _make_header(request)
    try:
        with contextlib.ExitStack() as opened:

            def begin() -> str:
                partial = opened.enter_context(partial_folder(entry.parent))
                stream = opened.enter_context(open(partial / FILE, "wb"))
                lock_file(stream)  # until closed: see _remove_partial
                stream.write(header)
                stream.flush()
                return partial.name

            def finish() -> None:
                (partial / "key.json").write_text(json.dumps(key, indent=2))
                partial.rename(entry)

            partial = entry.parent / on_chief(team, begin)
            with failing_together(team):
                _write_features(request, partial / FILE, len(header), compute, team)
            on_chief(team, finish)
    except OSError:
        # Another process may have written the same entry in the meantime.
        if not entry.exists():
            raise


def _make_header(request: Request) -> bytes:
    """What an .npy file begins with."""
    header = {"descr": np.dtype(request.dtype).str, "fortran_order": False}
    stream = io.BytesIO()
    np.lib.format.write_array_header_2_0(stream, header | {"shape": request.shape})
    return stream.getvalue()


def _write_features(
    request: Request, path: Path, start: int, compute: Compute, team: Workers
) -> None:
    """Writes this worker's share into a file that begins with a header.

    It is no memory map, in which a full disk kills the process.

    Args:
        request: The features.
        path: The file.
        start: Size of the header.
        compute: From a batch of images to its features.
        team: The workers that write into the file.
    """
    views, num_examples, *_ = request.shape
    # Whole batches: how a row is rounded depends on the size of its batch.
    share = team.share(num_examples, request.reader.batch_size)
    log.info(
        "Features of %s: %d images%s%s.",
        request.name,
        num_examples,
        f" in {views} views" if views > 1 else "",
        f", of which this worker computes {len(share)}" if team.count > 1 else "",
    )
    largest = np.finfo(request.dtype).max
    progress = keras.utils.Progbar(views * len(share), unit_name="image")
    begin = time.perf_counter()
    with open(path, "wb", opener=_open_existing) as stream:
        for view in range(views):
            row = view * num_examples + share.start
            stream.seek(start + row * request.num_bytes // (views * num_examples))
            left = len(share)
            for batch in _make_batches(request.reader, num_examples, view, share):
                rows = np.clip(compute(batch)[:left], -largest, largest)
                stream.write(rows.astype(request.dtype).tobytes())
                progress.add(len(rows))
                left -= len(rows)
        stream.flush()
        os.fsync(stream.fileno())
    seconds = time.perf_counter() - begin
    log.info("%.1f seconds, %.1f images/s.", seconds, views * len(share) / seconds)


def _open_existing(path: str, _flags: int) -> int:
    """Opens a file that other workers write, too: without truncating it.

    And without reading it, so that NFS sends no bytes but those that are written here.
    """
    return os.open(path, os.O_WRONLY)


def _make_batches(
    reader: ImageReader, num_examples: int, view: int, share: range
) -> Iterable[tf.Tensor]:
    """The batches of a share, as `make_compute` expects them."""
    if current_workers().count > 1:
        return make_inputs(reader, num_examples, view, share)
    images = make_inputs(reader, num_examples, view)
    return tf.distribute.get_strategy().experimental_distribute_dataset(images)
