"""The classifier: what training changes, what is saved."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import make_task
from model_helpers import infer, layers_of, make_pixels, set_trainable, split

from keras_ft.catalog.backbones import BACKBONES
from keras_ft.errors import UserError
from keras_ft.models.classifier import (
    fold_classifier,
    get_backbone,
    make_backbone,
    make_classifier,
)
from keras_ft.models.heads import set_temperatures

SIZE = 32
IMAGES = make_pixels(SIZE)
MOVING = ("moving_mean", "moving_variance")
HEAD = {"head/kernel", "head/bias"}
BATCH_NORM = ("gamma", "beta", *MOVING)
TASKS = [make_task(3)]


@pytest.fixture(scope="module", params=["tiny", "resnet50"])
def classifier(request):
    keras.utils.set_random_seed(0)
    backbone = make_backbone(request.param, (SIZE, SIZE))
    return make_classifier(backbone, TASKS, dropout=0.1)


def fit_one_step(classifier):
    classifier.compile(
        # No momentum, no decay, and a rate at which every gradient has an effect.
        keras.optimizers.SGD(1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,  # Tracing would take longer than the step.
    )
    classifier.fit(IMAGES, np.array([0, 1, 2, 0]), batch_size=4, verbose=0)


def changed_by_one_step(classifier, unfreeze, batch_norm="fixed"):
    """Paths of the classifier's weights that differ in any bit after one step."""
    before = classifier.get_weights()
    set_trainable(get_backbone(classifier), unfreeze, batch_norm)
    fit_one_step(classifier)
    changed = {
        w.path
        for w, old in zip(classifier.weights, before, strict=True)
        if w.numpy().tobytes() != old.tobytes()
    }
    classifier.set_weights(before)
    assert changed >= HEAD
    return changed - HEAD


def paths(classifier, *stages, variables):
    """Paths of the backbone's variables in these stages and of these names."""
    return {
        v.path
        for v in get_backbone(classifier).weights
        if v.path.split("_")[0] in stages and v.path.split("/")[-1] in variables
    }


def stage_names(classifier):
    return BACKBONES[get_backbone(classifier).name].stage_names


def flags(backbone):
    layers = backbone._flatten_layers()
    return [(layer.name, layer.trainable) for layer in layers if layer.weights]


# --- what a training step changes ----------------------------------------------------


def test_none_trains_the_head_only(classifier):
    assert changed_by_one_step(classifier, "none") == set()


def test_all_trains_convolutions_and_fixed_batch_norm_does_not_change(classifier):
    changed = changed_by_one_step(classifier, "all")
    stages = stage_names(classifier)
    assert changed >= paths(classifier, *stages, variables=["kernel"])
    assert not changed & paths(classifier, *stages, variables=BATCH_NORM)


def test_from_last_stage_trains_that_stage_only(classifier):
    last = stage_names(classifier)[-1]
    changed = changed_by_one_step(classifier, f"from:{last}")
    assert changed >= paths(classifier, last, variables=["kernel"])
    assert changed <= paths(classifier, last, variables=["kernel", "bias"])


def test_to_second_stage_trains_the_first_two_only(classifier):
    changed = changed_by_one_step(classifier, "to:conv2")
    assert changed >= paths(classifier, "conv1", "conv2", variables=["kernel"])
    assert changed <= paths(classifier, "conv1", "conv2", variables=["kernel", "bias"])


def test_statistics_change_in_trainable_stages_only(classifier):
    *_, last = stage_names(classifier)
    changed = changed_by_one_step(classifier, f"from:{last}", "train")
    assert changed >= paths(classifier, last, variables=["kernel", *MOVING])
    assert all(path.startswith(last) for path in changed)


# --- set_trainable -------------------------------------------------------------------


def test_trainable_batch_norm_has_a_lower_momentum():
    def momenta(model):
        norms = layers_of(model, keras.layers.BatchNormalization)
        return {layer.name: layer.momentum for layer in norms}

    backbone = make_backbone("tiny", (16, 16))
    before = momenta(backbone)
    set_trainable(backbone, "all", "fixed")
    assert momenta(backbone) == before
    set_trainable(backbone, "all", "train")
    assert set(momenta(backbone).values()) == {0.9}
    copy = split(make_classifier(backbone, TASKS, 0.0), "all", fold=True).backbone
    assert set(momenta(copy).values()) == {0.9}


@pytest.mark.parametrize("batch_norm", ["fixed", "train"])
def test_flags_depend_on_the_last_call_only(classifier, batch_norm):
    last = f"from:{stage_names(classifier)[-1]}"
    backbone = make_backbone(get_backbone(classifier).name, (SIZE, SIZE))
    set_trainable(backbone, last, batch_norm)
    expected = flags(backbone)
    assert {flag for _, flag in expected[1:]} == {True, False}
    for unfreeze in ("all", "none", last, "to:conv1", "none", "all", last):
        set_trainable(backbone, unfreeze, "train")
        set_trainable(backbone, unfreeze, batch_norm)
    assert flags(backbone) == expected


@pytest.mark.parametrize("batch_norm", ["fixed", "train"])
def test_frozen_backbone_has_no_trainable_weights(batch_norm):
    backbone = make_backbone("tiny", (SIZE, SIZE))
    set_trainable(backbone, "none", batch_norm)
    assert not backbone.trainable_weights
    assert {flag for _, flag in flags(backbone)[1:]} == {False}


def test_layers_inside_containers_follow_their_stage():
    # ConvNeXt's stem is a Sequential: frozen, it reports no trainable weights.
    backbone = make_backbone("convnext_tiny", (SIZE, SIZE))
    stem = backbone.get_layer("convnext_tiny_stem")
    for frozen in (backbone, stem):
        frozen.trainable = False
        set_trainable(backbone, "to:stem", "fixed")
        everything = [id(w) for w in stem.weights]
        assert len(everything) == 4
        assert [id(w) for w in backbone.trainable_weights] == everything
        assert [id(w) for w in stem.trainable_weights] == everything
    set_trainable(backbone, "from:stage_0", "fixed")
    assert not stem.trainable_weights
    assert len(backbone.trainable_weights) == len(backbone.weights) - 4


def test_batch_norm_inside_containers_is_fixed():
    block = keras.Sequential(
        [keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()],
        name="conv1_conv",
    )
    backbone = keras.Sequential([keras.Input((SIZE, SIZE, 3)), block], name="tiny")
    set_trainable(backbone, "all", "fixed")
    assert [w.name for w in backbone.trainable_weights] == ["kernel", "bias"]
    set_trainable(backbone, "all", "train")
    assert len(backbone.trainable_weights) == 4


def test_unknown_stage_does_not_change_the_flags():
    backbone = make_backbone("tiny", (SIZE, SIZE))
    set_trainable(backbone, "none", "fixed")
    before = flags(backbone)
    with pytest.raises(UserError, match="Received: unfreeze=from:conv9"):
        set_trainable(backbone, "from:conv9", "fixed")
    assert flags(backbone) == before


# --- make_classifier and get_backbone ------------------------------------------------


def test_classifier_takes_float_pixels_and_returns_logits(classifier):
    assert classifier.input_shape == (None, SIZE, SIZE, 3)
    assert classifier.input.name == "image"
    assert classifier.input.dtype == "float32"
    logits = classifier(IMAGES)
    assert logits.shape == (4, 3)
    assert np.ptp(np.sum(logits, axis=-1)) > 1e-6  # No softmax: rows do not sum to 1.


def test_logits_and_normalisation_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = make_backbone("tiny", (SIZE, SIZE))
        classifier = make_classifier(backbone, TASKS, dropout=0.1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert backbone.output.dtype == "bfloat16"
    assert classifier.output.dtype == "float32"
    rescaling = [x for x in classifier.layers if "rescaling" in x.name]
    assert [x.compute_dtype for x in rescaling] == ["float32"]


def test_dropout_is_applied_to_the_pooled_features():
    backbone = make_backbone("tiny", (SIZE, SIZE))
    kept = make_classifier(backbone, TASKS, dropout=0.0)
    dropped = make_classifier(backbone, TASKS, dropout=0.5)
    set_trainable(backbone, "none", "fixed")
    np.testing.assert_array_equal(kept(IMAGES, training=True), kept(IMAGES))
    assert np.any(dropped(IMAGES, training=True) != dropped(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["resnet50"], indirect=True)
def test_saved_classifier_needs_keras_alone(classifier, tmp_path):
    set_trainable(get_backbone(classifier), "from:conv3", "fixed")
    classifier.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "logits.npy", classifier(IMAGES))
    code = """
import keras, numpy as np, sys
model = keras.models.load_model("model.keras")
np.testing.assert_array_equal(model(np.load("images.npy")), np.load("logits.npy"))
assert not any(name.startswith("keras_ft") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_other_stages_of_a_loaded_classifier_can_be_trained(classifier, tmp_path):
    set_trainable(get_backbone(classifier), "from:conv3", "fixed")
    classifier.save(tmp_path / "model.keras")
    loaded = get_backbone(keras.models.load_model(tmp_path / "model.keras"))
    assert flags(loaded) == flags(get_backbone(classifier))
    set_trainable(loaded, "to:conv1", "fixed")
    names = {w.path.split("_")[0] for w in loaded.trainable_weights}
    assert names == {"conv1"}


def test_model_without_a_backbone_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="out")])
    with pytest.raises(ValueError, match="Received: layers=.*out"):
        get_backbone(model)


@pytest.mark.parametrize("fold", [True, False])
def test_temperature_divides_the_logits_and_is_not_trainable(fold, tmp_path):
    classifier = make_classifier(make_backbone("tiny", (16, 16)), TASKS, 0.2)
    images = make_pixels(16)
    logits = classifier.predict(images, verbose=0)
    cooled = classifier
    for temperature in (3.0, 2.0):
        cooled = set_temperatures(cooled, TASKS, {"label": temperature})
    assert len(cooled.weights) == len(classifier.weights)
    cooled.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    parts = split(loaded, "none", fold)
    for model in (cooled, loaded, parts.join(), fold_classifier(loaded, TASKS)):
        np.testing.assert_allclose(infer(model, images), logits / 2, atol=1e-5)


def test_tasks_can_have_names_that_tensorflow_does_not_accept():
    tasks = [make_task(2, name="product colour"), make_task(3, name="größe")]
    classifier = make_classifier(
        make_backbone("tiny", (SIZE, SIZE)), tasks, dropout=0.1
    )
    logits = classifier(IMAGES, training=False)
    assert {name: tuple(rows.shape) for name, rows in logits.items()} == {
        "product colour": (len(IMAGES), 2),
        "größe": (len(IMAGES), 3),
    }
