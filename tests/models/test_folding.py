"""The copy that is trained: the same network with fewer layers."""

import contextlib
import re

import keras
import numpy as np
import pytest
from helpers import set_trainable

from keras_ft.models.backbones import BACKBONES
from keras_ft.models.classifier import make_backbone
from keras_ft.models.folding import (
    FoldedConvolution,
    copy_to_train,
    find_pairs,
    write_back,
)
from keras_ft.system import devices

SIZE = 32
# The others take many seconds each in float64.
QUICK = ["resnet50", "resnet50_v2", "mobilenet_v2", "mobilenet_v3_small", "tiny"]


@contextlib.contextmanager
def float64():
    """Layers made in this block are float64, so that only mistakes make differences."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


@pytest.fixture
def in_float64():
    with float64():
        yield


def all_layers(model):
    return list(model._flatten_layers(include_self=False))


def of_type(model, layer_type):
    return [layer for layer in all_layers(model) if isinstance(layer, layer_type)]


def batch_norms(model):
    return {bn.name for bn in of_type(model, keras.layers.BatchNormalization)}


def preactivations(backbone):
    """Names of BatchNorms that read a sum, a concatenation or a pool."""
    patterns = {
        "resnet.*_v2": r"preact_bn|post_bn",
        "densenet.*": r"_0_bn|pool\d_bn|^bn$",
    }
    return {
        name
        for row, pattern in patterns.items()
        for name in batch_norms(backbone)
        if re.fullmatch(row, backbone.name) and re.search(pattern, name)
    }


def randomise(model):
    """Gives every BatchNorm and every bias values that would show if left out."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name == "gamma":
            # With larger ones the largest EfficientNets magnify any rounding.
            variable.assign(rng.uniform(0.4, 1.0, variable.shape))
        elif variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.uniform(-0.2, 0.2, variable.shape))
    return model


def images_for(backbone, batch=2):
    row = BACKBONES[backbone.name]
    low, high = (0, 255) if row.normalisation == "included" else (-1, 1)
    shape = (batch, *backbone.input_shape[1:])
    return np.random.default_rng(1).uniform(low, high, shape)


def infer(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs, training=False))


def assert_same_output(actual, expected, tolerance=1e-7):
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


def bits(model):
    return [w.tobytes() for w in model.get_weights()]


def flags(model):
    return [(layer.name, layer.trainable) for layer in all_layers(model)]


def take_step(model, inputs):
    """One step of SGD at a rate at which every gradient shows."""
    rng = np.random.default_rng(2)
    target = rng.normal(size=(len(inputs), *model.output_shape[1:]))
    # Tracing a large network takes longer than the step.
    run_eagerly = len(model.layers) > 20
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=run_eagerly)
    model.train_on_batch(inputs, target)


def assert_copy_learns_the_same(backbone, inputs, fold):
    """Compares a step on the copy, written back, with one on the backbone itself."""
    before = backbone.get_weights()
    take_step(backbone, inputs)
    expected = backbone.get_weights()
    backbone.set_weights(before)
    copy = copy_to_train(backbone, fold)
    take_step(copy, inputs)
    assert [w.tobytes() for w in before] == bits(backbone)
    write_back(copy, backbone)
    learning = {id(v) for v in backbone.trainable_variables}
    assert learning
    for variable, old, new in zip(backbone.weights, before, expected, strict=True):
        if id(variable) in learning:
            step = np.abs(new - old).max()
            assert step > 0, variable.path
            np.testing.assert_allclose(
                variable, new, rtol=0, atol=1e-6 * step, err_msg=variable.path
            )
        elif "moving" in variable.name:
            np.testing.assert_allclose(variable, new, rtol=1e-9)
        else:
            assert variable.numpy().tobytes() == old.tobytes(), variable.path
    return copy


# --- every row -----------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in BACKBONES
    ],
)
def row(request):
    """Each row's network in float64, images and what it makes of them."""
    with float64():
        size = BACKBONES[request.param].min_image_size
        backbone = randomise(make_backbone(request.param, size))
        images = images_for(backbone)
        return backbone, images, infer(backbone, images)


@pytest.fixture(scope="module", params=["none", "all"])
def copied(row, request):
    """A row's copy with everything frozen or everything learning."""
    backbone, images, expected = row
    with float64():
        set_trainable(backbone, request.param, "fixed")
        return backbone, copy_to_train(backbone), images, expected


def test_copy_computes_what_the_backbone_computes(copied, in_float64):
    _, copy, images, expected = copied
    assert_same_output(infer(copy, images), expected)


def test_copy_is_left_with_the_batch_norms_that_no_convolution_feeds(copied):
    backbone, copy, *_ = copied
    before, left = batch_norms(backbone), preactivations(backbone)
    assert batch_norms(copy) == left
    # What learns is folded anew in each step, what is frozen once.
    folded = len(before) - len(left) if backbone.trainable_variables else 0
    assert len(of_type(copy, FoldedConvolution)) == folded


def test_copy_has_the_first_layer_of_every_stage(copied):
    backbone, copy, *_ = copied
    for _, first_layer in BACKBONES[backbone.name].stages:
        original = backbone.get_layer(first_layer)
        assert copy.get_layer(first_layer).input.shape == original.input.shape


def test_copy_learns_as_many_variables(copied):
    backbone, copy, *_ = copied
    shapes = [v.shape for v in backbone.trainable_variables]
    assert [v.shape for v in copy.trainable_variables] == shapes


# --- learning ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny64():
    with float64():
        return randomise(make_backbone("tiny", SIZE))


@pytest.fixture(scope="module")
def mobilenet64():
    with float64():
        return randomise(make_backbone("mobilenet_v2", SIZE))


@pytest.fixture
def every_kind(in_float64):
    """Each kind of convolution, with and without bias, gamma and beta."""
    layers = keras.layers
    inputs = x = keras.Input((8, 8, 4))
    x = layers.Conv2D(6, 3, groups=2, name="biased")(x)
    x = layers.BatchNormalization(name="biased_bn")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depth")(x)
    x = layers.BatchNormalization(scale=False, name="depth_bn")(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(1, name="biased_depth")(x)
    x = layers.BatchNormalization(name="biased_depth_bn")(x)
    x = layers.SeparableConv2D(5, 3, use_bias=False, name="separable")(x)
    x = layers.BatchNormalization(center=False, name="separable_bn")(x)
    x = layers.SeparableConv2D(5, 1, name="biased_separable")(x)
    x = layers.BatchNormalization(name="biased_separable_bn")(x)
    return randomise(keras.Model(inputs, x, name="every_kind"))


def freeze_batch_norm(model):
    for bn in of_type(model, keras.layers.BatchNormalization):
        bn.trainable = False


@pytest.mark.parametrize("fold", [True, False])
def test_step_on_the_copy_is_the_step_on_the_backbone(tiny64, in_float64, fold):
    set_trainable(tiny64, "all", "fixed")
    copy = assert_copy_learns_the_same(tiny64, images_for(tiny64), fold)
    assert len(batch_norms(copy)) == (0 if fold else 3)


@pytest.mark.parametrize("fold", [True, False])
def test_step_on_half_a_mobilenet_is_the_step_on_the_backbone(
    mobilenet64, in_float64, fold
):
    set_trainable(mobilenet64, "from:block5", "fixed")
    copy = assert_copy_learns_the_same(mobilenet64, images_for(mobilenet64), fold)
    learning = {bn.name for conv, bn in find_pairs(mobilenet64) if conv.trainable}
    assert set() < learning < batch_norms(mobilenet64)
    assert batch_norms(copy) == (set() if fold else learning)


@pytest.mark.parametrize("fold", [True, False])
def test_step_is_the_same_for_every_kind_of_convolution(every_kind, fold):
    freeze_batch_norm(every_kind)
    inputs = np.random.default_rng(3).normal(size=(2, 8, 8, 4))
    copy = assert_copy_learns_the_same(every_kind, inputs, fold)
    assert len(batch_norms(copy)) == (0 if fold else 5)


def test_frozen_copy_is_the_same_for_every_kind_of_convolution(every_kind):
    for layer in every_kind.layers:
        layer.trainable = False
    inputs = np.random.default_rng(3).normal(size=(2, 8, 8, 4))
    copy = copy_to_train(every_kind)
    assert not batch_norms(copy)
    assert not copy.trainable_variables
    assert_same_output(infer(copy, inputs), infer(every_kind, inputs))


def test_convolution_learns_a_bias_only_if_it_had_one(every_kind):
    freeze_batch_norm(every_kind)
    copy = copy_to_train(every_kind)
    with_bias = [layer.name for layer in every_kind.layers if "biased" in layer.name]
    learning = [v.path for v in copy.trainable_variables if v.name == "bias"]
    assert [path.split("/")[0] for path in learning] == [
        name for name in with_bias if not name.endswith("_bn")
    ]
    # In the others it stands for the shift of the BatchNorm.
    frozen = [v.path for v in copy.non_trainable_variables]
    assert [path.split("/")[0] for path in frozen] == ["depth", "separable"]


def test_batch_norm_is_folded_only_where_it_does_not_learn(tiny64, in_float64):
    set_trainable(tiny64, "from:conv3", "train")
    images = images_for(tiny64)
    before = infer(tiny64, images)
    copy = assert_copy_learns_the_same(tiny64, images, fold=True)
    assert batch_norms(copy) == {"conv3_bn"}
    assert np.any(infer(tiny64, images) != before)


def test_statistics_of_learning_batch_norm_are_written_back(tiny64, in_float64):
    set_trainable(tiny64, "from:conv3", "train")
    learning, fixed = tiny64.get_layer("conv3_bn"), tiny64.get_layer("conv2_bn")
    before = learning.get_weights(), fixed.get_weights()
    copy = copy_to_train(tiny64)
    take_step(copy, images_for(tiny64))
    write_back(copy, tiny64)
    for old, new in zip(before[0], learning.get_weights(), strict=True):
        assert np.all(new != old)
    for old, new in zip(before[1], fixed.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


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
def test_batch_norm_that_no_kernel_can_stand_for_is_kept(build, in_float64):
    inputs = keras.Input((8, 8, 3))
    model = randomise(keras.Model(inputs, build(inputs)))
    for layer in model.layers:
        layer.trainable = False
    images = np.random.default_rng(3).normal(size=(2, 8, 8, 3))
    copy = copy_to_train(model)
    assert find_pairs(model) == []
    assert batch_norms(copy) == {"bn"}
    assert_same_output(infer(copy, images), infer(model, images))


# --- dropout, precision, the original ------------------------------------------------


@pytest.fixture(scope="module")
def efficientnet():
    return randomise(make_backbone("efficientnet_v2_b0", SIZE))


def dropouts(model):
    return {layer.name for layer in of_type(model, keras.layers.Dropout)}


def test_dropout_is_left_out_where_frozen(efficientnet):
    set_trainable(efficientnet, "from:block6", "fixed")
    learning = {name for name in dropouts(efficientnet) if name.startswith("block6")}
    assert set() < learning < dropouts(efficientnet)
    assert dropouts(copy_to_train(efficientnet)) == learning


def test_frozen_copy_is_the_same_in_training(efficientnet):
    set_trainable(efficientnet, "none", "fixed")
    images = images_for(efficientnet)
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


def test_copy_computes_in_the_present_precision(mixed):
    backbone, copy, _ = mixed
    float32 = (keras.layers.Rescaling, keras.layers.Normalization, FoldedConvolution)
    folded = [layer.convolution for layer in of_type(copy, FoldedConvolution)]
    assert [conv.name for conv in folded] == ["top_conv"]
    assert len(of_type(copy, float32)) == 3
    for layer in all_layers(copy):
        if isinstance(layer, float32):
            assert layer.compute_dtype == "float32", layer.name
        elif not isinstance(layer, keras.layers.InputLayer):
            assert layer.compute_dtype == "bfloat16", layer.name
    assert copy.output.dtype == "bfloat16"
    assert {w.dtype for w in copy.weights} == {"float32"}
    images = images_for(backbone)
    actual, expected = infer(copy, images).astype("float32"), infer(backbone, images)
    assert np.any(actual != expected)
    assert_same_output(actual, expected, tolerance=0.1)


def test_original_of_a_mixed_copy_stays_float32(mixed):
    backbone, _, before = mixed
    assert {layer.compute_dtype for layer in all_layers(backbone)} == {"float32"}
    assert bits(backbone) == [w.tobytes() for w in before]
    assert keras.config.dtype_policy().name == "float32"


def test_mixed_copy_gives_back_what_it_learned(mixed):
    backbone, copy, before = mixed
    take_step(copy, images_for(backbone))
    write_back(copy, backbone)
    moved = {
        variable.path
        for variable, old in zip(backbone.weights, before, strict=True)
        if variable.numpy().tobytes() != old.tobytes()
    }
    assert moved == {"top_conv/kernel"}
    learned = copy.get_layer("top_conv").convolution.kernel
    np.testing.assert_array_equal(backbone.get_layer("top_conv").kernel, learned)
    backbone.set_weights(before)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("unfreeze", ["none", "all", "from:conv2", "to:conv2"])
def test_copy_leaves_the_original_as_it_is(unfreeze, fold):
    backbone = randomise(make_backbone("tiny", SIZE))
    set_trainable(backbone, unfreeze, "fixed")
    before = backbone.get_config(), bits(backbone), flags(backbone)
    copy = copy_to_train(backbone, fold)
    for weight in copy.weights:
        weight.assign(weight + 1)
    assert (backbone.get_config(), bits(backbone), flags(backbone)) == before


def test_layers_inside_containers_are_copied():
    # As in ConvNeXt.
    layers = keras.layers
    stem = keras.Sequential([layers.Conv2D(4, 3), layers.LayerNormalization()])
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Conv2D(2, 3, trainable=False)(stem(inputs))
    backbone = keras.Model(inputs, outputs)
    images = np.random.default_rng(3).normal(size=(2, 8, 8, 3)).astype("float32")
    copy = assert_copy_learns_the_same(backbone, images, fold=True)
    assert len(copy.trainable_variables) == 4
