import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from phase_helpers import (
    assert_equal_runs,
    compute_loss,
    fine_tune,
    history,
    load,
    losses,
    only_finetune,
)
from tensorflow.python.framework import config  # the public API only turns it on

from keras_ft.errors import UserError
from keras_ft.images import pipeline
from keras_ft.models.classifier import make_backbone
from keras_ft.training import features

slow = pytest.mark.slow


def test_cached_features_and_folding_change_nothing_but_the_time(
    flags, no_export, tmp_path, caplog, monkeypatch
):
    flags |= {"finetune_epochs": 2, "unfreeze": "from:conv2"}
    flags |= {"augment": "light", "feature_views": 2}
    on, off = (
        fine_tune(flags, tmp_path / name, cache_features=name)[0]
        for name in ("on", "off")
    )
    assert "Features of train: 18 images in 2 views" in caplog.text
    assert caplog.text.count("Features of train") == 2  # of both phases, with cache
    assert_equal_runs(tmp_path / "on", tmp_path / "off", atol=1e-5)
    for split in ("val", "test"):
        assert on[split]["loss"] == pytest.approx(off[split]["loss"], abs=1e-5)
    assert len(set(losses(tmp_path / "on"))) == 4  # it learned

    fine_tune(flags, tmp_path / "plain", cache_features="off", fold_batch_norm="off")
    assert_equal_runs(tmp_path / "on", tmp_path / "plain", atol=1e-4)

    # Another run finds the features of the head; no image is read.
    caplog.clear()
    monkeypatch.setattr(pipeline.ImageReader, "read", None)
    fine_tune(flags | {"finetune_epochs": 0}, tmp_path / "two", head_learning_rate=0.5)
    assert "Features of train: from the cache" in caplog.text
    assert losses(tmp_path / "two")[:2] != losses(tmp_path / "on")[:2]


@slow
@pytest.mark.parametrize(
    ("unfreeze", "changed", "atol"),
    [("from:conv3", "cache_features", 1e-5), ("all", "fold_batch_norm", 1e-4)],
)
def test_other_stages_learn_the_same(
    flags, no_export, tmp_path, unfreeze, changed, atol
):
    flags |= only_finetune(unfreeze) | {"augment": "light"}
    flags |= {"feature_views": 2} if changed == "cache_features" else {}
    for value in ("on", "off"):
        fine_tune(flags, tmp_path / value, **{changed: value})
    assert_equal_runs(tmp_path / "on", tmp_path / "off", atol)


@pytest.mark.parametrize("views", [1, 2])
def test_a_frozen_network_sees_the_requested_number_of_views(
    flags, no_export, tmp_path, views
):
    flags |= {"augment": "light", "feature_views": views, "dropout": 0.0}
    # Where nothing is learned, the loss depends on the view of the epoch only.
    flags |= {"head_learning_rate": 1e-9, "head_epochs": 4, "patience": 9}
    fine_tune(flags, tmp_path / "run")
    loss = losses(tmp_path / "run")
    assert loss[2:] == pytest.approx(loss[:2], abs=1e-6)
    assert (abs(loss[0] - loss[1]) > 1e-4) == (views == 2)


def test_images_are_augmented_differently_in_each_epoch(flags, no_export, tmp_path):
    flags |= only_finetune("all") | {"augment": "light", "dropout": 0.0}
    flags |= {"finetune_learning_rate": 1e-9, "finetune_epochs": 3, "patience": 9}
    fine_tune(flags, tmp_path / "run")
    loss = np.sort(losses(tmp_path / "run"))
    assert np.diff(loss).min() > 1e-4


def test_images_are_mixed_only_where_no_part_is_frozen(
    flags, no_export, tmp_path, caplog
):
    flags |= {"head_epochs": 1, "finetune_epochs": 1, "finetune_learning_rate": 1e-9}
    fine_tune(flags, tmp_path / "none")
    assert "--mix" not in caplog.text
    # The cache makes no difference.
    fine_tune(flags, tmp_path / "cutmix", mix="cutmix", cache_features="off")
    assert "--mix=cutmix does not apply to phase head" in caplog.text
    assert caplog.text.count("--mix") == 1
    [head, finetune], [head_mixed, mixed] = (
        losses(tmp_path / name) for name in ("none", "cutmix")
    )
    assert head_mixed == pytest.approx(head, abs=1e-5)
    assert abs(mixed - finetune) > 1e-3


def test_without_room_for_features_it_trains_on_images(
    flags, no_export, tmp_path, caplog
):
    flags |= {"head_epochs": 1, "cache_limit_gb": 1e-9}
    metrics, _ = fine_tune(flags, tmp_path / "run")
    assert "Reads images, since features can't be cached" in caplog.text
    assert "--cache_limit_gb=1e-09" in caplog.text
    assert list(metrics["phases"]) == ["head"]
    with pytest.raises(UserError, match="--cache_features=on, but .*cache_limit_gb"):
        fine_tune(flags, tmp_path / "on", cache_features="on")


def test_features_of_test_are_computed_after_training_if_there_is_room(
    flags, no_export, tmp_path, caplog, monkeypatch
):
    flags |= only_finetune("from:conv3")
    write_entry = features.write_entry
    test_loss = {}
    for has_room in (True, False):
        workdir = tmp_path / f"room-{has_room}"

        def write(request, *args, workdir=workdir, has_room=has_room):
            if request.name == "test":
                assert len(losses(workdir)) == flags["finetune_epochs"]
                if not has_room:
                    raise OSError("another program has filled the disk")
            return write_entry(request, *args)

        monkeypatch.setattr(features, "write_entry", write)
        cache = str(tmp_path / f"cache-{has_room}")
        metrics, _ = fine_tune(flags, workdir, cache_dir=cache)
        assert ("another program has filled the disk" in caplog.text) != has_room
        test_loss[has_room] = metrics["test"]["loss"]
    assert test_loss[False] == pytest.approx(test_loss[True], abs=1e-5)


def test_frozen_stages_keep_every_bit(flags, no_export, tmp_path):
    flags |= only_finetune("from:conv3") | {"finetune_epochs": 1}
    fine_tune(flags, tmp_path / "run")
    before = make_backbone("tiny", (16, 16))
    before.load_weights(flags["weights"][0])
    after = load(tmp_path / "run").get_layer("tiny")
    same = {
        weight.path: np.array_equal(old, weight)
        for old, weight in zip(before.weights, after.weights, strict=True)
    }
    changed = [path for path, is_same in same.items() if not is_same]
    assert changed == ["conv3_conv/kernel"]  # BatchNorm is fixed everywhere


def test_a_model_trained_in_bfloat16_is_saved_in_float32(flags, tmp_path):
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
        expected = pytest.approx(compute_loss(model, splits.split(name)), abs=1e-6)
        assert metrics[name]["loss"] == expected
    assert metrics["exports"]["saved_model"]["difference"] < 1e-5

    # Training computed in bfloat16, and so did the monitored losses.
    monitored = min(row[4] for row in history(tmp_path / "run"))  # val_loss
    assert 1e-6 < abs(monitored - metrics["val"]["loss"]) < 0.05
    # What the summary says of a phase did not: val is too small for a temperature.
    for phase in metrics["phases"].values():
        assert phase["monitored"] == pytest.approx(phase["val"]["loss"], abs=1e-6)


def test_val_and_test_have_float32_features_in_every_precision(
    flags, no_export, tmp_path, caplog
):
    flags |= {"head_epochs": 1}
    fine_tune(flags, tmp_path / "float32")
    caplog.clear()
    fine_tune(flags, tmp_path / "bfloat16", precision="mixed_bfloat16")
    assert "Features of train: 18 images" in caplog.text
    assert "Features of val: from the cache" in caplog.text
    assert "Features of test: from the cache" in caplog.text


@pytest.fixture
def used_xla(monkeypatch):
    """A list that grows by whether each function of TensorFlow that is made uses XLA.

    Keras does not use it where operations are deterministic, as they are once another
    test has asked for it in this process.
    """
    is_deterministic = config.is_op_determinism_enabled()
    config.disable_op_determinism()
    used = []
    make_function = tf.function

    def spy(*function, jit_compile=None, **options):
        if function:  # not as a decorator, as for Keras's grouped convolutions
            used.append(bool(jit_compile))
        return make_function(*function, jit_compile=jit_compile, **options)

    monkeypatch.setattr(tf, "function", spy)
    yield used
    if is_deterministic:
        config.enable_op_determinism()


def test_xla_is_not_used_unless_requested(
    flags, no_export, tmp_path, monkeypatch, used_xla
):
    # As on a GPU, where Keras uses it by default.
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda _: True)
    fine_tune(flags | {"head_epochs": 1}, tmp_path / "run")
    assert used_xla and not any(used_xla)


def test_xla_trains_the_same(flags, no_export, tmp_path, used_xla):
    flags |= only_finetune("from:conv2") | {"dropout": 0.0}
    fine_tune(flags, tmp_path / "off", jit="off")
    assert not any(used_xla)
    fine_tune(flags, tmp_path / "on", jit="on")
    assert any(used_xla)
    assert_equal_runs(tmp_path / "on", tmp_path / "off", atol=1e-4)
