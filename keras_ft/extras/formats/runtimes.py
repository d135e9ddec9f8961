"""Runs exported networks in their own runtimes: LiteRT, ONNX Runtime, OpenVINO."""

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ft.catalog.archive import find_description
from keras_ft.host.packages import require
from keras_ft.images.decode import decode_and_resize, resize
from keras_ft.serving.signatures import check_sizes
from keras_ft.serving.trained_classifier import Classifier

# From images float32 [N, H, W, 3] in [0, 255] to probabilities float32 [N, K] by name,
# see `kinds.task.name_field`.
Network = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def load_classifier(path: Path) -> Classifier:
    """Loads a network that takes pixels of one size, as training decodes them."""
    description: Any = find_description(path)  # only a SavedModel may have none
    compute, preprocessing = load_network(path), description.preprocessing
    try:
        answer = compute(np.zeros((1, *preprocessing.size, 3), np.float32))
    except Exception as error:  # each runtime has its own kinds
        raise ValueError(f"it can't compute: {error}") from error
    check_sizes(
        {name: row.shape[-1] for name, row in answer.items()}, description.tasks
    )

    decode = tf.function(
        lambda images: decode_and_resize(images, preprocessing), autograph=False
    ).get_concrete_function(tf.TensorSpec([None], tf.string))

    def serve(image_bytes: tf.Tensor) -> Mapping[str, np.ndarray]:
        return compute(decode(image_bytes).numpy())

    def serve_pixels(image: np.ndarray) -> Mapping[str, np.ndarray]:
        if image.shape[1:3] == preprocessing.size:
            return compute(np.asarray(image, np.float32))
        return compute(resize(image, preprocessing).numpy())

    return Classifier(description.tasks, serve, serve_pixels, None, preprocessing)


def load_network(path: Path) -> Network:
    """Reads a network of a .tflite, .onnx or .xml file; several threads may call it.

    Raises ValueError if it can't be read, and UserError without its runtime.
    """
    load, package, extra = _RUNTIMES[path.suffix]
    require(f"--model={path}", package, extra)
    try:
        run = load(path)
    except Exception as error:  # each runtime has its own kinds
        raise ValueError(str(error)) from error
    lock = threading.Lock()  # each uses all processors; two of them are not thread-safe

    def compute(images: np.ndarray) -> Mapping[str, np.ndarray]:
        with lock:
            return run(images)

    return compute


def _load_litert(path: Path) -> Network:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=os.cpu_count())
    run = interpreter.get_signature_runner("serving_default")
    return lambda images: run(image=images)


def _load_onnx(path: Path) -> Network:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(
        zip(names, session.run(names, {"image": images}), strict=True)
    )


def _load_openvino(path: Path) -> Network:
    import openvino

    # By default it computes in bfloat16 where the processor can.
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", settings)
    names = [output.any_name for output in model.outputs]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        answer = model([images])
        return {name: answer[name] for name in names}

    return run


_RUNTIMES: dict[str, tuple[Callable[[Path], Network], str, str]] = {
    ".tflite": (_load_litert, "ai_edge_litert", "litert"),
    ".onnx": (_load_onnx, "onnxruntime", "onnx"),
    ".xml": (_load_openvino, "openvino", "openvino"),
}
