"""How workers and devices get their parts of batches, and how iterators end."""

import tensorflow as tf

from keras_ft.system.collectives import current_workers


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
    batches = without_tuning(batches)
    if current_workers().count == 1:
        return batches
    strategy = tf.distribute.get_strategy()
    return strategy.distribute_datasets_from_function(lambda _: batches)


def without_tuning(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Turns the tuning of tf.data off, so that iterators end at once.

    The thread that tunes sleeps for twice as long each time, and TensorFlow 2.21 often
    waits for it when the iterator ends: for as long again as the iterator was used.
    What `AUTOTUNE` stands for is then fixed, at most 16 calls at a time.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
