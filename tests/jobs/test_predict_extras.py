"""Features and heatmaps beside the rows of predictions."""

import functools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers import make_task, read_table
from PIL import Image

from keras_ft.catalog.archive import Description
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs.predict import predict
from keras_ft.kinds.task import MULTILABEL
from keras_ft.models.classifier import make_backbone, make_classifier
from keras_ft.models.trained import load_trained
from keras_ft.serving import model_files, trained_classifier

_load_once = functools.cache(trained_classifier.load_classifier)


@pytest.fixture(autouse=True)
def load_once(monkeypatch):
    """Loads each model once, which takes most of the time of predict here."""
    monkeypatch.setattr(trained_classifier, "load_classifier", _load_once)


@pytest.fixture
def run(finished_run):
    """The workdir of a finished run."""
    return Path(finished_run.run.workdir)


@pytest.fixture
def call(run, image_folder, tmp_path):
    """Predicts images; relative paths of files to write are in `tmp_path`."""

    def call(data=image_folder, model=run, **flags):
        paths = {"output": "out.csv"} | flags
        for name in ("output", "features", "heatmaps"):
            if paths.get(name):
                paths[name] = str(tmp_path / paths[name])
        flags = {"batch_size": 4} | paths
        predict(Config(mode="predict", model=model, data=data, **flags))

    return call


def compute_features(run, files):
    """The input of the head, by Keras."""
    model, _ = load_trained(run / "model.keras")
    pooled = tf.keras.Model(model.input, model.get_layer("dropout").input)
    pixels = [tf.io.decode_image(Path(file).read_bytes()) for file in files]
    resized = tf.image.resize(tf.stack(pixels), (16, 16), antialias=True)
    return pooled(resized, training=False).numpy()


def test_features_are_rows_in_order_and_errors_are_nan(
    call, run, image_folder, tmp_path
):
    (image_folder / "red" / "0.png").write_bytes(b"no image")
    call(features="x.npy")
    rows = read_table(tmp_path / "out.csv")
    features = np.load(tmp_path / "x.npy")
    assert features.shape == (30, 32)
    assert features.dtype == np.float32
    bad = [i for i, row in enumerate(rows) if row["error"]]
    assert np.flatnonzero(np.isnan(features).any(axis=1)).tolist() == bad
    assert np.isnan(features[bad]).all()
    good = [i for i in range(30) if i not in bad]
    expected = compute_features(run, [rows[i]["path"] for i in good])
    np.testing.assert_allclose(features[good], expected, atol=1e-4)

    call(model=run / "export" / "saved_model", features="y.npy", output="y.csv")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), features, atol=1e-4)
    assert [row["class_name"] for row in read_table(tmp_path / "y.csv")] == [
        row["class_name"] for row in rows
    ]


def test_heatmaps_are_one_image_per_row(call, image_folder, tmp_path):
    odd = image_folder / "red" / ("\n ß$" + 40 * "ab" + ".png")
    (image_folder / "red" / "1.png").rename(odd)
    (image_folder / "red" / "0.png").write_bytes(b"no image")
    call(heatmaps="maps")
    rows = read_table(tmp_path / "out.csv")
    files = sorted((tmp_path / "maps").iterdir())
    numbers = [int(file.name[:8]) for file in files]
    assert numbers == [i for i, row in enumerate(rows, 1) if not row["error"]]
    for file in files:
        with Image.open(file) as image:
            assert image.size == (20, 24)
    with Image.open(files[0]) as image, Image.open(rows[0]["path"]) as original:
        assert np.abs(np.asarray(image, int) - np.asarray(original)).mean() > 5
    assert files[0].name == "00000001_0.jpg"


def test_several_tasks_have_a_heatmap_each(call, image_folder, tmp_path):
    tasks = (
        make_task(3, name="a>b"),
        make_task(2, name="a_b", kind=MULTILABEL, thresholds=(0.5, 0.5)),
    )
    model = make_classifier(make_backbone("tiny", (16, 16)), tasks, dropout=0.0)
    path = tmp_path / "tasks.keras"
    model_files.write_model(
        model, Description(tasks, Preprocessing(16, 16, "pad")), path
    )
    call(image_folder / "red", path, heatmaps="maps", features="x.npy")
    names = {file.name for file in (tmp_path / "maps").iterdir()}
    assert len(names) == 20
    assert {"00000001_0_1_a_b.jpg", "00000001_0_2_a_b.jpg"} <= names
    assert np.load(tmp_path / "x.npy").shape == (10, 32)


def test_what_exists_is_kept(call, tmp_path):
    (tmp_path / "x.npy").write_text("mine")
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "mine").touch()
    with pytest.raises(UserError, match="--features must not exist"):
        call(features="x.npy")
    with pytest.raises(UserError, match="--heatmaps must be a new or empty folder"):
        call(heatmaps="maps")
    assert (tmp_path / "x.npy").read_text() == "mine"
    call(features="x.npy", heatmaps="maps", overwrite=True)
    assert np.load(tmp_path / "x.npy").shape == (30, 32)
    assert (tmp_path / "maps" / "mine").exists()


def test_models_that_cannot_are_one_line(call, run, tmp_path, monkeypatch):
    saved_model = run / "export" / "saved_model" / "1"
    with pytest.raises(UserError, match="--heatmaps needs a workdir or a model.keras"):
        call(model=saved_model, heatmaps="maps")
    old = trained_classifier.load_classifier(saved_model)
    old = trained_classifier.Classifier(old.tasks, old.serve, old.serve_pixels)
    monkeypatch.setattr(trained_classifier, "load_classifier", lambda _: old)
    with pytest.raises(UserError, match="signature features"):
        call(model=saved_model, features="x.npy")
    with pytest.raises(UserError, match="--features must lie in a folder"):
        call(features="nowhere/x.npy")
    assert not list(tmp_path.glob("*x.npy*"))
    assert not list(tmp_path.glob("out.csv*"))


def test_other_modes_have_neither(tmp_path):
    for flags in ({"features": "x.npy"}, {"heatmaps": "maps"}):
        with pytest.raises(UserError, match="needs --mode=predict"):
            Config(mode="evaluate", model="m", data="d", **flags)
    with pytest.raises(UserError, match=r"must end in \.npy"):
        Config(mode="predict", model="m", data="d", features="x.csv")
