"""The formats that a trained model is exported to; it needs no TensorFlow."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from keras_ft.host.packages import require

SAVED_MODEL = "saved_model"


@dataclasses.dataclass(frozen=True)
class Format:
    """How a format is written, read and checked.

    Functions are `module:function`, for `pkgutil.resolve_name`.

    Attributes:
        file: The file in the folder of a version that identifies the format.
        write: The function of a folded network, its `Description` and an empty folder
            that writes it there.
        load: From what `find_model` finds to a `Classifier`.
        describe: From the same to its `Description`; needs no TensorFlow.
        packages: What is imported to write and to run it, besides TensorFlow.
        extra: The extra of this package that installs them.
        tolerance: Largest difference of a probability that rounding explains; 1 where
            weights are rounded, so that only answers are compared.
    """

    file: str
    write: str
    load: str
    describe: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    tolerance: float = 1.0


_EXTRAS = "keras_ft.extras.formats"


def _litert(writer: str, tolerance: float) -> Format:
    return Format(
        "model.tflite",
        f"{_EXTRAS}.converters:{writer}",
        f"{_EXTRAS}.runtimes:load_classifier",
        "keras_ft.catalog.archive:read_description",
        ("ai_edge_litert",),
        "litert",
        tolerance,
    )


# Other runtimes may run on another device than the Keras model, whose GPU may compute
# products with ten bits of precision.
FORMATS = {
    SAVED_MODEL: Format(
        "saved_model.pb",
        "keras_ft.serving.model_files:write_saved_model",
        "keras_ft.serving.trained_classifier:load_saved_model",
        "keras_ft.catalog.archive:read_asset",
        tolerance=1e-4,
    ),
    "litert": _litert("write_litert", 1e-2),
    "litert_float16": _litert("write_litert_float16", 1.0),
    "litert_int8": _litert("write_litert_int8", 1.0),
    "onnx": Format(
        "model.onnx",
        f"{_EXTRAS}.converters:write_onnx",
        f"{_EXTRAS}.runtimes:load_classifier",
        f"{_EXTRAS}.descriptions:read_onnx",
        ("onnx", "onnxruntime", "tf2onnx"),
        "onnx",
        1e-2,
    ),
    "openvino": Format(
        "model.xml",
        f"{_EXTRAS}.converters:write_openvino",
        f"{_EXTRAS}.runtimes:load_classifier",
        f"{_EXTRAS}.descriptions:read_openvino",
        ("openvino",),
        "openvino",
        1e-2,
    ),
}
# The endings of model files; a SavedModel is a folder.
SUFFIXES = (".keras", ".tflite", ".onnx", ".xml")


def find_format(path: Path) -> Format:
    """The format of what `find_model` found, if it is an export."""
    of_files = {Path(row.file).suffix: row for row in FORMATS.values()}
    return of_files.get(path.suffix, FORMATS[SAVED_MODEL])


def check_installed(formats: Iterable[str]) -> None:
    """Raises a UserError if a package that one of the formats needs is missing."""
    for name in formats:
        for package in FORMATS[name].packages:
            require(f"--export_formats={name}", package, FORMATS[name].extra)
