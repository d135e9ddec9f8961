"""The formats that a trained model is exported to; it needs no TensorFlow."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from keras_ft.host.packages import require

SAVED_MODEL = "saved_model"


@dataclasses.dataclass(frozen=True)
class Format:
    """How a format is written, read and checked; functions are `module:function`."""

    file: str  # in the folder of a version; identifies the format
    write: str  # writes a folded network with a `Description` into an empty folder
    load: str  # from what `find_model` finds to a `Classifier`
    describe: str  # likewise, to its `Description`; needs no TensorFlow
    # What is imported to write and to run it, besides TensorFlow, and the extra of this
    # package that installs it.
    packages: tuple[str, ...] = ()
    extra: str = ""
    # Largest difference of a probability that rounding explains; 1 where weights are
    # rounded, so that only answers are compared.
    tolerance: float = 1.0


def _extra(name: str, file: str, packages: str, tolerance: float) -> Format:
    """A format of `keras_ft.extras`."""
    folder, extra = "keras_ft.extras.formats", name.partition("_")[0]
    return Format(
        file,
        f"{folder}.converters:write_{name}",
        f"{folder}.runtimes:load_classifier",
        f"{folder}.descriptions:read_{extra}",
        tuple(packages.split()),
        extra,
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
    "litert": _extra("litert", "model.tflite", "ai_edge_litert", 1e-2),
    "litert_float16": _extra("litert_float16", "model.tflite", "ai_edge_litert", 1.0),
    "litert_int8": _extra("litert_int8", "model.tflite", "ai_edge_litert", 1.0),
    "onnx": _extra("onnx", "model.onnx", "onnx onnxruntime tf2onnx", 1e-2),
    "openvino": _extra("openvino", "model.xml", "openvino", 1e-2),
}
SUFFIXES = (".keras", ".tflite", ".onnx", ".xml")  # of model files


def find_format(path: Path) -> Format:
    """The format of what `find_model` found, if it is an export."""
    of_files = {Path(row.file).suffix: row for row in FORMATS.values()}
    return of_files.get(path.suffix, FORMATS[SAVED_MODEL])


def check_installed(formats: Iterable[str]) -> None:
    """Raises a UserError if a package that one of the formats needs is missing."""
    for name in formats:
        for package in FORMATS[name].packages:
            require(f"--export_formats={name}", package, FORMATS[name].extra)
