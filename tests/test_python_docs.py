"""The examples of docs/python.md run, one after the other, as a notebook would."""

import contextlib
import re
import sys
import types

import numpy as np
import pytest
from helpers import COLOURS, ROOT, write_images

import keras_ft


def read_examples():
    text = (ROOT / "docs" / "python.md").read_text()
    return re.findall(
        r"<!-- python -->\n```python\n(.*?)```\n<!-- end -->", text, re.DOTALL
    )


@pytest.fixture
def mlflow(monkeypatch):
    """Stands in for the package."""
    module = types.ModuleType("mlflow")
    module.logged = []
    module.start_run = contextlib.nullcontext
    module.log_params = module.logged.append
    module.log_metric = lambda name, value: module.logged.append({name: value})
    module.log_metrics = lambda values, step: module.logged.append(values)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def test_the_examples_run(write_module, tmp_path, monkeypatch, mlflow, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))  # as in a notebook
    for name, colour in COLOURS.items():
        write_images(tmp_path / name, colour, 10)
        (tmp_path / "shapes").mkdir(exist_ok=True)
        for path in (tmp_path / name).iterdir():
            path.rename(tmp_path / "shapes" / f"{name}_{path.name}")
    names = {}
    for example in read_examples():
        module = re.match(r"# (\w+)\.py\n", example)
        if module:
            write_module(module[1], example)
        else:
            exec(example, names)
    assert "finetune 0 " in capsys.readouterr().out
    assert not (tmp_path / "runs/callbacks/export").exists()
    assert not (tmp_path / "runs/callbacks/report.html").exists()
    [_, of_epoch, accuracy] = mlflow.logged
    assert of_epoch.keys() >= {"finetune/loss", "finetune/val_macro_f1"}
    assert 0 <= accuracy["test_accuracy"] <= 1
    metrics = keras_ft.fine_tune(names["own"])  # finished
    assert list(metrics["phases"]) == ["head", "finetune"]
    assert metrics["weights_used"] == "preset"
    flags = (tmp_path / "runs/own/flags.cfg").read_text()
    assert "--backbone=py:my_code:network\n--weights=preset" in flags
    assert names["metrics"]["class_names"] == ["blue", "green", "red"]
    np.testing.assert_allclose(names["answers"][1:], names["answers"][:2], rtol=1e-5)
