import json
import os

import keras
import numpy as np
import pytest

from keras_ft import data, quick, train
from keras_ft.config import UserError
from keras_ft.model import make_backbone
from keras_ft.rules import make_config


def write_weights(path, change=lambda kernel: kernel):
    """Writes a tiny backbone whose first kernel, [3, 3, RGB, 16], was changed."""
    keras.utils.set_random_seed(1)
    backbone = make_backbone("tiny", 16)
    first = backbone.get_layer("conv1_conv")
    first.set_weights([change(first.get_weights()[0])])
    backbone.save_weights(path)
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights that see colours, and others that see brightness only."""
    folder = tmp_path_factory.mktemp("weights")

    def grey(kernel):
        return np.repeat(kernel.mean(axis=2, keepdims=True), 3, axis=2)

    return {
        "colour": write_weights(folder / "colour.weights.h5"),
        "grey": write_weights(folder / "grey.weights.h5", grey),
    }


@pytest.fixture
def make(tiny_flags, weights):
    """Builds a candidate; its images are those of three colours."""
    flags = tiny_flags | {"head_epochs": 1, "finetune_epochs": 0}

    def make(name="colour", **changes):
        given = {"weights": (weights.get(name, name),)} | changes
        return make_config(**(flags | given))

    return make


@pytest.fixture
def splits(make):
    return data.load_splits(make().data, 0)


def entries(config):
    folder = os.path.join(config.data.cache_dir, "features")
    return sorted(entry.path for entry in os.scandir(folder))


def read_key(entry):
    with open(os.path.join(entry, "key.json")) as stream:
        return json.load(stream)


# --- one network ---------------------------------------------------------------


def test_a_score_says_what_was_scored_and_on_what(make, splits, weights):
    row = quick.score(make(weights=("starter", weights["colour"])), splits)
    assert row["backbone"] == "tiny"
    assert row["weights"] == f"starter,{weights['colour']}"
    assert row["weights_used"] == weights["colour"]
    assert row["image_size"] == 16
    assert row["num_examples"] == len(splits.train) == 18
    assert row["nearest_neighbour_accuracy"] == 1
    assert row["log_me"] > 0
    assert row["seconds"] > 0
    json.dumps(row)


@pytest.mark.parametrize("fold", ["auto", "off"])
def test_phase_head_finds_the_features_of_a_score(
    make, splits, caplog, no_export, fold
):
    config = make(fold_batch_norm=fold, augment="light")
    before = quick.score(config, splits)
    [entry] = entries(config)
    assert "Features of train: 18 images." in caplog.text
    caplog.clear()
    train.fine_tune(config, splits, {})
    assert "Features of train: from the cache." in caplog.text
    assert entry in entries(config)
    caplog.clear()
    after = quick.score(config, splits)
    assert "Features of train: from the cache." in caplog.text
    assert after | {"seconds": 0} == before | {"seconds": 0}


def test_a_score_looks_at_plain_images_once(make, splits):
    config = make(augment="light", feature_views=3)
    quick.score(config, splits)
    [entry] = entries(config)
    assert read_key(entry)["views"] == 1


def test_features_that_can_not_be_kept_are_a_mistake_to_mend(make, splits):
    with pytest.raises(UserError, match="--cache_limit_gb=1e-06"):
        quick.score(make(cache_limit_gb=1e-6), splits)


def test_images_that_are_gone_are_named(make, splits):
    os.remove(splits.train.files[3])
    with pytest.raises(UserError, match=r"must stay readable.*blue/\d+.png"):
        quick.score(make(), splits)


def test_features_that_are_no_numbers_have_no_score(make, splits, monkeypatch):
    nothing = {"train": np.full((1, 18, 32), np.nan)}
    monkeypatch.setattr(quick, "load_kept", lambda *args, **options: nothing)
    with pytest.raises(UserError, match=r"finite.*tiny with --weights=.*colour"):
        quick.score(make(), splits)


# --- several networks ------------------------------------------------------------


def test_the_network_that_sees_what_tells_classes_apart_ranks_first(make, splits):
    best, worst = quick.rank([make("grey"), make("colour")], splits)
    assert "colour" in best["weights"]
    assert best["log_me"] > worst["log_me"] + 0.1
    assert best["nearest_neighbour_accuracy"] > worst["nearest_neighbour_accuracy"]


def test_networks_that_can_not_be_used_end_no_other(make, splits, caplog):
    candidates = [
        make("gone.weights.h5"),
        make(backbone="vgg16", image_size=32),
        make(),
    ]
    good, *bad = quick.rank(candidates, splits)
    assert "colour" in good["weights"]
    names = {"backbone", "weights", "image_size", "error"}
    assert [row.keys() for row in bad] == [names, names]
    assert "no such file" in bad[0]["error"]
    assert "does not fit vgg16" in bad[1]["error"]
    assert caplog.text.count("Left out: ") == 2


def test_each_network_is_scored_once(make, splits, monkeypatch):
    scored = []

    def score(config, splits):
        scored.append((config.model.weights, config.data.image_size))
        return {"log_me": config.data.image_size}

    monkeypatch.setattr(quick, "score", score)
    rows = quick.rank(
        [
            make(),
            make(dropout=0.5),
            make(image_size=32),
            make("grey", head_learning_rate=0.1),
            make(seed=1),
        ],
        splits,
    )
    assert len(scored) == len(set(scored)) == 3
    assert [row["log_me"] for row in rows] == [32, 16, 16]
