import json

import pytest

from keras_ft.catalog.backbones import Weights
from keras_ft.errors import UserError
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
)


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path)


def test_a_record_is_read_as_it_was_written(paths):
    assert load_record(paths) == RunRecord()
    write_record(paths, RECORD, "running")
    assert RECORD.state == "running"
    assert load_record(paths) == RECORD
    assert RECORD.format_version == FORMAT_VERSION


def test_a_record_of_before_there_were_versions_has_version_0(paths):
    write_record(paths, RECORD, "finished")
    content = json.loads(paths.record.read_text())
    del content["format_version"], content["onednn"]
    paths.record.write_text(json.dumps(content | {"exported": {"saved_model": 2}}))
    record = load_record(paths)
    assert record.format_version == 0
    assert record.onednn is None
    assert (record.weights, record.epochs) == (RECORD.weights, RECORD.epochs)


def test_a_new_run_decides_and_a_resumed_one_recalls(paths):
    new = RunRecord()
    assert new.onednn == "auto"
    assert new.decide("precision", lambda: "float32") == "float32"
    assert new.weights_to_try(["a", "b"]) == ("a", "b")
    assert new.check_weights(Weights("b", "/b.h5", "ab12")).used == "b"
    write_record(paths, new, "running")

    resumed = load_record(paths)
    assert resumed.decide("precision", lambda: 1 / 0) == "float32"
    assert resumed.weights_to_try(["a", "b"]) == ("b",)
    assert resumed.check_weights(Weights("b", "/b.h5", "ab12")) == new.weights
    with pytest.raises(
        UserError, match="other weights of --weights=b: SHA-256 ab12. R"
    ):
        resumed.check_weights(Weights("b", "/b.h5", "cd34"))


@pytest.mark.parametrize(
    "change", [{"state": "new"}, {"precision": "x"}, {"onednn": "x"}, {"onednn": [1]}]
)
def test_what_no_version_has_written_is_one_line(paths, change):
    write_record(paths, RECORD, "finished")
    content = json.loads(paths.record.read_text())
    paths.record.write_text(json.dumps(content | change))
    with pytest.raises(UserError, match="run.json is damaged: .*--overwrite"):
        load_record(paths)
