import json

import pytest

from keras_ft.catalog.backbones import Weights
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import FORMAT_VERSION, RunRecord, load_record, write_record

ATTEMPT = {"weights": "imagenet", "error": "offline"}
RECORD = RunRecord(
    state="finished",
    weights=Weights("starter", "/w.h5", "ab12", (ATTEMPT,)),
    epochs={"head": 3, "finetune": 2},
    precision="mixed_bfloat16",
    devices=("/physical_device:CPU:0",),
    packages={"keras": "3.15.1", "keras_ft": None},
    onednn=False,
    exported={"saved_model": 2, "onnx": 1},
)


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path)


def test_a_record_is_read_as_it_was_written(paths):
    assert load_record(paths) is None
    write_record(paths, RECORD)
    assert load_record(paths) == RECORD
    assert RECORD.format_version == FORMAT_VERSION


def test_a_record_of_before_there_were_versions_has_version_0(paths):
    write_record(paths, RECORD)
    content = json.loads(paths.record.read_text())
    del content["format_version"], content["exported"], content["onednn"]
    paths.record.write_text(json.dumps(content))
    record = load_record(paths)
    assert (record.format_version, record.exported) == (0, {})
    assert record.onednn is None
    for exported, expected in ((0, {}), (3, {"saved_model": 3})):
        paths.record.write_text(json.dumps(content | {"exported": exported}))
        assert load_record(paths).exported == expected
    assert (record.weights, record.epochs) == (RECORD.weights, RECORD.epochs)
