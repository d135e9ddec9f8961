"""Reads the descriptions in converted models; it needs no TensorFlow."""

from pathlib import Path
from xml.etree import ElementTree

from keras_ft.catalog.archive import Description, from_json, read_description
from keras_ft.host.packages import require

# The name of the document in the metadata of ONNX and OpenVINO.
KEY = "keras_ft"

read_litert = read_description


def read_onnx(path: Path) -> Description:
    """See `archive.find_description`."""
    require(f"--model={path}", "onnxruntime", "onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.graph_optimization_level = level
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # it has a class of its own for each kind of damage
        raise ValueError(str(error)) from error
    return from_json(session.get_modelmeta().custom_metadata_map[KEY])


def read_openvino(path: Path) -> Description:
    """See `archive.find_description`."""
    try:
        found = ElementTree.parse(path).find(f"rt_info/{KEY}")
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    if found is None:
        raise KeyError(KEY)
    return from_json(found.attrib["value"])
