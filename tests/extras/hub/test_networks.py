"""Networks of KerasHub as backbones."""

import keras
import numpy as np
import pytest
from helpers import make_task
from hub_helpers import NETWORKS, make_preset, run_keras_hub
from model_helpers import (
    assert_close,
    batch_norms,
    bits,
    changed_paths,
    infer,
    make_pixels,
    set_trainable,
    split,
)

pytest.importorskip("keras_hub", reason="needs the extra hub")

from keras_ft.catalog.archive import Description
from keras_ft.catalog.backbones import find_backbone
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.errors import UserError
from keras_ft.extras.hub import networks
from keras_ft.extras.hub.presets import read_preset
from keras_ft.models.classifier import get_backbone, make_classifier
from keras_ft.models.trained import load_trained
from keras_ft.models.weights import load_backbone
from keras_ft.serving import model_files

QUICK = ("resnet", "resnet_v2", "densenet", "vit", "dinov2", "siglip")
# Those whose stages lie inside a layer, so that features are cached of all or nothing.
WHOLE = ("hgnetv2", "vit", "deit", "dinov2", "dinov3", "clip", "siglip", "swin")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def case(request, tmp_path_factory):
    """Name, preset and backbone of a network, and images of its size."""
    folder = make_preset(tmp_path_factory.mktemp("presets"), request.param)
    size = NETWORKS[request.param][2]
    backbone = networks.make_network(f"hub:{folder}", (size, size), load_weights=True)
    return request.param, folder, backbone, make_pixels(size)


def test_features_are_those_of_keras_hub(case):
    name, folder, backbone, pixels = case
    expected = run_keras_hub(folder, pixels)
    if expected.ndim == 3 and name != "swin":
        expected = expected[:, 0]  # the class token
    features = infer(backbone, pixels)
    assert features.ndim == 4
    assert_close(features.reshape(expected.shape), expected, tolerance=1e-5)


def test_stages_are_known_before_the_network_is_loaded(case):
    name, folder, backbone, _ = case
    stages = find_backbone(backbone.name).stage_names
    if name != "cspnet":
        assert read_preset(str(folder)).stages == stages


@pytest.mark.parametrize("batch_norm", ["fixed", "train"])
def test_only_the_last_stage_is_trained(case, batch_norm):
    _, _, backbone, pixels = case
    *_, before_last, last = find_backbone(backbone.name).stage_names
    set_trainable(backbone, f"from:{before_last}", batch_norm)
    two = {v.path for v in backbone.trainable_variables}
    set_trainable(backbone, f"from:{last}", batch_norm)
    one = {v.path for v in backbone.trainable_variables}
    set_trainable(backbone, "all", batch_norm)
    all_of_them = {v.path for v in backbone.trainable_variables}
    assert set() < one < two < all_of_them
    norms = batch_norms(backbone)
    has_norm = any(path.split("/")[-2] in norms for path in all_of_them)
    assert has_norm == (batch_norm == "train" and bool(norms))


@pytest.mark.parametrize("unfreeze", ["none", "last", "all"])
def test_the_parts_compute_what_the_classifier_does(case, unfreeze):
    name, _, backbone, pixels = case
    classifier = make_classifier(backbone, [make_task(3)], dropout=0.0)
    stages = find_backbone(backbone.name).stage_names
    unfreeze = f"from:{stages[-1]}" if unfreeze == "last" else unfreeze
    set_trainable(backbone, unfreeze)
    parts = split(classifier, unfreeze)
    assert_close(infer(parts.join(), pixels), infer(classifier, pixels), 1e-5)
    is_cached = unfreeze == "none" or (unfreeze != "all" and name not in WHOLE)
    assert (parts.frozen is not None) == is_cached
    shapes = [v.shape for v in backbone.trainable_variables]
    trained = parts.trainable.trainable_variables
    assert [v.shape for v in trained[: len(shapes)]] == shapes


def test_training_moves_the_stage_and_nothing_else(case):
    _, _, backbone, pixels = case
    last = find_backbone(backbone.name).stage_names[-1]
    classifier = make_classifier(backbone, [make_task(3)], dropout=0.0)
    set_trainable(backbone, f"from:{last}")
    parts = split(classifier, f"from:{last}")
    model = parts.join()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", {"label": loss})
    model.fit(pixels, {"label": np.arange(len(pixels)) % 3}, verbose=0)
    before = backbone.get_weights()
    parts.write_back(classifier)
    moved = changed_paths(backbone, before)
    assert moved
    assert moved <= {v.path for v in backbone.trainable_variables}


def test_the_saved_classifier_is_the_same(case, tmp_path):
    _, _, backbone, pixels = case
    classifier = make_classifier(backbone, [make_task(3)], dropout=0.1)
    model_files.write_model(
        classifier,
        Description((make_task(3),), Preprocessing(32, 32)),
        tmp_path / "model.keras",
    )
    loaded, _ = load_trained(tmp_path / "model.keras")
    assert_close(infer(loaded, pixels), infer(classifier, pixels), tolerance=1e-6)
    assert get_backbone(loaded).name == backbone.name


def test_dinov2_trained_at_another_size_is_saved(tmp_path):
    folder = make_preset(tmp_path, "dinov2")
    backbone = networks.make_network(f"hub:{folder}", (64, 64), load_weights=True)
    classifier = make_classifier(backbone, [make_task(3)], dropout=0.0)
    set_trainable(backbone, "all")
    for variable in backbone.trainable_variables:
        variable.assign(variable + 0.1)
    expected = infer(classifier, make_pixels(64))
    model_files.write_model(
        classifier,
        Description((make_task(3),), Preprocessing(64, 64)),
        tmp_path / "model.keras",
    )
    loaded, _ = load_trained(tmp_path / "model.keras")
    assert_close(infer(loaded, make_pixels(64)), expected, tolerance=1e-6)


def test_weights_of_a_preset_and_random_ones(tmp_path):
    folder = make_preset(tmp_path, "resnet")
    loaded, weights = load_backbone(f"hub:{folder}", (32, 32), ("preset",))
    assert weights.used == "preset"
    assert weights.file == str(folder / "model.weights.h5")
    random, weights = load_backbone(f"hub:{folder}", (32, 32), ("none",))
    assert weights.used == "none"
    assert bits(random) != bits(loaded)
    loaded.save_weights(tmp_path / "own.weights.h5")
    own, _ = load_backbone(
        f"hub:{folder}", (64, 64), (str(tmp_path / "own.weights.h5"),)
    )
    assert bits(own) == bits(loaded)


def test_a_preset_without_normalisation_is_refused(tmp_path):
    folder = make_preset(tmp_path, "resnet")
    (folder / "image_converter.json").unlink()
    with pytest.raises(UserError, match="in image_converter.json. Received: none") as e:
        networks.make_network(f"hub:{folder}", (32, 32), load_weights=True)
    # The Python in the message mends it.
    exec(str(e.value).partition("in Python: ")[2], {})
    read_preset.cache_clear()
    network = networks.make_network(f"hub:{folder}", (32, 32), load_weights=True)
    rescaling = network.get_layer("rescaling")
    np.testing.assert_allclose(rescaling.scale, 1 / 255, rtol=1e-5)
    np.testing.assert_allclose(rescaling.offset, 0, atol=1e-6)


def test_a_size_that_the_network_does_not_take_is_refused(tmp_path):
    folder = make_preset(tmp_path, "siglip")
    with pytest.raises(UserError, match="--image_size must be 32"):
        networks.make_network(f"hub:{folder}", (64, 64), load_weights=True)


def test_a_preset_that_cant_be_downloaded_names_the_way_out(monkeypatch):
    import kagglehub

    def download(handle):
        raise ConnectionError("no network")

    monkeypatch.setattr(kagglehub, "model_download", download)
    with pytest.raises(UserError, match="no network.*--backbone=hub:FOLDER"):
        networks.make_network("hub:resnet_18_imagenet", (32, 32), load_weights=True)
    with pytest.raises(UserError, match="must be a preset of KerasHub"):
        networks.make_network("hub:no_such_preset", (32, 32), load_weights=True)
