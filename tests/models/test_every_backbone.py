"""Every row of the table: the network that Keras builds, and its copy for training."""

import re

import keras
import numpy as np
import pytest
from helpers import make_task
from model_helpers import (
    assert_close,
    batch_norms,
    float64,
    infer,
    layers_of,
    make_pixels,
    randomise,
    set_trainable,
)

from keras_ft.catalog.backbones import BACKBONES
from keras_ft.models.classifier import get_backbone, make_backbone, make_classifier
from keras_ft.models.folding import FoldedConvolution, copy_to_train

# One network of each family.
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
# Those that are copied in seconds.
COPIED = ["resnet50", "resnet50_v2", "mobilenet_v2", "mobilenet_v3_small", "tiny"]
# Those with layers that other networks do not have.
SAVED = ["efficientnet_v2_b0", "convnext_tiny", "tiny"]


def rows(quick, names=BACKBONES):
    """Names as parameters; those that are not `quick` are slow."""
    slow = pytest.mark.slow
    return [pytest.param(x, marks=() if x in quick else slow) for x in names]


@pytest.fixture(scope="module", params=rows(FAMILIES))
def backbone(request):
    """Each row's network in float64, built once at the row's smallest size."""
    with float64():
        size = BACKBONES[request.param].min_image_size
        return randomise(make_backbone(request.param, (size, size)))


@pytest.fixture(scope="module")
def output(backbone):
    """Images and the network's output for them."""
    included = BACKBONES[backbone.name].normalisation == "included"
    low, high = (0, 255) if included else (-1, 1)
    shape = (2, *backbone.input_shape[1:])
    images = np.random.default_rng(1).uniform(low, high, shape)
    with float64():
        return images, infer(backbone, images)


def leaves(layer):
    """All layers under `layer` with weights that no layer inside them holds."""
    inner = list(layer._flatten_layers(include_self=False, recursive=False))
    if not inner:
        return [layer] if layer.weights else []
    return [leaf for x in inner for leaf in leaves(x)]


def preactivations(backbone):
    """Names of BatchNorms that read a sum, a concatenation or a pool."""
    pattern = "$^"
    if re.fullmatch("resnet.*_v2", backbone.name):
        pattern = r"preact_bn|post_bn"
    elif backbone.name.startswith("densenet"):
        pattern = r"_0_bn|pool\d_bn|^bn$"
    return {name for name in batch_norms(backbone) if re.search(pattern, name)}


# --- the network ---------------------------------------------------------------------


def test_smallest_image_gives_a_feature_map(backbone):
    size = BACKBONES[backbone.name].min_image_size
    assert backbone.input_shape == (None, size, size, 3)
    assert len(backbone.output_shape) == 4
    assert all(side >= 1 for side in backbone.output_shape[1:])


def test_no_trainable_weights_come_before_the_first_stage(backbone):
    first_layer = BACKBONES[backbone.name].stages[0][1]
    set_trainable(backbone, "all", "train")
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


def test_last_stage_is_trained_alone_and_without_its_batch_norm(backbone):
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


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "tiny"])
def test_builder_refuses_images_below_the_smallest_size(name):
    with pytest.raises(ValueError, match="at least"):
        size = BACKBONES[name].min_image_size - 1
        make_backbone(name, (size, size))


@pytest.mark.parametrize("name", rows(SAVED, FAMILIES))
def test_classifier_is_the_same_after_save_and_load(name, tmp_path):
    size = BACKBONES[name].min_image_size
    backbone = make_backbone(name, (size, size))
    classifier = make_classifier(backbone, [make_task(3)], dropout=0.1)
    classifier.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", compile=False, safe_mode=True
    )
    pixels = make_pixels(size, batch=2)
    expected = classifier(pixels, training=False)
    np.testing.assert_array_equal(loaded(pixels, training=False), expected)
    assert np.ptp(expected) > 0
    assert get_backbone(loaded).name == name


# --- its copy ------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", rows(COPIED), indirect=True)
@pytest.mark.parametrize("unfreeze", ["none", "all"])
def test_copy_has_the_output_stages_and_variables_of_the_backbone(
    backbone, output, unfreeze
):
    images, expected = output
    with float64():
        set_trainable(backbone, unfreeze, "fixed")
        copy = copy_to_train(backbone)
        assert_close(infer(copy, images), expected, tolerance=1e-7)
    # Only BatchNorm that follows no convolution is left.
    before, left = batch_norms(backbone), preactivations(backbone)
    assert batch_norms(copy) == left
    # In trainable layers it is folded in every step, in frozen ones once.
    folded = len(before) - len(left) if unfreeze == "all" else 0
    assert len(layers_of(copy, FoldedConvolution)) == folded
    for _, first_layer in BACKBONES[backbone.name].stages:
        original = backbone.get_layer(first_layer)
        assert copy.get_layer(first_layer).input.shape == original.input.shape
    shapes = [v.shape for v in backbone.trainable_variables]
    assert [v.shape for v in copy.trainable_variables] == shapes
