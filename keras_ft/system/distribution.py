"""How devices and workers get their parts of batches, and how iterators end."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.system.team import current_team


def divide(examples: tf.data.Dataset, batch_size: int) -> tuple[tf.data.Dataset, int]:
    """This worker's part of each batch, and how many examples of it are one batch."""
    team = current_team()
    if team.is_alone:
        return examples, batch_size
    index, count = team.workers.index, team.workers.count

    def take_part(batch: tf.Tensor) -> tf.Tensor:
        size = tf.shape(batch)[0]
        return batch[index * size // count : (index + 1) * size // count]

    parts = examples.batch(batch_size).map(take_part)
    return parts.unbatch(), batch_size // count


def distribute(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Passes a worker's parts of batches on as they are.

    Keras would have each worker read all batches and take a part of them. It does
    distribute them over the devices of one machine.
    """
    batches = without_tuning(batches)
    if current_team().is_alone:
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


def over_devices(batches: tf.data.Dataset) -> Any:
    """Spreads each batch over the devices of this machine, for `on_devices`."""
    if not current_team().is_alone:
        return batches
    return tf.distribute.get_strategy().experimental_distribute_dataset(batches)


def on_devices(
    function: Callable[[tf.Tensor], tf.Tensor], batches: tf.data.Dataset
) -> Callable[[Any], tf.Tensor]:
    """Makes a function, from a batch to as many rows, compute on all devices.

    It takes a batch of `over_devices`, of the shape and dtype of `batches`.
    """
    if not current_team().is_alone:
        return tf.function(function, input_signature=[batches.element_spec])
    strategy = tf.distribute.get_strategy()

    @tf.function(input_signature=[over_devices(batches).element_spec])
    def run_everywhere(batch: tf.Tensor) -> tf.Tensor:
        return strategy.run(function, args=(batch,))

    return lambda batch: strategy.gather(run_everywhere(batch), axis=0)


def compute_outputs(model: keras.Model, inputs: tf.data.Dataset) -> Any:
    """The outputs of a model on all batches, as float32 arrays; no worker waits."""
    if current_team().is_alone:
        model.jit_compile = False  # Keras's default on a GPU, where that takes minutes
        return model.predict(inputs, verbose=0)
    # `predict` would have the workers exchange their outputs batch by batch.
    run = tf.function(lambda batch: model(batch, training=False), reduce_retracing=True)
    outputs = [keras.tree.map_structure(np.asarray, run(batch)) for batch in inputs]
    empty = keras.tree.map_structure(
        lambda output: np.zeros([0, *output.shape[1:]], np.float32), model.output
    )
    return keras.tree.map_structure(lambda *rows: np.concatenate(rows), empty, *outputs)


def make_model_to_fit(network: keras.Model) -> keras.Model:
    """A model to compile and fit that shares the layers of a functional network.

    Not one that calls the network: that would cast images to the 16 bits of mixed
    precision before the network sees them.
    """
    kind = keras.Model if current_team().is_alone else WorkerModel
    return kind(network.input, network.output)


class WorkerModel(keras.Model):
    """Avoids two places in which Keras's `fit` fails with several workers.

    See https://github.com/keras-team/keras/issues/20585;
    tests/training/test_workers.py fails when Keras no longer needs it.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras passes a batch of several tensors to a function that takes one. There is
        # nothing to build: the layers and the optimizer are built.
        pass

    def train_step(self, data):
        # Keras takes the mean over an axis that scalars do not have.
        logs = super().train_step(data)
        return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}
