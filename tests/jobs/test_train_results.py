"""What a run ends in: one tiny run whose labels can't all be learned."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import sklearn.metrics
from helpers import COLOURS, write_images
from report_helpers import HtmlPage

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.settings import Config
from keras_ft.data import dataset as data
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.jobs import export as export_job
from keras_ft.jobs import train
from keras_ft.models.heads import predict_probabilities
from keras_ft.models.trained import load_trained
from keras_ft.models.weights import load_backbone


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Config, splits and metrics of a run that required too much accuracy."""
    folder = tmp_path_factory.mktemp("results")
    images = folder / "images"
    for name in ("blue", "red"):
        write_images(images / name, COLOURS[name], 190)
    for i in range(40):  # one in five has the wrong label
        one, other = images / "blue" / f"{i}.png", images / "red" / f"{i}.png"
        shutil.move(one, folder / "swap.png")
        shutil.move(other, one)
        shutil.move(folder / "swap.png", other)
    config = Config(
        data=str(images),
        workdir=str(folder / "run"),
        cache_dir=str(folder / "cache"),
        backbone="tiny",
        weights=("none",),
        image_size=16,
        val_fraction=0.3,
        finetune_epochs=8,
        finetune_learning_rate=0.03,
        assert_accuracy_at_least=0.99,
    )
    metrics = train.train(config)
    return config, data.load_splits(config.data, config.run.seed), metrics


def config_folder(config):
    return Path(config.run.workdir)


def test_metrics_are_those_of_the_calibrated_model(run):
    config, splits, metrics = run
    calibration = metrics["calibration"]
    assert calibration["temperature"] not in (1.0, 0.5, 5.0)
    model, description = load_trained(config_folder(config) / "model.keras")
    [task] = description.tasks
    for name in ("val", "test"):
        of = getattr(splits, name)
        inputs = make_inputs(ImageReader(of, Preprocessing(16, 16), 32), range(len(of)))
        predicted = predict_probabilities(model, [task], inputs, len(of))
        probabilities = predicted["label"]
        loss = sklearn.metrics.log_loss(of.labels, probabilities)
        assert metrics[name]["loss"] == pytest.approx(loss, abs=1e-5)
        raw = task.kind.rescale(probabilities, 1 / calibration["temperature"])
        before = sklearn.metrics.log_loss(of.labels, raw)
        assert calibration["before"][name]["loss"] == pytest.approx(before, abs=1e-5)
        assert metrics["phases"]["finetune"][name]["loss"] == pytest.approx(
            before, abs=1e-5
        )
        low, high = metrics[name]["accuracy_interval"]
        assert low < metrics[name]["accuracy"] < high
    assert metrics["val"]["loss"] < calibration["before"]["val"]["loss"]
    json.dumps(metrics, allow_nan=False)


def test_the_threshold_is_reported_with_what_it_gives(run):
    config, splits, metrics = run
    threshold = metrics["threshold"]
    assert threshold["class_name"] == "red"
    model, description = load_trained(config_folder(config) / "model.keras")
    tasks = description.tasks
    inputs = make_inputs(
        ImageReader(splits.test, Preprocessing(16, 16), 32), range(len(splits.test))
    )
    probabilities = predict_probabilities(model, tasks, inputs, len(splits.test))
    predicted = probabilities["label"][:, 1] >= threshold["value"]
    assert threshold["test"]["precision"] == pytest.approx(
        sklearn.metrics.precision_score(splits.test.labels, predicted)
    )
    assert threshold["test"]["balanced_accuracy"] == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(splits.test.labels, predicted)
    )


def test_nothing_is_exported_below_the_required_accuracy(run):
    config, splits, metrics = run
    folder = config_folder(config)
    assert metrics["test"]["accuracy"] < 0.99
    assert metrics["exports"] == {}
    assert not list(folder.glob("export/saved_model/*"))
    # By word of the user, the calibrated model is.
    [row] = export_job.export(config.replace(mode="export")).values()
    assert (folder / row["path"] / "saved_model.pb").exists()


def test_backbone_weights_start_another_run(run):
    config, _, _ = run
    path = config_folder(config) / "backbone.weights.h5"
    backbone, weights = load_backbone("tiny", (16, 16), (str(path),))
    assert weights.used == str(path)
    model = keras.models.load_model(config_folder(config) / "model.keras")
    trained = model.get_layer("tiny").get_weights()
    for mine, theirs in zip(backbone.get_weights(), trained, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_report_shows_flags_record_and_history_of_the_workdir(run):
    config, _, _ = run
    page = HtmlPage((config_folder(config) / "report.html").read_text())
    assert page.has("--finetune_epochs=8")
    assert page.has("Precision float32")
    # Loss, accuracy, ROC, precision and recall, reliability.
    assert len(page.images("svg")) == 5
