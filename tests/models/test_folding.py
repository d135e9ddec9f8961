"""The copy for training: what is folded and left out, precision, the original."""

import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    float64,
    infer,
    layers_of,
    make_pixels,
    randomise,
    set_trainable,
)

from keras_ft.models.classifier import make_backbone
from keras_ft.models.folding import FoldedConvolution, copy_to_train, find_pairs
from keras_ft.system import devices

SIZE = 32


@pytest.fixture
def in_float64():
    with float64():
        yield


def batch_norms(model):
    return {bn.name for bn in layers_of(model, keras.layers.BatchNormalization)}


def bits(model):
    return [w.tobytes() for w in model.get_weights()]


def flags(model):
    return [
        (layer.name, layer.trainable) for layer in layers_of(model, keras.layers.Layer)
    ]


# --- what is not folded --------------------------------------------------------------


def shared_convolution(inputs):
    x = keras.layers.Conv2D(4, 3)(inputs)
    return keras.layers.Add()([x, keras.layers.BatchNormalization(name="bn")(x)])


def activated_convolution(inputs):
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    return keras.layers.BatchNormalization(name="bn")(x)


def transposed_convolution(inputs):
    x = keras.layers.Conv2DTranspose(4, 3)(inputs)
    return keras.layers.BatchNormalization(name="bn")(x)


@pytest.mark.parametrize(
    "build", [shared_convolution, activated_convolution, transposed_convolution]
)
def test_batch_norm_that_fits_into_no_kernel_is_kept(build, in_float64):
    inputs = keras.Input((8, 8, 3))
    model = randomise(keras.Model(inputs, build(inputs)))
    for layer in model.layers:
        layer.trainable = False
    images = np.random.default_rng(3).normal(size=(2, 8, 8, 3))
    copy = copy_to_train(model)
    assert find_pairs(model) == []
    assert batch_norms(copy) == {"bn"}
    assert_close(infer(copy, images), infer(model, images), tolerance=1e-7)


# --- dropout, precision, the original ------------------------------------------------


@pytest.fixture(scope="module")
def efficientnet():
    return randomise(make_backbone("efficientnet_v2_b0", SIZE))


def dropouts(model):
    return {layer.name for layer in layers_of(model, keras.layers.Dropout)}


def test_dropout_of_frozen_stages_is_left_out(efficientnet):
    set_trainable(efficientnet, "from:block6", "fixed")
    trainable = {name for name in dropouts(efficientnet) if name.startswith("block6")}
    assert set() < trainable < dropouts(efficientnet)
    assert dropouts(copy_to_train(efficientnet)) == trainable


def test_frozen_copy_has_the_same_output_in_training(efficientnet):
    set_trainable(efficientnet, "none", "fixed")
    images = make_pixels(SIZE)
    expected = infer(efficientnet, images)
    assert np.any(efficientnet(images, training=True) != expected)
    copy = copy_to_train(efficientnet)
    np.testing.assert_array_equal(copy(images, training=True), infer(copy, images))


@pytest.fixture(scope="module")
def mixed(efficientnet):
    """A copy that computes in bfloat16, and the original's weights before."""
    set_trainable(efficientnet, "from:top", "fixed")
    before = efficientnet.get_weights()
    with devices.precision("mixed_bfloat16"):
        return efficientnet, copy_to_train(efficientnet), before


def test_copy_computes_in_the_global_dtype_policy(mixed):
    backbone, copy, _ = mixed
    float32 = (keras.layers.Rescaling, keras.layers.Normalization, FoldedConvolution)
    folded = [layer.convolution for layer in layers_of(copy, FoldedConvolution)]
    assert [conv.name for conv in folded] == ["top_conv"]
    assert len(layers_of(copy, float32)) == 3
    for layer in layers_of(copy, keras.layers.Layer):
        if isinstance(layer, float32):
            assert layer.compute_dtype == "float32", layer.name
        elif not isinstance(layer, keras.layers.InputLayer):
            assert layer.compute_dtype == "bfloat16", layer.name
    assert copy.output.dtype == "bfloat16"
    assert {w.dtype for w in copy.weights} == {"float32"}
    images = make_pixels(SIZE)
    actual, expected = infer(copy, images).astype("float32"), infer(backbone, images)
    assert np.any(actual != expected)
    assert_close(actual, expected, tolerance=0.1)


def test_original_of_a_mixed_copy_stays_float32(mixed):
    backbone, _, before = mixed
    dtypes = {x.compute_dtype for x in layers_of(backbone, keras.layers.Layer)}
    assert dtypes == {"float32"}
    assert bits(backbone) == [w.tobytes() for w in before]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("unfreeze", ["none", "all", "from:conv2", "to:conv2"])
def test_original_is_not_changed(unfreeze, fold):
    backbone = randomise(make_backbone("tiny", SIZE))
    set_trainable(backbone, unfreeze, "fixed")
    before = backbone.get_config(), bits(backbone), flags(backbone)
    copy = copy_to_train(backbone, fold)
    for weight in copy.weights:
        weight.assign(weight + 1)
    assert (backbone.get_config(), bits(backbone), flags(backbone)) == before
