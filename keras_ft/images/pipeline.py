"""Examples to batched `tf.data` pipelines.

A reader reads the inputs of given examples: `ImageReader` decodes image files,
`FeatureReader` takes cached features. The order of the examples and their augmentation
are functions of (seed, epoch, example), and how they are mixed of (seed, epoch, step),
so they do not depend on what ran before or on the number of threads.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Examples
from keras_ft.images.augment import augment_image
from keras_ft.images.decode import decode_image, resize
from keras_ft.images.labels import make_label_reader
from keras_ft.images.mix import mix_batch
from keras_ft.system.collectives import current_workers
from keras_ft.system.devices import num_devices
from keras_ft.system.distribution import distribute, divide, without_tuning


class ImageReader:
    """Reads images from their files.

    Args:
        split: N examples.
        preprocessing: Height S and width T, and how images get them.
        batch_size: B.
        augment: `none`, `light` or `strong`, see `augment_image`. Defaults to `none`.
        mirror: Whether augmentation mirrors half of the views. Defaults to False.
        seed: Seed of the augmentation. Defaults to 0.
    """

    def __init__(
        self,
        split: Examples,
        preprocessing: Preprocessing,
        batch_size: int,
        augment: str = "none",
        mirror: bool = False,
        seed: int = 0,
    ):
        self.split = split
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.augment = augment
        self.mirror = mirror
        self.seed = seed
        # Bytes: a file name need not be valid UTF-8. Converted here and not in `read`,
        # where all names would become part of the graph of the dataset.
        self._files = tf.constant([os.fsencode(file) for file in split.files])

    def read(
        self,
        examples: tf.data.Dataset,
        view: tf.Tensor | int,
        batch_size: int | None = None,
    ) -> tf.data.Dataset:
        """Reads one view of some examples.

        Args:
            examples: int64 scalars, indices of the examples.
            view: int64 scalar. View 0 is the plain image; each other view is one
                augmentation of it, the same each time it is read.
            batch_size: B. Defaults to that of the reader.

        Returns:
            Batches float32 [B, S, T, 3] in [0, 255]; the last may be smaller.
        """
        view = tf.cast(view, tf.int32)

        def load(example: tf.Tensor) -> tf.Tensor:
            pixels = decode_image(tf.io.read_file(tf.gather(self._files, example)))
            fit = self.preprocessing
            if self.augment == "none":
                return resize(pixels, fit)
            seed = tf.random.fold_in([self.seed, view], example)
            return tf.cond(
                view > 0,
                lambda: augment_image(pixels, seed, self.augment, self.mirror, fit),
                lambda: resize(pixels, fit),
            )

        images = examples.map(load, num_parallel_calls=os.cpu_count())
        return images.batch(batch_size or self.batch_size)


@dataclasses.dataclass(frozen=True)
class FeatureReader:
    """Reads cached features.

    Attributes:
        features: float16 or float32 [V, N, ...], V views of N examples; may be
            memory-mapped.
        batch_size: B.
    """

    features: np.ndarray
    batch_size: int

    def read(
        self,
        examples: tf.data.Dataset,
        view: tf.Tensor | int,
        batch_size: int | None = None,
    ) -> tf.data.Dataset:
        """Reads view `view` of some examples: batches float32 [B, ...]."""
        view = tf.cast(view, tf.int64)

        def gather(batch: np.ndarray, view: np.ndarray) -> np.ndarray:
            return self.features[view][batch].astype(np.float32)

        def load(batch: tf.Tensor) -> tf.Tensor:
            rows = tf.numpy_function(gather, [batch, view], tf.float32, stateful=False)
            return tf.ensure_shape(rows, [None, *self.features.shape[2:]])

        batches = examples.batch(batch_size or self.batch_size)
        return batches.map(load, num_parallel_calls=tf.data.AUTOTUNE)


Reader = ImageReader | FeatureReader


def make_inputs(
    reader: Reader, num_examples: int, view: int = 0, rows: range | None = None
) -> tf.data.Dataset:
    """Makes batches of one view of N examples, in order; nothing is dropped.

    With several devices, copies of the last example are appended until the devices can
    share the examples evenly.

    Args:
        reader: Reads the examples.
        num_examples: N.
        view: See `ImageReader.read`. Defaults to 0.
        rows: Makes batches of these examples only. Defaults to all.
    """
    if rows is None:
        in_order = _in_order(num_examples)
    else:
        in_order = tf.data.Dataset.range(rows.start, rows.stop)
    batches = reader.read(in_order, view).prefetch(tf.data.AUTOTUNE)
    return without_tuning(batches)


def make_dataset(reader: Reader, examples: Examples) -> tf.data.Dataset:
    """Makes batches like `make_inputs`, with labels, see `make_label_reader`.

    With several workers nothing is appended. Each gets its part of every batch.
    """
    count, workers = len(examples), current_workers()
    if workers.count == 1:
        batches = _in_order(count).batch(reader.batch_size)
        labels = batches.map(make_label_reader(examples))
        return distribute(tf.data.Dataset.zip(make_inputs(reader, count), labels))
    bounds = np.linspace(0, count, count_batches(reader, count) + 1).astype(int)
    parts = [
        start + np.array(workers.share(stop - start))
        for start, stop in itertools.pairwise(bounds)
    ]
    rows = tf.data.Dataset.from_tensor_slices(np.concatenate(parts))
    labels = rows.batch(reader.batch_size).map(make_label_reader(examples))
    pairs = tf.data.Dataset.zip(reader.read(rows, 0), labels)
    return distribute(pairs.rebatch([len(part) for part in parts]))


def count_batches(reader: Reader, num_examples: int) -> int:
    """Number of batches that `make_dataset` makes of N examples.

    With several workers the others share a smaller last batch, so that each worker has
    examples of every batch: oneDNN fails on none.
    """
    if current_workers().count == 1:
        return -(-num_examples // reader.batch_size)
    return max(1, num_examples // reader.batch_size)


def _in_order(num_examples: int) -> tf.data.Dataset:
    padded = -(-num_examples // num_devices()) * num_devices()
    return tf.data.Dataset.range(padded).map(lambda i: tf.minimum(i, num_examples - 1))


def even_number(num_examples: int) -> int:
    """Returns how many of N examples the devices can share evenly."""
    return num_examples - num_examples % num_devices()


def make_training_dataset(
    reader: Reader,
    examples: Examples,
    *,
    seed: int,
    steps: int,
    epochs: int,
    first_epoch: int = 0,
    view_of_epoch: Callable[[tf.Tensor], tf.Tensor],
    label_smoothing: float = 0.0,
    mix: str = "none",
) -> tf.data.Dataset:
    """Makes the batches of all epochs, each epoch in another order.

    If an epoch has too few steps for all examples, the next epochs continue in the same
    order until each example was used.

    Args:
        reader: Reads the N examples.
        examples: Their labels.
        seed: Seed of the order, together with the index of the epoch.
        steps: Batches per epoch, at most those of all examples.
        epochs: Number of epochs.
        first_epoch: Index of the epoch to start with. Defaults to 0.
        view_of_epoch: Maps the index of an epoch to the view to train on.
        label_smoothing: See `make_label_reader`. Only for training, so that validation
            loss stays the plain cross-entropy.
        mix: `none`, or how to mix images: `mixup` or `cutmix`, see `mix_batch`.
            Defaults to `none`.

    Returns:
        For each epoch `steps` batches of inputs and labels. With several devices, an
        epoch skips the few examples at its end that the devices can't share evenly.
        With several workers, each gets its part of every batch.
    """
    count = len(examples)
    in_epoch = min(even_number(count), steps * reader.batch_size)
    read_labels = make_label_reader(examples, label_smoothing)

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = _draw_order(count, in_epoch, seed, epoch)
        in_order = tf.data.Dataset.from_tensor_slices(order)
        in_order, size = divide(in_order, reader.batch_size)
        inputs = reader.read(in_order, view_of_epoch(epoch), size)
        labels = in_order.batch(size).map(read_labels)
        dataset = tf.data.Dataset.zip(inputs, labels)
        if mix == "none":
            return dataset

        def mix_step(step: tf.Tensor, batch: tuple[tf.Tensor, dict]) -> tuple:
            # Negative: augmentation has the seeds from 0 on, those of the examples.
            seed_of_step = tf.random.fold_in([seed, epoch], -1 - step)
            return mix_batch(*batch, seed_of_step, mix)

        return dataset.enumerate().map(mix_step, num_parallel_calls=tf.data.AUTOTUNE)

    batches = tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)
    return distribute(batches.prefetch(tf.data.AUTOTUNE))


def _draw_order(count: int, in_epoch: int, seed: int, epoch: tf.Tensor) -> tf.Tensor:
    """Draws the examples of an epoch, int64 [in_epoch], from seed and epoch alone.

    Epochs that are too short for all of `count` examples share a pass over them.
    """
    even = even_number(count)
    epochs_per_pass = -(-even // in_epoch)
    order = tf.random.experimental.stateless_shuffle(
        tf.range(count, dtype=tf.int64), [seed, epoch // epochs_per_pass]
    )
    # If a pass ends within an epoch, its first examples are used again.
    done = epoch % epochs_per_pass * in_epoch
    return tf.roll(order[:even], -done, axis=0)[:in_epoch]
