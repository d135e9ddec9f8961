"""Packages of export formats that are not installed."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from keras_ft import cli
from keras_ft.config import flags
from keras_ft.errors import UserError
from keras_ft.jobs.compare import compare
from keras_ft.jobs.train import train


def remove(monkeypatch, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *of: None if name == package else find_spec(name, *of),
    )


@pytest.mark.parametrize(
    ("name", "missing", "package"),
    [
        ("litert_int8", "ai_edge_litert", "ai-edge-litert"),
        ("onnx", "tf2onnx", "tf2onnx"),
        ("onnx", "onnxruntime", "onnxruntime"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_they_are_missed_before_training(
    tiny_config, monkeypatch, name, missing, package
):
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == missing else name
    )
    config = tiny_config.replace(export_formats=("saved_model", name))
    extra = name.partition("_")[0]
    message = rf"_formats={name} needs the package {package}: .*keras_ft\[{extra}\]'"
    with pytest.raises(UserError, match=message):
        train(config)
    with pytest.raises(UserError, match=message):
        compare(config.replace(mode="compare", sweep="dropout=0|0.5"))
    assert not Path(config.run.workdir).exists()


def test_a_run_that_asked_for_them_is_exported_without_them(
    finished_run, tmp_path, monkeypatch, capsys
):
    remove(monkeypatch, "onnxruntime")
    folder = shutil.copytree(finished_run.run.workdir, tmp_path / "run")
    asked = finished_run.replace(export_formats=("saved_model", "onnx"))
    (folder / "flags.cfg").write_text(flags.to_flagfile(asked))
    command = ["", "--mode=export", f"--workdir={folder}"]
    assert cli.main([*command, "--export_formats=onnx,saved_model"]) == 1
    shown = capsys.readouterr()
    assert str(folder / "export" / "saved_model" / "2") in shown.out
    message = "needs the package onnxruntime: pip install 'keras_ft[onnx]'"
    assert message in shown.out
    assert message in shown.err.splitlines()[-1]
    exports = json.loads((folder / "metrics.json").read_text())["exports"]
    assert message in exports["onnx"]["error"]
    assert exports["onnx"]["path"] is None
    assert cli.main([*command, "--export_formats=saved_model"]) == 0
