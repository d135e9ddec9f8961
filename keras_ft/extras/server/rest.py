"""TensorFlow Serving's REST interface: JSON <-> images and answers.

See https://www.tensorflow.org/tfx/serving/api_rest.
"""

import base64
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from keras_ft.extras.server.batching import MAX_WAITING
from keras_ft.kinds.task import Task, name_field

_INPUT = "image_bytes"
_SIGNATURE = "serving_default"


BadRequest = functools.partial(HTTPException, 400)


def parse_request(body: bytes) -> tuple[list[bytes], bool]:
    """Reads the body of a `:predict` request.

    In its JSON, `instances` is a list of images, or `inputs`, each as `{"b64": ...}` or
    `{"image_bytes": {"b64": ...}}`.

    Returns:
        The images, and whether the answer has a row for each (`instances`) or a
        column for each output (`inputs`).
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The body must be JSON: {error}") from error
    if not isinstance(content, dict) or not {"instances", "inputs"} & set(content):
        raise BadRequest('The body must have "instances" or "inputs", a list of images')
    if content.get("signature_name", _SIGNATURE) not in (_SIGNATURE, ""):
        raise BadRequest(f'"signature_name" must be "{_SIGNATURE}" or left out')
    in_rows = "instances" in content
    images = content["instances" if in_rows else "inputs"]
    if isinstance(images, dict) and set(images) == {_INPUT}:
        images = images[_INPUT]
    if not isinstance(images, list) or not 0 < len(images) <= MAX_WAITING:
        raise BadRequest(f"A request must have a list of 1 to {MAX_WAITING} images")
    return [_decode(image, i) for i, image in enumerate(images)], in_rows


def _decode(image: Any, index: int) -> bytes:
    if isinstance(image, dict) and set(image) == {_INPUT}:
        image = image[_INPUT]
    match image:
        case {"b64": str(text)} if len(image) == 1:
            try:
                return base64.b64decode(text, validate=True)
            except ValueError as error:
                raise BadRequest(f"Image {index} is not base64: {error}") from error
    raise BadRequest(
        f'Image {index} must be {{"b64": "..."}}, a base64-encoded image file'
    )


def make_answer(
    tasks: Sequence[Task],
    probabilities: Sequence[Mapping[str, np.ndarray]],
    in_rows: bool,
) -> dict[str, Any]:
    """The body of the answer, with the outputs of the signature `serving_default`.

    Probabilities are float32 [K] by task; `in_rows` is what `parse_request` returned.
    """
    rows = [_make_row(tasks, one) for one in probabilities]
    if in_rows:
        return {"predictions": rows}
    return {"outputs": {name: [row[name] for row in rows] for name in rows[0]}}


def _make_row(
    tasks: Sequence[Task], probabilities: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    return {
        name_field(name, task, tasks): value
        for task in tasks
        for name, value in task.kind.answer(task, probabilities[task.name]).items()
    }


def make_status(version: int) -> dict[str, Any]:
    """The body of `/v1/models/NAME`."""
    status = {"error_code": "OK", "error_message": ""}
    one = {"version": str(version), "state": "AVAILABLE", "status": status}
    return {"model_version_status": [one]}


def make_metadata(name: str, version: int, tasks: Sequence[Task]) -> dict[str, Any]:
    """The body of `/v1/models/NAME/metadata`: the signature, and the classes."""
    nothing = {task.name: np.zeros(len(task.class_names)) for task in tasks}
    row = _make_row(tasks, nothing)
    signature = {
        "inputs": {_INPUT: _describe(_INPUT, "")},
        "outputs": {name: _describe(name, value) for name, value in row.items()},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {
            "signature_def": {"signature_def": {_SIGNATURE: signature}},
            "tasks": [
                {"name": t.name, "kind": t.kind.name, "class_names": t.class_names}
                for t in tasks
            ],
        },
    }


def _describe(name: str, value: Any) -> dict[str, Any]:
    """An input or output, given its value for one image."""
    sizes = [{"size": str(size), "name": ""} for size in (-1, *np.shape(value))]
    return {
        "dtype": "DT_STRING" if isinstance(value, str) else "DT_FLOAT",
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": name,
    }
