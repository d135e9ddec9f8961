"""Which part of each batch a worker gets, and how devices get theirs."""

import tensorflow as tf

from keras_ft.system.collectives import current_workers
from keras_ft.system.devices import num_devices


def divide(examples: tf.data.Dataset, batch_size: int) -> tuple[tf.data.Dataset, int]:
    """Takes this worker's part of each batch of examples.

    Args:
        examples: int64 scalars.
        batch_size: B. Worker w of n takes the w-th n-th of a batch.

    Returns:
        The examples of this worker, and how many of them are one batch.
    """
    workers = current_workers()
    if workers.count == 1:
        return examples, batch_size

    def take_part(batch: tf.Tensor) -> tf.Tensor:
        size = tf.shape(batch)[0]
        start = workers.index * size // workers.count
        return batch[start : (workers.index + 1) * size // workers.count]

    parts = examples.batch(batch_size).map(take_part)
    return parts.unbatch(), batch_size // workers.count


def distribute(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Passes a worker's parts of batches on as they are.

    Keras would have each worker read all batches and take a part of them. It does
    distribute them over the devices of one machine.
    """
    if num_devices() == 1:
        return batches
    # See `devices._end_iterators_at_once`.
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = batches.with_options(options)
    if current_workers().count == 1:
        return batches
    strategy = tf.distribute.get_strategy()
    return strategy.distribute_datasets_from_function(lambda _: batches)
