"""Tests of reading a metrics.json that is damaged."""

import json

import pytest
from helpers import run_metrics

from keras_ft.errors import UserError
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.run_metrics import read_metrics

WHOLE = run_metrics(0.25)


def _change(**changes):
    return json.dumps(WHOLE | changes).encode()


def _without(key, **changes):
    return json.dumps({k: v for k, v in WHOLE.items() if k != key} | changes).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        _change()[:200],
        b"[]",
        b"3",
        b"null",
        b'{"test": {}}',
        b"\xff\xfe" + _change(),
        b"[" * 100_000,
        _change(test=None),
        _change(test={"accuracy": 1.0}),
        _change(test=WHOLE["test"] | {"accuracy": float("nan")}),
        _change(test=WHOLE["test"] | {"accuracy": "1"}),
        _change(test={k: v for k, v in WHOLE["test"].items() if k != "per_class"}),
        _change(exports={"onnx": {}}),
        _change(seconds=4.0),
        _change(num_examples=[8]),
        _change(num_examples={"train": 8, "val": 50}),
        _change(seconds={"data": 1.0}),
        _change(monitor="val_speed"),
        _change(model_bytes=10**400),
        _change(test=WHOLE["test"] | {"accuracy_interval": [0.5]}),
        _change(calibration=WHOLE["calibration"] | {"before": {}}),
        _without("calibration"),
        _without("class_names"),
        _without("class_names", tasks={"a": {}}),
    ],
    ids=range(25),
)
def test_a_damaged_file_is_one_line(tmp_path, content):
    paths = RunPaths(tmp_path)
    paths.metrics.write_bytes(content)
    with pytest.raises(UserError, match=r"metrics.json is damaged: .*--overwrite") as e:
        read_metrics(paths)
    assert "\n" not in str(e.value)


def test_a_folder_or_a_missing_file_is_one_line(tmp_path):
    paths = RunPaths(tmp_path)
    with pytest.raises(UserError, match="metrics.json is damaged"):
        read_metrics(paths)
    paths.metrics.mkdir()
    with pytest.raises(UserError, match="damaged: it is no file"):
        read_metrics(paths)


def test_a_whole_file_is_read(tmp_path):
    paths = RunPaths(tmp_path)
    paths.metrics.write_bytes(_change())
    assert read_metrics(paths) == WHOLE
