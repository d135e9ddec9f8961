"""Tests of reading a model.keras that is damaged or was made to do harm."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from keras_ft.api import load_classifier
from keras_ft.errors import UserError

DENSE = '"class_name": "Dense"'
LINEAR = '"activation": "linear"'


def _write(source: Path, target: Path, name: str, old: str, new: str) -> None:
    """Copies a model.keras with a change of one document, empty without `old`."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for entry in before.namelist():
            content = before.read(entry)
            if entry == name:
                assert old.encode() in content
                content = content.replace(old.encode(), new.encode(), 1) if old else b""
            after.writestr(entry, content)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", DENSE, '"class_name": "Unknown"'),
        ("config.json", DENSE, '"class_name": 3'),
        ("config.json", DENSE, '"class_name": "Lambda"'),
        (
            "config.json",
            f'"module": "keras.layers", {DENSE}',
            '"module": "os", "class_name": "system"',
        ),
        ("config.json", LINEAR, '"activation": "unknown"'),
        (
            "config.json",
            LINEAR,
            '"activation": {"module": "builtins", "class_name": "function", '
            '"config": "exit", "registered_name": "function"}',
        ),
        ("config.json", '"units": 3', '"units": 4'),
        ("config.json", '"class_name": "DTypePolicy"', '"class_name": "Unknown"'),
        ("config.json", '"inbound_nodes"', '"unknown"'),
        ("config.json", "{", "[" * 100_000),
        ("model.weights.h5", "", ""),
        ("keras_ft.json", '"blue",', ""),
        ("keras_ft.json", '"image_size": [\n    16', '"image_size": [\n    17'),
        ("keras_ft.json", '"name": "label"', '"name": 5'),
    ],
    ids=range(14),
)
def test_a_model_that_cannot_be_loaded_is_one_line(
    finished_run, tmp_path, name, old, new
):
    path = tmp_path / "model.keras"
    _write(Path(finished_run.run.workdir) / "model.keras", path, name, old, new)
    with pytest.raises(UserError, match="--model can't be read as a model of") as error:
        load_classifier(path)
    assert "\n" not in str(error.value)


def test_a_saved_model_of_other_classes_is_refused(finished_run, tmp_path):
    export = Path(finished_run.run.workdir) / "export" / "saved_model" / "1"
    folder = shutil.copytree(export, tmp_path / "1")
    path = folder / "assets" / "keras_ft.json"
    content = json.loads(path.read_text())
    content["tasks"][0]["class_names"].append("white")
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="label has 4 classes, and there are 3 prob"):
        load_classifier(folder)
