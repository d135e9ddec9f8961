"""Trained network -> LiteRT, ONNX and OpenVINO.

The networks take images float32 [N, H, W, 3] in [0, 255] of the size of the network,
any N, under the name `image`, and return the probabilities float32 [N, K] of each task,
see `kinds.task.name_field`.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from keras_ft.catalog.archive import Description, append_description, to_json
from keras_ft.catalog.formats import FORMATS
from keras_ft.extras.formats.descriptions import KEY
from keras_ft.extras.formats.preprocessing_files import write_preprocessing
from keras_ft.kinds.task import Task, name_field

INPUT = "image"
_Graph: TypeAlias = tf.types.experimental.ConcreteFunction


def trace(model: keras.Model, tasks: Sequence[Task]) -> _Graph:
    """The graph that is converted, of a float32 model from `fold_classifier`."""

    def compute(image: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = model(image, training=False)
        answers = {task: task.kind.activate(logits[task.name]) for task in tasks}
        return {name_field("probabilities", t, tasks): answers[t] for t in answers}

    images = tf.TensorSpec([None, *model.input_shape[1:]], tf.float32, name=INPUT)
    function = tf.function(compute, input_signature=[images], autograph=False)
    # Keras compiles grouped convolutions with XLA, which ONNX does not have; so they
    # become part of the graph instead.
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return function.get_concrete_function()
    finally:
        tf.config.run_functions_eagerly(before)


def _write_litert(
    network: _Graph, description: Description, folder: Path, weights: str
) -> None:
    """Writes a LiteRT model with the signature `serving_default`.

    Of the `weights` `int8`, products are int8, too, with scales of the features that
    the runtime finds for each batch ("dynamic range").
    """
    module = tf.Module()
    module.weights = list(network.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([network], module)
    if weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    path = folder / FORMATS["litert"].file
    path.write_bytes(converter.convert())
    append_description(path, description)


def _write_onnx(network: _Graph, description: Description, folder: Path) -> None:
    """Writes an ONNX model.

    `keras.Model.export(format="onnx")` of Keras 3.15 is not used: it writes files with
    inputs that nothing fills, where a layer has captured constants.
    """
    import onnx
    import tf2onnx

    frozen = convert_variables_to_constants_v2(network)
    names = [INPUT, *sorted(network.structured_outputs)]
    inputs = [tensor.name for tensor in frozen.inputs]
    outputs = [tensor.name for tensor in frozen.outputs]
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # tf2onnx calls functions that it should not
    try:
        model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            name="classifier",
            input_names=inputs,
            output_names=outputs,
            tensors_to_rename=dict(zip([*inputs, *outputs], names, strict=True)),
            custom_op_handlers={"Erfc": (_convert_erfc, [])},
        )
    finally:
        logger.setLevel(level)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, {KEY: to_json(description)})
    onnx.save(model, folder / FORMATS["onnx"].file)


def _convert_erfc(context: Any, node: Any, name: str, _args: Any) -> None:
    """erfc(x) = 1 - erf(x): ONNX has only the latter. TensorFlow's GELU uses erfc."""
    erf = context.insert_new_node_on_input(node, "Erf", node.input[0])
    one = context.make_const(f"{name}_one", np.float32(1))
    node.type = "Sub"
    context.replace_inputs(node, [one.output[0], erf.output[0]])


def _write_openvino(network: _Graph, description: Description, folder: Path) -> None:
    """Writes an OpenVINO model, float32."""
    import openvino

    model = openvino.convert_model(network)
    model.set_rt_info(to_json(description), [KEY])
    path = folder / FORMATS["openvino"].file
    openvino.save_model(model, path, compress_to_fp16=False)


def _make_writer(write: Callable[..., None], **options: Any) -> Callable[..., None]:
    """Makes a `Format.write`, which also writes how to make the network's pixels."""

    def write_with_preprocessing(
        model: keras.Model, description: Description, folder: Path
    ) -> None:
        write(trace(model, description.tasks), description, folder, **options)
        write_preprocessing(description.preprocessing, folder)

    return write_with_preprocessing


write_litert = _make_writer(_write_litert, weights="float32")
write_litert_float16 = _make_writer(_write_litert, weights="float16")
write_litert_int8 = _make_writer(_write_litert, weights="int8")
write_onnx = _make_writer(_write_onnx)
write_openvino = _make_writer(_write_openvino)
