"""A training step on the copy has the result of one on the original."""

import keras
import numpy as np
import pytest
from helpers import assert_close, float64, infer, layers_of, randomise, set_trainable

from keras_ft.models.classifier import make_backbone
from keras_ft.models.folding import copy_to_train, find_pairs, write_back
from keras_ft.system import devices

SIZE = 32
IMAGES = np.random.default_rng(1).uniform(-1, 1, (2, SIZE, SIZE, 3))


@pytest.fixture
def in_float64():
    with float64():
        yield


def batch_norms(model):
    return {bn.name for bn in layers_of(model, keras.layers.BatchNormalization)}


def bits(model):
    return [w.tobytes() for w in model.get_weights()]


def take_step(model, inputs):
    """One step of SGD at a rate at which every gradient shows."""
    rng = np.random.default_rng(2)
    target = rng.normal(size=(len(inputs), *model.output_shape[1:]))
    # Tracing a large network takes longer than the step.
    run_eagerly = len(model.layers) > 20
    model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=run_eagerly)
    model.train_on_batch(inputs, target)


def assert_same_step(backbone, inputs, fold):
    """Compares a step on the copy, written back, with one on the backbone itself."""
    before = backbone.get_weights()
    take_step(backbone, inputs)
    expected = backbone.get_weights()
    backbone.set_weights(before)
    copy = copy_to_train(backbone, fold)
    take_step(copy, inputs)
    assert [w.tobytes() for w in before] == bits(backbone)
    write_back(copy, backbone)
    trainable = {id(v) for v in backbone.trainable_variables}
    assert trainable
    for variable, old, new in zip(backbone.weights, before, expected, strict=True):
        if id(variable) in trainable:
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
    for bn in layers_of(model, keras.layers.BatchNormalization):
        bn.trainable = False


@pytest.mark.parametrize("fold", [True, False])
def test_step_on_the_copy_is_the_step_on_the_backbone(tiny64, in_float64, fold):
    set_trainable(tiny64, "all", "fixed")
    copy = assert_same_step(tiny64, IMAGES, fold)
    assert len(batch_norms(copy)) == (0 if fold else 3)


@pytest.mark.parametrize("fold", [True, False])
def test_step_on_half_a_mobilenet_is_the_step_on_the_backbone(
    mobilenet64, in_float64, fold
):
    set_trainable(mobilenet64, "from:block5", "fixed")
    copy = assert_same_step(mobilenet64, IMAGES, fold)
    trained = {bn.name for conv, bn in find_pairs(mobilenet64) if conv.trainable}
    assert set() < trained < batch_norms(mobilenet64)
    assert batch_norms(copy) == (set() if fold else trained)


@pytest.mark.parametrize("fold", [True, False])
def test_step_is_the_same_for_every_kind_of_convolution(every_kind, fold):
    freeze_batch_norm(every_kind)
    inputs = np.random.default_rng(3).normal(size=(2, 8, 8, 4))
    copy = assert_same_step(every_kind, inputs, fold)
    assert len(batch_norms(copy)) == (0 if fold else 5)


def test_frozen_copy_is_the_same_for_every_kind_of_convolution(every_kind):
    for layer in every_kind.layers:
        layer.trainable = False
    inputs = np.random.default_rng(3).normal(size=(2, 8, 8, 4))
    copy = copy_to_train(every_kind)
    assert not batch_norms(copy)
    assert not copy.trainable_variables
    assert_close(infer(copy, inputs), infer(every_kind, inputs), tolerance=1e-7)


def test_only_an_original_bias_is_trainable(every_kind):
    freeze_batch_norm(every_kind)
    copy = copy_to_train(every_kind)
    with_bias = [layer.name for layer in every_kind.layers if "biased" in layer.name]
    trainable = [v.path for v in copy.trainable_variables if v.name == "bias"]
    assert [path.split("/")[0] for path in trainable] == [
        name for name in with_bias if not name.endswith("_bn")
    ]
    # The bias of the others only carries the shift of the BatchNorm.
    frozen = [v.path for v in copy.non_trainable_variables]
    assert [path.split("/")[0] for path in frozen] == ["depth", "separable"]


def test_trainable_batch_norm_is_not_folded(tiny64, in_float64):
    set_trainable(tiny64, "from:conv3", "train")
    images = IMAGES
    before = infer(tiny64, images)
    copy = assert_same_step(tiny64, images, fold=True)
    assert batch_norms(copy) == {"conv3_bn"}
    assert np.any(infer(tiny64, images) != before)


def test_statistics_of_trainable_batch_norm_are_written_back(tiny64, in_float64):
    set_trainable(tiny64, "from:conv3", "train")
    trained, fixed = tiny64.get_layer("conv3_bn"), tiny64.get_layer("conv2_bn")
    before = trained.get_weights(), fixed.get_weights()
    copy = copy_to_train(tiny64)
    take_step(copy, IMAGES)
    write_back(copy, tiny64)
    for old, new in zip(before[0], trained.get_weights(), strict=True):
        assert np.all(new != old)
    for old, new in zip(before[1], fixed.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_copy_in_mixed_precision_is_written_back():
    backbone = make_backbone("tiny", SIZE)
    set_trainable(backbone, "from:conv3", "fixed")
    before = backbone.get_weights()
    with devices.precision("mixed_bfloat16"):
        copy = copy_to_train(backbone)
    take_step(copy, IMAGES)
    write_back(copy, backbone)
    moved = {
        variable.path
        for variable, old in zip(backbone.weights, before, strict=True)
        if variable.numpy().tobytes() != old.tobytes()
    }
    assert moved == {"conv3_conv/kernel"}
    trained = copy.get_layer("conv3_conv").convolution.kernel
    np.testing.assert_array_equal(backbone.get_layer("conv3_conv").kernel, trained)


def test_layers_inside_containers_are_copied():
    # As in ConvNeXt.
    layers = keras.layers
    stem = keras.Sequential([layers.Conv2D(4, 3), layers.LayerNormalization()])
    inputs = keras.Input((8, 8, 3))
    outputs = layers.Conv2D(2, 3, trainable=False)(stem(inputs))
    backbone = keras.Model(inputs, outputs)
    images = np.random.default_rng(3).normal(size=(2, 8, 8, 3)).astype("float32")
    copy = assert_same_step(backbone, images, fold=True)
    assert len(copy.trainable_variables) == 4
