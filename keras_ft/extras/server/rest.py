"""Answers as TensorFlow Serving's REST interface has them.

See https://www.tensorflow.org/tfx/serving/api_rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_ft.extras.server.parse import INPUT, SIGNATURE
from keras_ft.kinds.task import Task, name_field


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
        "inputs": {INPUT: _describe(INPUT, "")},
        "outputs": {name: _describe(name, value) for name, value in row.items()},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {
            "signature_def": {"signature_def": {SIGNATURE: signature}},
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
