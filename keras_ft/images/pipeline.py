"""Examples to batched `tf.data` pipelines.

A reader reads the inputs of given examples: `ImageReader` decodes image files,
`FeatureReader` takes cached features. The order of the examples and their augmentation
are functions of (seed, epoch, example), and how they are mixed of (seed, epoch, step),
so they do not depend on what ran before or on the number of threads.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.data.examples import Examples
from keras_ft.host import user_code
from keras_ft.images.augment import augment_image
from keras_ft.images.decode import decode_image, resize, separate_function
from keras_ft.images.decoded import DecodedImages, room_for_images
from keras_ft.images.labels import make_label_reader
from keras_ft.images.mix import mix_batch
from keras_ft.images.user_augment import load_augment
from keras_ft.system.devices import num_devices
from keras_ft.system.distribution import distribute, divide, without_tuning


@dataclasses.dataclass(eq=False)
class ImageReader:
    """Reads images from their files.

    Attributes:
        split: N examples.
        preprocessing: Height S and width T, and how images get them.
        batch_size: B.
        augment: `none`, `light` or `strong`, see `augment_image`; or the reference of a
            function of the user's, see `load_augment`.
        mirror: Whether augmentation mirrors half of the views.
        seed: Seed of the augmentation.
        augmentation: `augment`, and the hash of the source of the user's function.
        decoded: Keeps the images of all views but 0; None: each view decodes its own.
    """

    split: Examples
    preprocessing: Preprocessing
    batch_size: int
    augment: str = "none"
    mirror: bool = False
    seed: int = 0
    decoded: DecodedImages | None = None

    def __post_init__(self) -> None:
        self.augmentation = self.augment
        if self.augment.startswith(user_code.PREFIX):
            self._augment_of_user = load_augment(self.augment, self.preprocessing.size)
            self.augmentation += f" {user_code.source_of(self.augment)}"
        # Bytes: a file name need not be valid UTF-8. Converted here and not in `read`,
        # where all names would become part of the graph of the dataset.
        self._files = tf.constant([os.fsencode(file) for file in self.split.files])

    def read(
        self,
        examples: tf.data.Dataset,
        view: tf.Tensor | int,
        batch_size: int | None = None,
    ) -> tf.data.Dataset:
        """Reads one view of examples: batches float32 [B, S, T, 3] in [0, 255].

        View 0 is the plain image; each other view is one augmentation of it, the same
        each time it is read. The last batch may be smaller.
        """
        view = tf.cast(view, tf.int32)

        def load(example: tf.Tensor) -> tf.Tensor:
            fit = self.preprocessing

            def decode() -> tf.Tensor:
                return _decode_file(tf.gather(self._files, example))

            if self.augment == "none" and not self.decoded:
                return resize(decode(), fit)
            seed = tf.random.fold_in([self.seed, view], example)

            def augment() -> tf.Tensor:
                kept = self.decoded
                pixels = kept.get(example, decode) if kept else decode()
                if self.augment == "none":
                    return resize(pixels, fit)
                if self.augment.startswith(user_code.PREFIX):
                    return self._augment_of_user(resize(pixels, fit), seed)
                return augment_image(pixels, seed, self.augment, self.mirror, fit)

            return tf.cond(view > 0, augment, lambda: resize(decode(), fit))

        checked = self._check_files(examples)
        images = checked.map(load, num_parallel_calls=os.cpu_count())
        return images.batch(batch_size or self.batch_size)

    def _check_files(self, examples: tf.data.Dataset) -> tf.data.Dataset:
        """Ends with an error where TensorFlow would wait for ever, at a FIFO."""

        files = self.split.files  # TensorFlow never frees `check`

        def check(batch: np.ndarray) -> np.ndarray:
            for file in files[batch]:
                # A missing file is reported where it is read.
                if os.path.exists(file) and not os.path.isfile(file):
                    raise ValueError(f"{file} is not a regular file")
            return batch

        def check_batch(batch: tf.Tensor) -> tf.Tensor:
            checked = tf.numpy_function(check, [batch], tf.int64, stateful=False)
            return tf.ensure_shape(checked, [None])

        # In batches, since Python takes longer for each call than for each file.
        checked = examples.batch(self.batch_size).map(check_batch).unbatch()
        # Unbatching forgets how many there are, which Keras would warn of.
        count = tf.get_static_value(examples.cardinality())
        if count is None or count == tf.data.UNKNOWN_CARDINALITY:
            return checked
        return checked.apply(tf.data.experimental.assert_cardinality(count))


@dataclasses.dataclass(frozen=True)
class FeatureReader:
    """Reads cached features, float16 or float32 [V, N, ...]: V views of N examples."""

    features: np.ndarray
    batch_size: int

    def read(
        self,
        examples: tf.data.Dataset,
        view: tf.Tensor | int,
        batch_size: int | None = None,
    ) -> tf.data.Dataset:
        """Reads one view of examples: batches float32 [B, ...]."""
        view = tf.cast(view, tf.int64)

        def gather(batch: np.ndarray, view: np.ndarray) -> np.ndarray:
            return self.features[view][batch].astype(np.float32)

        def load(batch: tf.Tensor) -> tf.Tensor:
            rows = tf.numpy_function(gather, [batch, view], tf.float32, stateful=False)
            return tf.ensure_shape(rows, [None, *self.features.shape[2:]])

        batches = examples.batch(batch_size or self.batch_size)
        return batches.map(load, num_parallel_calls=tf.data.AUTOTUNE)


Reader = ImageReader | FeatureReader

_decode_file = separate_function(lambda file: decode_image(tf.io.read_file(file)))


def make_inputs(
    reader: Reader, rows: range, view: int = 0, keep: bool = False
) -> tf.data.Dataset:
    """Makes batches of one view of some examples, in order; nothing is dropped.

    With several devices, copies of the last example are appended until the devices can
    share the examples evenly. With `keep`, images are decoded once and kept in memory,
    if there is room for all of them.
    """
    padded = -(-len(rows) // num_devices()) * num_devices()
    indices = tf.data.Dataset.range(rows.start, rows.start + padded)
    in_order = indices.map(lambda i: tf.minimum(i, rows.stop - 1))
    inputs = reader.read(in_order, view)
    if keep and isinstance(reader, ImageReader):
        height, width = reader.preprocessing.size
        if 4 * 3 * height * width * padded <= room_for_images():
            inputs = inputs.cache()
    return without_tuning(inputs.prefetch(tf.data.AUTOTUNE))


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
        reader: Reads the inputs.
        examples: Their labels.
        seed: Seed of the order, together with the index of the epoch.
        steps: Batches per epoch, at most those of all examples.
        epochs: The index of the last epoch + 1.
        first_epoch: The index of the epoch to start with.
        view_of_epoch: Maps the index of an epoch to the view to train on.
        label_smoothing: See `make_label_reader`. Only for training, so that validation
            loss stays the plain cross-entropy.
        mix: `none`, `mixup` or `cutmix`, see `mix_batch`.

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
