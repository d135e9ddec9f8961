"""Images that a model has seen are recognised anywhere."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import read_table, write_images

from keras_ft.catalog.backbones import Weights
from keras_ft.config.schema import DataConfig
from keras_ft.data.dataset import load_headers
from keras_ft.errors import UserError
from keras_ft.host.files import compute_digest
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord, write_record
from keras_ft.runs.seen import leave_out_seen, warn_of_seen
from keras_ft.runs.split_tables import write_splits


def load(data):
    return load_headers(DataConfig(data=str(data), cache_dir="cache"))


def write_run(name, data, weights=None):
    """A workdir whose run had the first two images of each class in train."""
    folder = Path("runs", name)
    (folder / "export" / "saved_model" / "1").mkdir(parents=True)
    (folder / "model.keras").write_text("a model")
    dataset = load(data)
    splits = [
        {"0": "train", "1": "train", "2": "val"}.get(Path(path).stem, "test")
        for path in dataset.examples.paths
    ]
    dataset.examples.splits[:] = splits
    write_splits(folder / "splits.csv", dataset)
    start = Weights("none")
    if weights:
        source = str(Path(weights).absolute())
        start = Weights(weights, source, compute_digest(Path(weights), "sha256"))
    record = RunRecord(weights=start, precision="float32")
    write_record(RunPaths(folder), record, "finished")
    return folder.absolute() / "model.keras"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The model of a run on `photos`: of 4 images 1 is test, of each of two classes."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos" / "red", (200, 0, 0), 4)
    write_images(tmp_path / "photos" / "blue", (0, 0, 200), 4)
    return write_run("a", "photos")


def leave_out(data, model):
    return leave_out_seen(load(data).examples, Path(model), Path("cache"))


def left(data, model):
    """The names of the images that the model has not seen."""
    examples, _ = leave_out(data, model)
    return sorted(f"{Path(p).parent.name}/{Path(p).stem}" for p in examples.files)


UNSEEN = ["blue/3", "red/3"]


def test_seen_images_are_recognised_wherever_they_are(model, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    os.symlink("../photos", "link")
    shutil.copytree("../photos", "copy")
    for data in ("../photos", tmp_path / "photos", "link", "copy", "./copy/"):
        assert left(data, model) == UNSEEN
    shutil.move("../photos", "moved")
    assert left("moved", model) == UNSEEN
    assert left("moved", model.parent / "export" / "saved_model" / "1") == UNSEEN
    # Under another name, and as one of several images with the same bytes.
    os.rename("moved/red/0.png", "moved/red/x.png")
    shutil.copy("moved/red/1.png", "moved/red/y.png")
    assert left("moved", model) == UNSEEN


def test_a_model_that_is_a_link_has_the_splits_of_its_run(model, tmp_path):
    os.symlink(model, tmp_path / "best.keras")
    os.symlink(model.parent, tmp_path / "latest")
    assert left("photos", tmp_path / "best.keras") == UNSEEN
    assert left("photos", tmp_path / "latest" / "model.keras") == UNSEEN


def test_a_table_with_paths_relative_to_it(model, tmp_path):
    rows = [f"{c}/{i}.png,{c}" for c in ("red", "blue") for i in range(4)]
    (tmp_path / "photos" / "t.csv").write_text("\n".join(["path,label", *rows]))
    assert left("photos/t.csv", model) == UNSEEN


def make_old(splits):
    rows = [f"{r['path']},{r['label']},{r['split']}" for r in read_table(splits)]
    splits.write_text("\n".join(["path,label,split", *rows]))


def test_a_splits_csv_of_an_earlier_version(model, tmp_path, monkeypatch):
    make_old(model.parent / "splits.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # As long as its images are there, their content is compared.
    shutil.copytree("../photos", "copy")
    for data in ("../photos", "copy"):
        assert left(data, model) == UNSEEN
    assert leave_out("copy", model)[1] == []
    shutil.rmtree("../photos")
    examples, [warning] = leave_out("copy", model)
    assert len(examples) == 8
    assert "none of them is there: images that were moved count as new" in warning


def test_what_is_not_known_is_said(model, tmp_path, caplog):
    caplog.set_level("INFO", "keras_ft")
    write_images(tmp_path / "new" / "red", (9, 9, 9), 2)
    assert left("new", model) == ["red/0", "red/1"]
    assert "trained or selected on none of the 2 images" in caplog.text
    (tmp_path / "lone.keras").write_text("a model")
    _, [warning] = leave_out("photos", tmp_path / "lone.keras")
    assert "There is no splits.csv of a run with" in warning
    # Another image in the place of one that was seen is new.
    shutil.copyfile("new/red/0.png", "photos/red/0.png")
    assert left("photos", model) == ["blue/3", "red/0", "red/3"]
    _, [warning] = leave_out("photos", model)
    assert warning.endswith("but other content, count as new: 1 of 8.")


def test_only_seen_images_are_an_error(model):
    for name in ("red", "blue"):
        os.remove(f"photos/{name}/3.png")
    with pytest.raises(UserError, match="only images that .*splits.csv lists"):
        left("photos", model)


def test_images_of_the_runs_that_a_model_began_with_are_seen(
    model, tmp_path, monkeypatch
):
    write_images(tmp_path / "more" / "red", (100, 0, 0), 4)
    last = write_run("b", "more", weights=str(model.relative_to(tmp_path)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert left("../photos", last) == UNSEEN
    assert left("../more", last) == ["red/3"]
    dataset = load("../photos")
    dataset.examples.splits[:] = "test"
    [warning] = warn_of_seen(dataset, Weights("runs/b", str(last)), Path("cache"))
    assert "too good: 4 of 8 images in val and test are ones" in warning
    model.write_text("of a run that has replaced the first")
    assert left("../photos", last) != UNSEEN
    for state in ("is another file now", "is gone"):
        _, [warning] = leave_out("../more", last)
        assert warning.startswith(f"{model}, with which")
        assert f"{state}: images that it was trained on can't be told" in warning
        model.unlink(missing_ok=True)


def test_a_copy_of_a_model_without_its_splits_is_a_warning(model, tmp_path):
    copy = shutil.copy(model, tmp_path / "copy.keras")
    last = write_run("b", "photos", weights=str(copy))
    expected = f"There is no splits.csv of a run with {copy}: images that it was"
    for weights, warned in (
        (Weights("copy.keras", str(copy)), True),
        (Weights("runs/b", str(last)), True),
        (Weights("download.h5", str(tmp_path / "download.h5")), False),
        (Weights("imagenet", str(copy)), False),
    ):
        dataset = load("photos")
        dataset.examples.splits[:] = "unused"
        warnings = warn_of_seen(dataset, weights, Path("cache"))
        assert [text.startswith(expected) for text in warnings] == [True] * warned


def test_examples_of_sets_are_recognised_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    table = "path,label,split\nbuiltin:faces/7,face,train\nbuiltin:faces/8,face,test\n"
    Path("set/splits.csv").write_text(table)
    dataset = load("builtin:faces")
    # Another version of a package may write their files otherwise.
    dataset.facts["digest"] = np.void(bytes(32))
    dataset.examples.splits[:] = "test"
    weights = Weights("set", "set/model.keras")
    [warning] = warn_of_seen(dataset, weights, Path("cache"))
    assert "1 of 200 images in val and test are ones" in warning
