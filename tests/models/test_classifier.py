"""What moves and what stays when a classifier learns."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import set_trainable, split

from keras_ft.models.backbones import BACKBONES, stages_to_train
from keras_ft.models.classifier import (
    fold_classifier,
    get_backbone,
    make_backbone,
    make_classifier,
    set_temperature,
)
from keras_ft.models.tiny import TinyNet
from keras_ft.system import devices

SIZE = 32
MOVING = ("moving_mean", "moving_variance")
HEAD = {"head/kernel", "head/bias"}
BATCH_NORM = ("gamma", "beta", *MOVING)


@pytest.fixture(scope="module", params=["tiny", "resnet50"])
def classifier(request):
    keras.utils.set_random_seed(0)
    backbone = make_backbone(request.param, SIZE)
    return make_classifier(backbone, num_classes=3, dropout=0.1)


def images(batch=4):
    pixels = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3))
    return pixels.astype("float32")


def fit_one_step(classifier):
    classifier.compile(
        # Without momentum or decay, and with a rate at which every gradient shows.
        keras.optimizers.SGD(1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,  # Tracing would take longer than the step.
    )
    classifier.fit(images(), np.array([0, 1, 2, 0]), batch_size=4, verbose=0)


def moved_by_one_step(classifier, unfreeze, batch_norm="fixed"):
    """Paths of the classifier's weights that differ in any bit after one step."""
    before = classifier.get_weights()
    set_trainable(get_backbone(classifier), unfreeze, batch_norm)
    fit_one_step(classifier)
    moved = {
        w.path
        for w, old in zip(classifier.weights, before, strict=True)
        if w.numpy().tobytes() != old.tobytes()
    }
    classifier.set_weights(before)
    assert moved >= HEAD
    return moved - HEAD


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


# --- what moves ----------------------------------------------------------------------


def test_head_phase_moves_nothing_but_the_head(classifier):
    assert moved_by_one_step(classifier, "none") == set()


def test_all_moves_convolutions_and_fixed_batch_norm_stays(classifier):
    moved = moved_by_one_step(classifier, "all")
    everything = stage_names(classifier)
    assert moved >= paths(classifier, *everything, variables=["kernel"])
    assert not moved & paths(classifier, *everything, variables=BATCH_NORM)


def test_from_last_stage_moves_that_stage_only(classifier):
    last = stage_names(classifier)[-1]
    moved = moved_by_one_step(classifier, f"from:{last}")
    assert moved >= paths(classifier, last, variables=["kernel"])
    assert moved <= paths(classifier, last, variables=["kernel", "bias"])


def test_to_second_stage_moves_the_first_two_only(classifier):
    moved = moved_by_one_step(classifier, "to:conv2")
    assert moved >= paths(classifier, "conv1", "conv2", variables=["kernel"])
    assert moved <= paths(classifier, "conv1", "conv2", variables=["kernel", "bias"])


def test_training_batch_norm_moves_statistics_of_learning_stages_only(classifier):
    *_, last = stage_names(classifier)
    moved = moved_by_one_step(classifier, f"from:{last}", "train")
    assert moved >= paths(classifier, last, variables=["kernel", *MOVING])
    assert all(path.startswith(last) for path in moved)


# --- set_trainable -------------------------------------------------------------------


def test_batch_norm_that_learns_follows_in_a_few_steps():
    backbone = make_backbone("tiny", 16)
    before = {layer.name: layer.momentum for layer in norms(backbone)}
    set_trainable(backbone, "all", "fixed")
    assert {layer.name: layer.momentum for layer in norms(backbone)} == before
    set_trainable(backbone, "all", "train")
    assert {layer.momentum for layer in norms(backbone)} == {0.9}
    copy = split(make_classifier(backbone, 2, 0.0), "all", fold=True).backbone
    assert {layer.momentum for layer in norms(copy)} == {0.9}


def norms(backbone):
    layers = backbone._flatten_layers(include_self=False)
    return [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]


@pytest.mark.parametrize("batch_norm", ["fixed", "train"])
def test_flags_depend_on_the_last_call_only(classifier, batch_norm):
    last = f"from:{stage_names(classifier)[-1]}"
    once = make_backbone(get_backbone(classifier).name, SIZE)
    set_trainable(once, last, batch_norm)
    often = make_backbone(get_backbone(classifier).name, SIZE)
    for unfreeze in ("all", "none", last, "to:conv1", "none", "all", last):
        set_trainable(often, unfreeze, "train")
        set_trainable(often, unfreeze, batch_norm)
    assert flags(often) == flags(once)
    assert {flag for _, flag in flags(once)[1:]} == {True, False}


@pytest.mark.parametrize("batch_norm", ["fixed", "train"])
def test_nothing_learns_in_a_frozen_backbone(batch_norm):
    backbone = make_backbone("tiny", SIZE)
    set_trainable(backbone, "none", batch_norm)
    assert not backbone.trainable_weights
    assert {flag for _, flag in flags(backbone)[1:]} == {False}


def test_layers_inside_containers_follow_their_stage():
    # ConvNeXt's stem is a Sequential: frozen, it claims that nothing in it learns.
    backbone = make_backbone("convnext_tiny", SIZE)
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


def test_batch_norm_must_be_decided():
    backbone = make_backbone("tiny", SIZE)
    with pytest.raises(ValueError, match="Received: batch_norm=auto"):
        set_trainable(backbone, "all", "auto")


def test_unknown_stage_leaves_the_flags_alone():
    backbone = make_backbone("tiny", SIZE)
    set_trainable(backbone, "none", "fixed")
    before = flags(backbone)
    with pytest.raises(ValueError, match="Received: unfreeze=from:conv9"):
        set_trainable(backbone, "from:conv9", "fixed")
    assert flags(backbone) == before


# --- make_classifier and get_backbone ------------------------------------------------


def test_classifier_takes_float_pixels_and_returns_logits(classifier):
    assert classifier.input_shape == (None, SIZE, SIZE, 3)
    assert classifier.input.name == "image"
    assert classifier.input.dtype == "float32"
    logits = classifier(images())
    assert logits.shape == (4, 3)
    assert np.ptp(np.sum(logits, axis=-1)) > 1e-6  # No softmax: rows do not sum to 1.


def test_logits_and_normalisation_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = make_backbone("tiny", SIZE)
        classifier = make_classifier(backbone, num_classes=3, dropout=0.1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert backbone.output.dtype == "bfloat16"
    assert classifier.output.dtype == "float32"
    rescaling = [x for x in classifier.layers if "rescaling" in x.name]
    assert [x.compute_dtype for x in rescaling] == ["float32"]


def test_dropout_is_applied_to_the_pooled_features():
    backbone = make_backbone("tiny", SIZE)
    kept = make_classifier(backbone, num_classes=3, dropout=0.0)
    dropped = make_classifier(backbone, num_classes=3, dropout=0.5)
    set_trainable(backbone, "none", "fixed")
    np.testing.assert_array_equal(kept(images(), training=True), kept(images()))
    assert np.any(dropped(images(), training=True) != dropped(images()))


@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["resnet50"], indirect=True)
def test_saved_classifier_needs_keras_alone(classifier, tmp_path):
    set_trainable(get_backbone(classifier), "from:conv3", "fixed")
    classifier.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images())
    np.save(tmp_path / "logits.npy", classifier(images()))
    code = """
import keras, numpy as np, sys
model = keras.models.load_model("model.keras")
np.testing.assert_array_equal(model(np.load("images.npy")), np.load("logits.npy"))
assert not any(name.startswith("keras_ft") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_backbone_of_a_loaded_classifier_can_be_unfrozen(classifier, tmp_path):
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


# --- split ---------------------------------------------------------------------------

# Cheap networks and what to train of them, and the shape at the cut.
CUTS = [
    ("tiny", "none", (32,)),
    ("tiny", "from:conv2", (16, 16, 16)),
    ("tiny", "from:conv3", (8, 8, 24)),
    ("tiny", "from:conv1", None),
    ("tiny", "all", None),
    ("tiny", "to:conv1", None),
    ("tiny", "to:conv2", None),
    ("mobilenet_v3_small", "none", (576,)),
    ("mobilenet_v3_small", "from:block4", (2, 2, 40)),
    ("mobilenet_v3_small", "to:block1", None),
]


@pytest.fixture(scope="module")
def classifiers():
    """Classifiers of the cheap networks, without dropout, BatchNorm as if learned."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    made = {}
    for name in ("tiny", "mobilenet_v3_small"):
        backbone = make_backbone(name, SIZE)
        for weight in backbone.weights:
            if weight.name in ("gamma", "moving_variance"):
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
            elif weight.name in ("beta", "moving_mean"):
                weight.assign(rng.uniform(-0.2, 0.2, weight.shape))
        made[name] = make_classifier(backbone, num_classes=3, dropout=0.0)
    return made


@pytest.fixture(params=CUTS, ids=lambda cut: "-".join(cut[:2]))
def cut(request, classifiers):
    """A classifier, what of it learns and the shape at the cut; it is set back."""
    name, unfreeze, shape = request.param
    classifier = classifiers[name]
    before = classifier.get_weights()
    set_trainable(get_backbone(classifier), unfreeze, "fixed")
    yield classifier, unfreeze, shape
    classifier.set_weights(before)


def infer(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def assert_same_logits(actual, expected):
    assert np.ptp(expected) > 0
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def layer_names(variables):
    return {v.path.split("/")[0] for v in variables}


@pytest.mark.parametrize("fold", [True, False])
def test_parts_compute_what_the_classifier_computes(cut, fold):
    classifier, unfreeze, _ = cut
    parts = split(classifier, unfreeze, fold)
    expected = infer(classifier, images())
    assert_same_logits(infer(parts.join(), images()), expected)
    features = images() if parts.prefix is None else infer(parts.prefix, images())
    assert_same_logits(infer(parts.rest, features), expected)


def test_prefix_is_what_is_frozen_before_the_first_layer_that_learns(cut):
    classifier, unfreeze, shape = cut
    parts = split(classifier, unfreeze, fold=True)
    name = get_backbone(classifier).name
    learns = BACKBONES[name].stage_names[0] in stages_to_train(name, unfreeze)
    assert (parts.prefix is None) == learns
    if learns:
        assert parts.rest.input_shape == (None, SIZE, SIZE, 3)
        assert parts.join() is parts.rest
    else:
        assert parts.prefix.input_shape == (None, SIZE, SIZE, 3)
        assert parts.prefix.output_shape == (None, *shape)
        assert parts.rest.input_shape == (None, *shape)
        assert not parts.prefix.trainable_variables
    assert parts.rest.output_shape == (None, 3)


@pytest.mark.parametrize("fold", [True, False])
def test_rest_learns_what_the_classifier_learns(cut, fold):
    classifier, unfreeze, _ = cut
    parts = split(classifier, unfreeze, fold)
    expected = layer_names(classifier.trainable_variables)
    shapes = [v.shape for v in classifier.trainable_variables]
    for model in (parts.rest, parts.join()):
        assert layer_names(model.trainable_variables) == expected
        assert [v.shape for v in model.trainable_variables] == shapes


def test_classifier_gets_what_was_learned_and_nothing_else(cut):
    classifier, unfreeze, _ = cut
    parts = split(classifier, unfreeze, fold=True)
    network = parts.join()
    learning = {id(v) for v in classifier.trainable_variables}
    before = classifier.get_weights()
    network.compile(
        # It moves by the sign of a gradient, however small.
        keras.optimizers.Lion(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    network.fit(images(), np.array([0, 1, 2, 0]), batch_size=4, verbose=0)
    parts.write_back(classifier)
    for variable, old in zip(classifier.weights, before, strict=True):
        moved = variable.numpy().tobytes() != old.tobytes()
        assert moved == (id(variable) in learning), variable.path
    assert_same_logits(infer(classifier, images()), infer(network, images()))


def test_head_of_the_parts_is_the_classifiers_own(classifiers):
    classifier = classifiers["tiny"]
    for unfreeze in ("none", "from:conv3", "all"):
        set_trainable(get_backbone(classifier), unfreeze, "fixed")
        rest = split(classifier, unfreeze, fold=True).rest
        for name in ("dropout", "head"):
            assert rest.get_layer(name) is classifier.get_layer(name)


def test_parts_of_a_network_with_containers_compute_the_same():
    # ConvNeXt normalises in a Sequential and has another for each smaller map.
    classifier = make_classifier(make_backbone("convnext_tiny", SIZE), 3, dropout=0.0)
    set_trainable(get_backbone(classifier), "from:stage_3", "fixed")
    parts = split(classifier, "from:stage_3", fold=True)
    assert parts.prefix.output_shape == (None, 2, 2, 384)
    assert_same_logits(infer(parts.join(), images()), infer(classifier, images()))


def test_batch_norm_that_learns_stays_in_the_rest(classifiers):
    classifier = classifiers["tiny"]
    set_trainable(get_backbone(classifier), "from:conv3", "train")
    parts = split(classifier, "from:conv3", fold=True)
    assert layer_names(parts.rest.trainable_variables) == {
        "conv3_conv",
        "conv3_bn",
        "head",
    }
    assert_same_logits(infer(parts.join(), images()), infer(classifier, images()))


def test_training_rounds_maps_as_they_are_stored(classifiers):
    classifier = classifiers["tiny"]
    set_trainable(get_backbone(classifier), "from:conv3", "fixed")
    rest = split(classifier, "from:conv3", fold=True).rest
    features = np.random.default_rng(0).normal(size=(2, 8, 8, 24)).astype("float32")
    features[0, 0, 0, :2] = 1e6, -1e6  # Beyond float16.
    stored = np.clip(features, -65504, 65504).astype("float16").astype("float32")
    trained = keras.ops.convert_to_numpy(rest(features, training=True))
    np.testing.assert_array_equal(trained, infer(rest, stored))
    assert np.any(trained != infer(rest, features))


@pytest.mark.parametrize(("unfreeze", "shape"), [("none", (32,)), ("all", (32, 32, 3))])
def test_training_does_not_round_pooled_features_or_images(
    unfreeze, shape, classifiers
):
    classifier = classifiers["tiny"]
    set_trainable(get_backbone(classifier), unfreeze, "fixed")
    rest = split(classifier, unfreeze, fold=True).rest
    features = np.random.default_rng(0).uniform(size=(2, *shape)).astype("float32")
    rounded = features.astype("float16").astype("float32")
    assert np.any(infer(rest, rounded) != infer(rest, features))
    np.testing.assert_array_equal(rest(features, training=True), infer(rest, features))


def test_parts_compute_in_the_present_precision_and_answer_in_float32(classifiers):
    classifier = classifiers["tiny"]
    set_trainable(get_backbone(classifier), "from:conv3", "fixed")
    expected = infer(classifier, images())
    with devices.precision("mixed_bfloat16"):
        parts = split(classifier, "from:conv3", fold=True)
        network = parts.join()
    assert parts.prefix.output.dtype == "bfloat16"
    assert network.output.dtype == "float32"
    actual = infer(network, images())
    assert np.any(actual != expected)
    np.testing.assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())
    assert_same_logits(infer(classifier, images()), expected)


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v3_small"])
def test_folded_classifier_computes_the_same_without_batch_norm(name, classifiers):
    classifier = classifiers[name]
    set_trainable(get_backbone(classifier), "all", "train")
    expected = infer(classifier, images())
    folded = fold_classifier(classifier)
    assert_same_logits(infer(folded, images()), expected)
    layers = list(folded._flatten_layers())
    assert any(isinstance(layer, keras.layers.Conv2D) for layer in layers)
    assert not any(isinstance(x, keras.layers.BatchNormalization) for x in layers)
    assert layer_names(folded.trainable_variables) == {"head"}


# --- make_backbone -------------------------------------------------------------------


@pytest.mark.parametrize("fold", [True, False])
def test_a_temperature_divides_logits_and_stays_a_fixed_number(fold, tmp_path):
    classifier = make_classifier(make_backbone("tiny", 16), 3, 0.2)
    images = np.random.default_rng(0).uniform(0, 255, (4, 16, 16, 3))
    logits = classifier.predict(images, verbose=0)
    cooled = set_temperature(set_temperature(classifier, 3.0), 2.0)
    assert len(cooled.weights) == len(classifier.weights)
    cooled.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    parts = split(loaded, "none", fold)
    for model in (cooled, loaded, parts.join(), fold_classifier(loaded)):
        scaled = model.predict(images, verbose=0)
        np.testing.assert_allclose(scaled, logits / 2, atol=1e-5)


def test_backbone_loads_a_weights_file(tmp_path):
    saved = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    saved.save_weights(tmp_path / "resnet50.weights.h5")
    path = str(tmp_path / "resnet50.weights.h5")
    backbone = make_backbone("resnet50", SIZE, weights=path)
    for actual, expected in zip(
        backbone.get_weights(), saved.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "wrong",
    [{"weights": "imagenet"}, {"include_top": True}, {"input_shape": (15, 32, 3)}],
)
def test_tiny_refuses_what_it_does_not_have(wrong):
    with pytest.raises(ValueError, match="Received: "):
        TinyNet(**wrong)


def test_tiny_is_tiny():
    assert make_backbone("tiny", 16).count_params() < 12_000
