"""Every row of the table against the network that Keras builds."""

import inspect
import pkgutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import set_trainable

from keras_ft.models.backbones import BACKBONES, stages_to_train
from keras_ft.models.classifier import get_backbone, make_backbone, make_classifier

FROM_KERAS = [name for name in BACKBONES if name != "tiny"]
FAMILIES = [
    "resnet50",
    "resnet50_v2",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_v2_b0",
    "convnext_tiny",
    "xception",
    "vgg16",
    "tiny",
]


def builder_of(name):
    return pkgutil.resolve_name(BACKBONES[name].builder)


def leaves(layer):
    """All layers under `layer` with weights that no layer inside them holds."""
    inner = layer._flatten_layers(include_self=False, recursive=False)
    if not (inner := list(inner)):
        return [layer] if layer.weights else []
    return [leaf for x in inner for leaf in leaves(x)]


def images(size, batch=2):
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3))
    return pixels.astype("float32")


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in FAMILIES else pytest.mark.slow)
        for name in BACKBONES
    ],
)
def backbone(request):
    """Each row's network, built once at the row's smallest size."""
    return make_backbone(request.param, BACKBONES[request.param].min_image_size)


# --- the table and the networks ------------------------------------------------------


def test_feature_map_comes_from_the_smallest_image(backbone):
    size = BACKBONES[backbone.name].min_image_size
    assert backbone.input_shape == (None, size, size, 3)
    assert len(backbone.output_shape) == 4
    assert all(side >= 1 for side in backbone.output_shape[1:])


def test_first_stage_starts_no_later_than_the_weights_that_learn(backbone):
    first_layer = BACKBONES[backbone.name].stages[0][1]
    for layer in backbone.layers:
        if layer.name == first_layer:
            return
        assert not layer.trainable_weights
    pytest.fail(f"no layer {first_layer}")


def test_stage_is_all_that_follows_from_the_input_of_its_first_layer(backbone):
    # Building the rest of the network from that one tensor fails if another tensor
    # crosses the boundary, and finds other layers if the first layer is not first.
    names = [layer.name for layer in backbone.layers]
    starts = []
    for _, first_layer in BACKBONES[backbone.name].stages[1:]:
        entry = backbone.get_layer(first_layer).input
        rest = keras.Model(entry, backbone.output).layers
        starts.append(names.index(first_layer))
        assert [layer.name for layer in rest[1:]] == names[starts[-1] :]
    assert starts == sorted(set(starts))


def test_last_stage_alone_learns_and_batch_norm_stays(backbone):
    last_stage, first_layer = BACKBONES[backbone.name].stages[-1]
    names = [layer.name for layer in backbone.layers]
    start = names.index(first_layer)
    set_trainable(backbone, f"from:{last_stage}", "fixed")
    before = [leaf for layer in backbone.layers[:start] for leaf in leaves(layer)]
    after = [leaf for layer in backbone.layers[start:] for leaf in leaves(layer)]
    assert not any(leaf.trainable for leaf in before)
    for leaf in after:
        assert leaf.trainable != isinstance(leaf, keras.layers.BatchNormalization)
    expected = [
        id(w) for leaf in after if leaf.trainable for w in leaf.trainable_variables
    ]
    assert expected
    assert [id(w) for w in backbone.trainable_variables] == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_builder_refuses_less_than_the_smallest_image(name):
    with pytest.raises(ValueError, match="at least"):
        make_backbone(name, BACKBONES[name].min_image_size - 1)


@pytest.mark.parametrize("name", FROM_KERAS)
def test_normalisation_is_that_of_the_family(name):
    stand_in = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Identity()], name=name
    )
    classifier = make_classifier(stand_in, num_classes=2, dropout=0.0)
    normalise = keras.Model(classifier.input, classifier.get_layer(name).output)
    preprocess_input = inspect.getmodule(builder_of(name)).preprocess_input
    actual = normalise(images(8))
    np.testing.assert_allclose(actual, preprocess_input(images(8)), atol=1e-4)
    is_identity = np.array_equal(preprocess_input(images(8)), images(8))
    assert is_identity == (BACKBONES[name].normalisation == "included")


def test_name_of_the_row_does_not_change_the_network():
    # Keras lets the `name` of an EfficientNetV2 choose how it normalises its input.
    size = BACKBONES["efficientnet_v2_b0"].min_image_size
    ours = make_backbone("efficientnet_v2_b0", size)
    theirs = keras.applications.EfficientNetV2B0(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(images(size)), theirs(images(size)))


@pytest.mark.parametrize("name", FAMILIES)
def test_classifier_is_the_same_after_save_and_load(name, tmp_path):
    size = BACKBONES[name].min_image_size
    classifier = make_classifier(make_backbone(name, size), num_classes=3, dropout=0.1)
    classifier.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", compile=False, safe_mode=True
    )
    expected = classifier(images(size), training=False)
    np.testing.assert_array_equal(loaded(images(size), training=False), expected)
    assert np.ptp(expected) > 0
    assert get_backbone(loaded).name == name


def test_table_needs_no_tensorflow():
    code = (
        "import sys; import keras_ft.models.backbones; "
        "print({'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "set()"


# --- stages_to_train -----------------------------------------------------------------


def test_resnet50_has_the_stages_of_its_paper():
    assert BACKBONES["resnet50"].stage_names == (
        "conv1",
        "conv2",
        "conv3",
        "conv4",
        "conv5",
    )


@pytest.mark.parametrize(
    ("unfreeze", "expected"),
    [
        ("all", "conv1 conv2 conv3 conv4 conv5"),
        ("none", ""),
        ("from:conv1", "conv1 conv2 conv3 conv4 conv5"),
        ("from:conv4", "conv4 conv5"),
        ("from:conv5", "conv5"),
        ("to:conv1", "conv1"),
        ("to:conv2", "conv1 conv2"),
        ("to:conv5", "conv1 conv2 conv3 conv4 conv5"),
    ],
)
def test_stages_to_train_of_resnet50(unfreeze, expected):
    assert stages_to_train("resnet50", unfreeze) == tuple(expected.split())


@pytest.mark.parametrize(
    "unfreeze", ["", "some", "from:", "from:conv6", "conv5", "After:conv5", "all:conv5"]
)
def test_unknown_unfreeze_is_refused_with_the_stages_there_are(unfreeze):
    with pytest.raises(ValueError, match="conv1, conv2, conv3, conv4, conv5") as caught:
        stages_to_train("resnet50", unfreeze)
    assert f"unfreeze={unfreeze}" in str(caught.value)
