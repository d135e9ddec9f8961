"""The heads of a classifier: one Dense layer per task, from features to logits."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.kinds.task import Task
from keras_ft.system.devices import num_devices
from keras_ft.system.distribution import compute_outputs

_FORBIDDEN = re.compile(r"[^\w.-]", re.ASCII)


def make_heads(features: keras.KerasTensor, tasks: Sequence[Task]) -> Any:
    """Adds one head per task: to logits float32 [B, K], of several tasks a dict."""
    logits = {}
    for task in tasks:
        name, num_classes = layer_name("head", task, tasks), len(task.class_names)
        head = keras.layers.Dense(num_classes, dtype="float32", name=name)
        logits[task.name] = head(features)
    return _unpack_only(logits)


def apply_heads(
    classifier: keras.Model, tasks: Sequence[Task], features: keras.KerasTensor
) -> dict[str, keras.KerasTensor]:
    """Dropout, heads, temperatures: from features [B, D] to logits float32 [B, K]."""
    layers = {layer.name: layer for layer in classifier.layers}
    dropout = layers["dropout"]
    if num_devices() > 1:
        dropout = _DropoutOfBatch(dropout)
    features = dropout(features)
    logits = {}
    for task in tasks:
        x = layers[layer_name("head", task, tasks)](features)
        temperature = layers.get(layer_name("temperature", task, tasks))
        logits[task.name] = temperature(x) if temperature else x
    return logits


def get_heads(
    model: keras.Model, tasks: Sequence[Task]
) -> dict[str, keras.layers.Dense]:
    """The heads by task of a classifier, or of what `split` makes of it."""
    return {t.name: model.get_layer(layer_name("head", t, tasks)) for t in tasks}


class _DropoutOfBatch(keras.layers.Layer):
    """Dropout whose mask does not depend on the number of devices.

    Each device draws that of the whole batch, and takes the rows of its part.
    """

    def __init__(self, dropout: keras.layers.Dropout):
        super().__init__(name="dropout_of_batch", dtype=dropout.dtype_policy)
        self.dropout = dropout

    def call(self, features: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return features
        size = tf.shape(features)[0]
        ones = tf.ones([size * num_devices(), features.shape[-1]], features.dtype)
        mask = self.dropout(ones, training=True)
        start = size * tf.distribute.get_replica_context().replica_id_in_sync_group
        return features * mask[start : start + size]


def set_temperatures(
    classifier: keras.Model, tasks: Sequence[Task], temperatures: Mapping[str, float]
) -> keras.Model:
    """A model that shares a classifier's layers, and divides its logits by numbers.

    The classifier may have other temperatures; see `calibration.fit_temperature`.
    """
    logits = {}
    for task in tasks:
        name, scale = layer_name("temperature", task, tasks), temperatures[task.name]
        divide = keras.layers.Rescaling(1 / scale, name=name, dtype="float32")
        head = classifier.get_layer(layer_name("head", task, tasks))
        logits[task.name] = divide(head.output)
    return keras.Model(classifier.input, _unpack_only(logits), name=classifier.name)


def get_temperatures(model: keras.Model, tasks: Sequence[Task]) -> dict[str, float]:
    """The temperature of each task in a model; 1 where there is none."""
    layers = {layer.name: layer for layer in model.layers}
    found = {t.name: layers.get(layer_name("temperature", t, tasks)) for t in tasks}
    return {t: 1 / float(layer.scale) if layer else 1.0 for t, layer in found.items()}


def predict_probabilities(
    model: keras.Model, tasks: Sequence[Task], inputs: tf.data.Dataset, count: int
) -> dict[str, np.ndarray]:
    """Computes class probabilities float32 [N, K] by task, as its kind has them.

    The inputs are batches of `pipeline.make_inputs`, of N = `count` examples.
    """
    logits = compute_outputs(model, inputs)
    if not isinstance(logits, dict):
        logits = {tasks[0].name: logits}
    probabilities = {}
    for task in tasks:
        of_task = logits[task.name]
        if not 0 <= len(of_task) - count < num_devices():
            raise RuntimeError(f"{len(of_task)} predictions for {count} examples")
        activated = task.kind.activate(of_task[:count])
        probabilities[task.name] = keras.ops.convert_to_numpy(activated)
    return probabilities


def select_task(model: keras.Model, task: Task) -> keras.Model:
    """A model from the same input to the logits [B, K] of one task, without others."""
    if not isinstance(model.output, dict):
        return model
    heads = model.layers[-1]
    if isinstance(heads, keras.Model):  # as `fold_classifier` makes it
        network = model.layers[-2]
        head = keras.Model(heads.input, heads.output[task.name])
        return keras.Model(network.input, head(network.output))
    return keras.Model(model.input, model.output[task.name])


def layer_name(prefix: str, task: Task, tasks: Sequence[Task]) -> str:
    """The name of a task's layer `head` or `temperature`."""
    if len(tasks) == 1:
        return prefix
    # A name of TensorFlow has ASCII letters, digits and few other characters.
    return f"{prefix}_{_FORBIDDEN.sub(lambda found: f'_{ord(found[0])}_', task.name)}"


def _unpack_only(by_task: dict[str, Any]) -> Any:
    """The value of the only task, or a dict of several."""
    return by_task if len(by_task) > 1 else next(iter(by_task.values()))
