"""A classifier is split into its frozen and its trainable part."""

import keras
import numpy as np
import pytest
from helpers import make_task
from model_helpers import (
    assert_close,
    batch_norms,
    changed_paths,
    infer,
    layers_of,
    make_pixels,
    randomise,
    set_trainable,
    split,
)

from keras_ft.catalog.backbones import BACKBONES, stages_to_train
from keras_ft.models.classifier import (
    fold_classifier,
    get_backbone,
    make_backbone,
    make_classifier,
)
from keras_ft.system import devices

SIZE = 32
IMAGES = make_pixels(SIZE)
TASKS = [make_task(3)]

# Cheap networks, the stages to train and the shape of the frozen part's features.
SPLITS = [
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
    """Classifiers of the cheap networks, without dropout."""
    keras.utils.set_random_seed(0)
    return {
        name: make_classifier(
            randomise(make_backbone(name, (SIZE, SIZE))), TASKS, dropout=0.0
        )
        for name in ("tiny", "mobilenet_v3_small")
    }


@pytest.fixture(scope="module", params=SPLITS, ids=lambda case: "-".join(case[:2]))
def case(request, classifiers):
    """A classifier, its `--unfreeze` and the features' shape; weights are restored."""
    name, unfreeze, shape = request.param
    classifier = classifiers[name]
    before = classifier.get_weights()
    set_trainable(get_backbone(classifier), unfreeze, "fixed")
    yield classifier, unfreeze, shape
    classifier.set_weights(before)


@pytest.fixture(scope="module", params=[True, False], ids=["folded", "not folded"])
def parts(request, case):
    """The parts of a case's classifier, which tests only read."""
    return split(*case[:2], request.param)


def layer_names(variables):
    return {v.path.split("/")[0] for v in variables}


@pytest.fixture
def tiny(classifiers):
    """The tiny classifier, and a function that unfreezes stages and splits it."""

    def unfreeze_and_split(unfreeze, batch_norm="fixed"):
        set_trainable(get_backbone(classifiers["tiny"]), unfreeze, batch_norm)
        return split(classifiers["tiny"], unfreeze)

    return classifiers["tiny"], unfreeze_and_split


def test_parts_compute_what_the_classifier_computes(case, parts):
    classifier, *_ = case
    expected = infer(classifier, IMAGES)
    assert_close(infer(parts.join(), IMAGES), expected, tolerance=1e-5)
    features = IMAGES if parts.frozen is None else infer(parts.frozen, IMAGES)
    assert_close(infer(parts.trainable, features), expected, tolerance=1e-5)


def test_frozen_part_ends_before_the_first_trainable_layer(case, parts):
    classifier, unfreeze, shape = case
    name = get_backbone(classifier).name
    all_trainable = BACKBONES[name].stage_names[0] in stages_to_train(name, unfreeze)
    assert (parts.frozen is None) == all_trainable
    if all_trainable:
        assert parts.trainable.input_shape == (None, SIZE, SIZE, 3)
        assert parts.join() is parts.trainable
    else:
        assert parts.frozen.input_shape == (None, SIZE, SIZE, 3)
        assert parts.frozen.output_shape == (None, *shape)
        assert parts.trainable.input_shape == (None, *shape)
        assert not parts.frozen.trainable_variables
    shapes = {name: x.shape for name, x in parts.trainable.output.items()}
    assert shapes == {"label": (None, 3)}


def test_parts_have_the_trainable_variables_of_the_classifier(case, parts):
    classifier, *_ = case
    expected = layer_names(classifier.trainable_variables)
    shapes = [v.shape for v in classifier.trainable_variables]
    for model in (parts.trainable, parts.join()):
        assert layer_names(model.trainable_variables) == expected
        assert [v.shape for v in model.trainable_variables] == shapes


def test_trained_weights_and_no_others_are_written_back(case):
    classifier, unfreeze, _ = case
    parts = split(classifier, unfreeze, fold=True)
    network = parts.join()
    trainable = {v.path for v in classifier.trainable_variables}
    before = classifier.get_weights()
    network.compile(
        # Its steps follow the sign of a gradient, however small.
        keras.optimizers.Lion(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=True,
    )
    labels = {"label": np.array([0, 1, 2, 0])}
    network.fit(IMAGES, labels, batch_size=4, verbose=0)
    parts.write_back(classifier)
    assert changed_paths(classifier, before) == trainable
    assert_close(infer(classifier, IMAGES), infer(network, IMAGES), tolerance=1e-5)


def test_parts_share_the_head_of_the_classifier(tiny):
    classifier, unfreeze_and_split = tiny
    for unfreeze in ("none", "from:conv3", "all"):
        trainable = unfreeze_and_split(unfreeze).trainable
        for name in ("dropout", "head"):
            assert trainable.get_layer(name) is classifier.get_layer(name)


def test_parts_of_a_network_with_containers_compute_the_same():
    # ConvNeXt normalises in a Sequential and has another for each smaller map.
    backbone = make_backbone("convnext_tiny", (SIZE, SIZE))
    classifier = make_classifier(backbone, TASKS, dropout=0.0)
    set_trainable(get_backbone(classifier), "from:stage_3")
    parts = split(classifier, "from:stage_3")
    assert parts.frozen.output_shape == (None, 2, 2, 384)
    assert_close(infer(parts.join(), IMAGES), infer(classifier, IMAGES), tolerance=1e-5)


def test_trainable_batch_norm_is_in_the_trainable_part(tiny):
    classifier, unfreeze_and_split = tiny
    parts = unfreeze_and_split("from:conv3", "train")
    expected = {"conv3_conv", "conv3_bn", "head"}
    assert layer_names(parts.trainable.trainable_variables) == expected
    assert_close(infer(parts.join(), IMAGES), infer(classifier, IMAGES), tolerance=1e-5)


def test_training_rounds_feature_maps_as_they_are_stored(tiny):
    trainable = tiny[1]("from:conv3").trainable
    features = np.random.default_rng(0).normal(size=(2, 8, 8, 24)).astype("float32")
    features[0, 0, 0, :2] = 1e6, -1e6  # Beyond float16.
    stored = np.clip(features, -65504, 65504).astype("float16").astype("float32")
    trained = trainable(features, training=True)["label"]
    np.testing.assert_array_equal(trained, infer(trainable, stored))
    assert np.any(trained != infer(trainable, features))


@pytest.mark.parametrize(("unfreeze", "shape"), [("none", (32,)), ("all", (32, 32, 3))])
def test_training_does_not_round_pooled_features_or_images(unfreeze, shape, tiny):
    trainable = tiny[1](unfreeze).trainable
    features = np.random.default_rng(0).uniform(size=(2, *shape)).astype("float32")
    expected = infer(trainable, features)
    rounded = features.astype("float16").astype("float32")
    assert np.any(infer(trainable, rounded) != expected)
    trained = trainable(features, training=True)["label"]
    np.testing.assert_array_equal(trained, expected)


def test_parts_compute_in_the_global_dtype_policy_with_float32_logits(tiny):
    classifier, unfreeze_and_split = tiny
    expected = infer(classifier, IMAGES)
    with devices.precision("mixed_bfloat16"):
        parts = unfreeze_and_split("from:conv3")
        network = parts.join()
    assert parts.frozen.output.dtype == "bfloat16"
    assert network.output["label"].dtype == "float32"
    actual = infer(network, IMAGES)
    assert np.any(actual != expected)
    assert_close(actual, expected, tolerance=0.05)
    assert_close(infer(classifier, IMAGES), expected, tolerance=1e-5)


@pytest.mark.parametrize("name", ["tiny", "mobilenet_v3_small"])
def test_folded_classifier_computes_the_same_without_batch_norm(name, classifiers):
    classifier = classifiers[name]
    set_trainable(get_backbone(classifier), "all", "train")
    expected = infer(classifier, IMAGES)
    folded = fold_classifier(classifier, TASKS)
    assert_close(infer(folded, IMAGES), expected, tolerance=1e-5)
    assert layers_of(folded, keras.layers.Conv2D)
    assert not batch_norms(folded)
    assert layer_names(folded.trainable_variables) == {"head"}
