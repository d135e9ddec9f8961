import csv
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import ROOT, TWO_CPUS

from keras_ft.config.config import Config
from keras_ft.data import dataset as data
from keras_ft.errors import UserError
from keras_ft.images import pipeline
from keras_ft.jobs import train
from keras_ft.models.classifier import make_backbone, predict_probabilities
from keras_ft.serving import export

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Weights of a tiny backbone, with statistics that are not the initial ones."""
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(1)
    backbone = make_backbone("tiny", 16)
    for weight in backbone.weights:
        if weight.path.endswith(("gamma", "beta", "moving_mean", "moving_variance")):
            weight.assign(weight + rng.uniform(0, 0.5, weight.shape))
    path = tmp_path_factory.mktemp("weights") / "tiny.weights.h5"
    backbone.save_weights(path)
    return str(path)


@pytest.fixture
def flags(tiny_flags, pretrained):
    """One phase; tests that want phase finetune turn it on."""
    return tiny_flags | {
        "weights": (pretrained,),
        "head_epochs": 2,
        "head_learning_rate": 0.01,
        "finetune_epochs": 0,
        "finetune_learning_rate": 0.01,
        "optimizer": "sgd",  # Adam would enlarge rounding errors
        "schedule": "constant",
        "warmup_epochs": 0,
        "dropout": 0.3,
        "precision": "float32",
    }


def only_finetune(unfreeze):
    return {"head_epochs": 0, "finetune_epochs": 2, "unfreeze": unfreeze}


def fine_tune(flags, workdir, **changes):
    config = Config(**(flags | {"workdir": str(workdir)} | changes))
    metrics = train.train(config)
    return metrics, data.load_splits(config.data, config.run.seed)


def history(workdir):
    """Rows of numbers: all columns but the phase and what depends on the clock."""
    with open(workdir / "history.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = [name for name in rows[0] if name not in ("phase", "seconds")]
    return np.array([[float(row[name]) for name in names] for row in rows])


def losses(workdir):
    with open(workdir / "history.csv", newline="") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


def load(workdir):
    return export.load_model(workdir / "model.keras")[0]


def assert_equal_runs(one, two, atol):
    np.testing.assert_allclose(history(one), history(two), atol=atol)
    for a, b in zip(load(one).weights, load(two).weights, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.fixture
def images_read(monkeypatch):
    """How often images were asked for, as a list of one number."""
    count = [0]
    read = pipeline.ImageReader.read

    def counting_read(self, examples, view):
        count[0] += 1
        return read(self, examples, view)

    monkeypatch.setattr(pipeline.ImageReader, "read", counting_read)
    return count


# --- the cache changes nothing but the time ------------------------------------


@pytest.mark.parametrize(
    "unfreeze", ["none", "from:conv2", pytest.param("from:conv3", marks=slow)]
)
def test_kept_features_train_as_images_do(flags, no_export, tmp_path, caplog, unfreeze):
    flags |= {"augment": "light", "feature_views": 2}
    flags |= {} if unfreeze == "none" else only_finetune(unfreeze)
    on, _ = fine_tune(flags, tmp_path / "on", cache_features="on")
    assert "Features of train: 18 images in 2 views" in caplog.text
    caplog.clear()
    off, _ = fine_tune(flags, tmp_path / "off", cache_features="off")
    assert "Features" not in caplog.text
    assert_equal_runs(tmp_path / "on", tmp_path / "off", atol=1e-5)
    assert on["val"]["loss"] == pytest.approx(off["val"]["loss"], abs=1e-5)
    assert on["test"]["loss"] == pytest.approx(off["test"]["loss"], abs=1e-5)
    assert len(set(losses(tmp_path / "on"))) == 2  # it learned


@pytest.mark.parametrize("views", [1, 2])
def test_a_frozen_network_sees_as_many_views_as_asked_for(
    flags, no_export, tmp_path, views
):
    flags |= {"augment": "light", "feature_views": views, "dropout": 0.0}
    # Where nothing is learned, the loss tells which view an epoch saw.
    flags |= {"head_learning_rate": 1e-9, "head_epochs": 4, "patience": 9}
    fine_tune(flags, tmp_path / "run")
    loss = losses(tmp_path / "run")
    assert loss[2:] == pytest.approx(loss[:2], abs=1e-6)
    assert (abs(loss[0] - loss[1]) > 1e-4) == (views == 2)


def test_images_that_are_read_anew_are_varied_in_each_epoch(flags, no_export, tmp_path):
    flags |= only_finetune("all") | {"augment": "light", "dropout": 0.0}
    flags |= {"finetune_learning_rate": 1e-9, "finetune_epochs": 3, "patience": 9}
    fine_tune(flags, tmp_path / "run")
    loss = np.sort(losses(tmp_path / "run"))
    assert np.diff(loss).min() > 1e-4


def test_features_are_found_by_another_run(
    flags, no_export, tmp_path, caplog, images_read
):
    flags |= {"head_epochs": 1}
    fine_tune(flags, tmp_path / "one")
    assert images_read == [3]  # train, val and test
    caplog.clear()
    fine_tune(flags, tmp_path / "two", head_learning_rate=0.5, dropout=0.0)
    assert images_read == [3]
    assert "Features of train: from the cache" in caplog.text
    assert losses(tmp_path / "one") != losses(tmp_path / "two")


def test_without_room_for_features_it_trains_on_images(
    flags, no_export, tmp_path, caplog
):
    flags |= {"head_epochs": 1, "cache_limit_gb": 1e-9}
    metrics, _ = fine_tune(flags, tmp_path / "run")
    assert "Trains on images, since features can't be cached" in caplog.text
    assert "--cache_limit_gb=1e-09" in caplog.text
    assert list(metrics["phases"]) == ["head"]
    with pytest.raises(UserError, match="--cache_features=on, but .*cache_limit_gb"):
        fine_tune(flags, tmp_path / "on", cache_features="on")


# --- what learns ---------------------------------------------------------------


def test_frozen_stages_keep_every_bit(flags, no_export, tmp_path):
    flags |= only_finetune("from:conv3")
    fine_tune(flags, tmp_path / "run")
    before = make_backbone("tiny", 16)
    before.load_weights(flags["weights"][0])
    after = load(tmp_path / "run").get_layer("tiny")
    same = {
        weight.path: np.array_equal(old, weight)
        for old, weight in zip(before.weights, after.weights, strict=True)
    }
    changed = [path for path, is_same in same.items() if not is_same]
    assert changed == ["conv3_conv/kernel"]  # BatchNorm is fixed everywhere


@slow
def test_folded_batch_norm_learns_the_same(flags, no_export, tmp_path):
    flags |= only_finetune("all")
    fine_tune(flags, tmp_path / "on", fold_batch_norm="on")
    fine_tune(flags, tmp_path / "off", fold_batch_norm="off")
    assert_equal_runs(tmp_path / "on", tmp_path / "off", atol=1e-4)


def test_two_phases_learn_the_same_with_and_without_what_saves_time(
    flags, no_export, tmp_path
):
    flags |= {"finetune_epochs": 2, "unfreeze": "from:conv2"}
    fine_tune(flags, tmp_path / "on", fold_batch_norm="on", cache_features="on")
    fine_tune(flags, tmp_path / "off", fold_batch_norm="off", cache_features="off")
    assert len(losses(tmp_path / "on")) == 4
    assert_equal_runs(tmp_path / "on", tmp_path / "off", atol=1e-4)


# --- precision, XLA, devices ---------------------------------------------------


def test_what_is_trained_in_bfloat16_is_saved_in_float32(flags, tmp_path):
    flags |= {"finetune_epochs": 2, "unfreeze": "from:conv2"}
    flags |= {"precision": "mixed_bfloat16"}
    metrics, splits = fine_tune(flags, tmp_path / "run")
    assert keras.config.dtype_policy().name == "float32"
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["precision"] == "mixed_bfloat16"

    model = load(tmp_path / "run")
    layers = [model, *model._flatten_layers(include_self=False)]
    assert {layer.dtype_policy.name for layer in layers} == {"float32"}
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}

    for name in ("val", "test"):
        of = getattr(splits, name)
        inputs = pipeline.make_inputs(pipeline.ImageReader(of, 16, 8), len(of))
        probabilities = predict_probabilities(model, inputs, len(of))
        of_label = probabilities[np.arange(len(of)), of.labels]
        expected = pytest.approx(-np.log(of_label).mean(), abs=1e-6)
        assert metrics[name]["loss"] == expected
    assert metrics["export_difference"] < 1e-5

    # It did compute in bfloat16, and so do the losses that it watched.
    watched = min(row[4] for row in history(tmp_path / "run"))  # val_loss
    assert 1e-6 < abs(watched - metrics["val"]["loss"]) < 0.05


def test_xla_trains_the_same(flags, no_export, tmp_path):
    flags |= only_finetune("from:conv2") | {"dropout": 0.0}
    fine_tune(flags, tmp_path / "on", jit="on")
    fine_tune(flags, tmp_path / "off", jit="off")
    assert_equal_runs(tmp_path / "on", tmp_path / "off", atol=1e-4)


# Splits of 18, 6 and 6 images; the last batches have 2, 6 and 6.
EVEN = {
    "head_epochs": 1,
    "batch_size": 8,
    "finetune_epochs": 2,
    "finetune_learning_rate": 0.3,
}
# Of 15, 6 and 9 images: one is too many for two devices.
ODD = {"head_epochs": 2, "finetune_epochs": 0, "schedule": "constant"}
ODD |= {"val_fraction": 0.2, "test_fraction": 0.3}
TWO_DEVICES = (
    TWO_CPUS
    + """import helpers, test_phase
helpers.leave_out_export(setattr)
flags = json.loads(sys.argv[2])
flags["weights"] = tuple(flags["weights"])
test_phase.fine_tune(flags, sys.argv[3], strategy="mirrored")
"""
)


def kept_features(cache):
    arrays = [np.load(path) for path in cache.glob("features/*/features.npy")]
    return sorted(arrays, key=lambda a: (a.shape, float(a[0, 0].sum())))


def run_on_two_devices(flags, workdir):
    # Another process: devices are fixed when TensorFlow starts, and a process stands
    # no second MirroredStrategy.
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(here), json.dumps(flags), str(workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Strategy: mirrored over /device:CPU:0, /device:CPU:1" in done.stderr


def test_two_devices_train_as_one(flags, no_export, tmp_path):
    flags |= {"unfreeze": "from:conv2", "schedule": "cosine", "dropout": 0.0} | EVEN
    run_on_two_devices(flags, tmp_path / "two")
    two = kept_features(tmp_path / "cache")
    fine_tune(flags, tmp_path / "one", cache_dir=str(tmp_path / "cache of one"))
    assert_equal_runs(tmp_path / "one", tmp_path / "two", atol=1e-3)
    one = kept_features(tmp_path / "cache of one")
    assert len(one) == 6
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("cache_features", ["on", pytest.param("off", marks=slow)])
def test_two_devices_predict_every_one_of_an_odd_number(
    flags, no_export, tmp_path, cache_features
):
    flags |= {"batch_size": 14, "cache_features": cache_features} | ODD
    run_on_two_devices(flags, tmp_path / "two")
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    rows = metrics["test"]["per_class"].values()
    assert sum(row["support"] for row in rows) == metrics["num_examples"]["test"] == 9
    model, _ = export.load_model(tmp_path / "two" / "model.keras")
    config = Config(**flags)
    test = data.load_splits(config.data, config.run.seed).test
    inputs = pipeline.make_inputs(pipeline.ImageReader(test, 16, 8), len(test))
    probabilities = predict_probabilities(model, inputs, len(test))
    of_label = probabilities[np.arange(len(test)), test.labels]
    loss = metrics["test"]["loss"]
    assert loss == pytest.approx(-np.log(of_label).mean(), rel=1e-4)
