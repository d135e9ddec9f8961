"""The heads of a trained classifier as the start of another one's."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_ft.host.text import hint_alike
from keras_ft.kinds.task import Task
from keras_ft.models.heads import layer_name

log = logging.getLogger("keras_ft")


@dataclasses.dataclass(frozen=True)
class TrainedHead:
    """What a head computes: features [D] times kernel [D, K], plus bias [K]."""

    task: Task
    kernel: np.ndarray
    bias: np.ndarray


def read_heads(
    classifier: keras.Model, tasks: Sequence[Task]
) -> dict[str, TrainedHead]:
    """Reads the heads of a classifier by task, each with its temperature in it.

    So the logits are those of the saved model, and the temperature that the next run
    fits is not one on top of another.
    """
    layers = {layer.name: layer for layer in classifier.layers}
    heads = {}
    for task in tasks:
        kernel, bias = layers[layer_name("head", task, tasks)].get_weights()
        temperature = layers.get(layer_name("temperature", task, tasks))
        scale = np.float32(temperature.scale if temperature else 1)
        heads[task.name] = TrainedHead(task, scale * kernel, scale * bias)
    return heads


def copy_heads(
    heads: Mapping[str, TrainedHead], classifier: keras.Model, tasks: Sequence[Task]
) -> None:
    """Gives a new classifier the weights of the classes that trained heads have, too.

    Those of other classes, and of tasks without a trained head, stay as they were
    initialised. If both have one task, its name does not matter.
    """
    if len(heads) == len(tasks) == 1:
        heads = {tasks[0].name: next(iter(heads.values()))}
    for task in tasks:
        head = heads.get(task.name)
        if head and head.task.kind == task.kind:
            _copy(head, classifier.get_layer(layer_name("head", task, tasks)), task)
            log.info("weights: %s.", _describe(head, task, len(tasks) > 1))
        elif heads:
            log.info("weights: the head of %s is new.", task.name)


def _copy(head: TrainedHead, layer: keras.Layer, task: Task) -> None:
    kernel, bias = map(np.array, layer.get_weights())
    known = [name for name in task.class_names if name in head.task.class_names]
    to = [task.class_names.index(name) for name in known]
    of = [head.task.class_names.index(name) for name in known]
    kernel[:, to], bias[to] = head.kernel[:, of], head.bias[of]
    layer.set_weights([kernel, bias])


def _describe(head: TrainedHead, task: Task, is_named: bool) -> str:
    before, now = head.task.class_names, task.class_names
    new = [name for name in now if name not in before]
    gone = [name for name in before if name not in now]
    name = f" of {task.name}" if is_named else ""
    text = f"the head{name} has {len(now) - len(new)} of {len(now)} classes"
    if new:
        text += f", new: {', '.join(new)}"
    if gone:
        text += f", left out: {', '.join(gone)}"
    return text + hint_alike(new, gone)
