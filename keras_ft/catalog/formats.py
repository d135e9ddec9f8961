"""The formats that a trained model is exported to; it needs no TensorFlow."""

import dataclasses
import importlib.util
from collections.abc import Iterable

from keras_ft.errors import UserError

SAVED_MODEL = "saved_model"


@dataclasses.dataclass(frozen=True)
class Format:
    """How a format is stored and checked.

    Attributes:
        file: The file in the folder of a version that identifies the format.
        packages: What is imported to write and to run it, besides TensorFlow.
        extra: The extra of this package that installs them.
        tolerance: Largest difference of a probability that rounding explains; 1 where
            weights are rounded, so that only answers are compared.
    """

    file: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    tolerance: float = 1.0


def _litert(tolerance: float) -> Format:
    return Format("model.tflite", ("ai_edge_litert",), "litert", tolerance)


# Other runtimes may run on another device than the Keras model, whose GPU may compute
# products with ten bits of precision.
FORMATS = {
    SAVED_MODEL: Format("saved_model.pb", tolerance=1e-4),
    "litert": _litert(1e-2),
    "litert_float16": _litert(1.0),
    "litert_int8": _litert(1.0),
    "onnx": Format("model.onnx", ("onnx", "onnxruntime", "tf2onnx"), "onnx", 1e-2),
    "openvino": Format("model.xml", ("openvino",), "openvino", 1e-2),
}
# The endings of model files; a SavedModel is a folder.
SUFFIXES = (".keras", ".tflite", ".onnx", ".xml")


def check_installed(formats: Iterable[str]) -> None:
    """Checks, without importing them, that the packages for some formats are there.

    Raises:
        UserError: One is not; the message has the line that installs it.
    """
    for name in formats:
        for package in FORMATS[name].packages:
            if importlib.util.find_spec(package) is None:
                raise missing(f"--export_formats={name}", package, FORMATS[name].extra)


def missing(feature: str, package: str, extra: str) -> UserError:
    """The error about a package that is not installed."""
    name = package.replace("_", "-")
    return UserError(
        f"{feature} needs the package {name}: pip install 'keras_ft[{extra}]'"
    )
