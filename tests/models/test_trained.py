"""Tests of reading a model.keras that is damaged or was made to do harm."""

import contextlib
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
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


def test_no_file_is_written_outside_of_an_archive(finished_run, tmp_path):
    path = tmp_path / "folder" / "model.keras"
    path.parent.mkdir()
    shutil.copy(Path(finished_run.run.workdir) / "model.keras", path)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../outside", "assets/../../outside", f"{tmp_path}/outside"):
            archive.writestr(name, "content")
    with contextlib.suppress(UserError):
        load_classifier(path)
    assert [file.name for file in tmp_path.rglob("*")] == ["folder", "model.keras"]


def test_weights_that_lie_in_another_file_are_refused(finished_run, tmp_path):
    """Else a model would show what is in a file of its user's."""
    path = tmp_path / "model.keras"
    model = keras.models.load_model(Path(finished_run.run.workdir) / "model.keras")
    model.save_weights(tmp_path / "secret.weights.h5")
    shutil.copy(tmp_path / "secret.weights.h5", tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5", "a") as file:
        names: list[str] = []
        file.visititems(
            lambda name, item: names.append(name) if hasattr(item, "shape") else None
        )
        for name in names:
            del file[name]
            file[name] = h5py.ExternalLink(tmp_path / "secret.weights.h5", name)
    content = (tmp_path / "model.weights.h5").read_bytes()
    source = Path(finished_run.run.workdir) / "model.keras"
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            is_weights = name == "model.weights.h5"
            after.writestr(name, content if is_weights else before.read(name))
    with pytest.raises(UserError, match="--model can't be read"):
        load_classifier(path)


def test_a_saved_model_of_other_classes_is_refused(finished_run, tmp_path):
    export = Path(finished_run.run.workdir) / "export" / "saved_model" / "1"
    folder = shutil.copytree(export, tmp_path / "1")
    path = folder / "assets" / "keras_ft.json"
    content = json.loads(path.read_text())
    content["tasks"][0]["class_names"].append("white")
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="label has 4 classes, and there are 3 prob"):
        load_classifier(folder)
