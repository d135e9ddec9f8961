"""The copy for training: what it leaves out, precision, a training step."""

import keras
import numpy as np
import pytest
from model_helpers import (
    assert_close,
    batch_norms,
    bits,
    changed_paths,
    float64,
    infer,
    layers_of,
    make_pixels,
    randomise,
    set_trainable,
)

from keras_ft.models.classifier import make_backbone
from keras_ft.models.folding import (
    FoldedConvolution,
    copy_to_train,
    find_pairs,
    write_back,
)
from keras_ft.system import devices

SIZE = 32
IMAGES = np.random.default_rng(1).uniform(-1, 1, (2, SIZE, SIZE, 3))


@pytest.fixture
def in_float64():
    with float64():
        yield


def flags(model):
    return [(x.name, x.trainable) for x in layers_of(model, keras.layers.Layer)]


# --- what is not folded --------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "is_shared"),
    [
        (keras.layers.Conv2D, {}, True),
        (keras.layers.Conv2D, {"activation": "relu"}, False),
        (keras.layers.Conv2DTranspose, {}, False),
    ],
)
def test_batch_norm_that_fits_into_no_kernel_is_kept(
    kind, options, is_shared, in_float64
):
    inputs = keras.Input((8, 8, 3))
    x = kind(4, 3, **options)(inputs)
    outputs = keras.layers.BatchNormalization(name="bn")(x)
    if is_shared:
        outputs = keras.layers.Add()([x, outputs])
    model = randomise(keras.Model(inputs, outputs))
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
    return randomise(make_backbone("efficientnet_v2_b0", (SIZE, SIZE)))


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
    before = bits(efficientnet)
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
    assert bits(backbone) == before
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("unfreeze", ["none", "all", "from:conv2", "to:conv2"])
def test_original_is_not_changed(unfreeze, fold):
    backbone = randomise(make_backbone("tiny", (SIZE, SIZE)))
    set_trainable(backbone, unfreeze, "fixed")
    before = backbone.get_config(), bits(backbone), flags(backbone)
    copy = copy_to_train(backbone, fold)
    for weight in copy.weights:
        weight.assign(weight + 1)
    assert (backbone.get_config(), bits(backbone), flags(backbone)) == before


# --- a training step on the copy has the result of one on the original ---------------


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
    assert not changed_paths(backbone, before)
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
            np.testing.assert_array_equal(variable, old, err_msg=variable.path)
    return copy


@pytest.fixture(scope="module")
def in_64_bits():
    with float64():
        names = ("tiny", "mobilenet_v2")
        return {name: randomise(make_backbone(name, (SIZE, SIZE))) for name in names}


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
@pytest.mark.parametrize(
    ("name", "unfreeze"), [("tiny", "all"), ("mobilenet_v2", "from:block5")]
)
def test_step_on_the_copy_is_the_step_on_the_backbone(
    name, unfreeze, fold, in_64_bits, in_float64
):
    backbone = in_64_bits[name]
    set_trainable(backbone, unfreeze, "fixed")
    copy = assert_same_step(backbone, IMAGES, fold)
    trained = {bn.name for conv, bn in find_pairs(backbone) if conv.trainable}
    assert set() < trained <= batch_norms(backbone)
    assert (trained == batch_norms(backbone)) == (unfreeze == "all")
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
    trainable = [v.path for v in copy.trainable_variables if v.name == "bias"]
    with_bias = ["biased", "biased_depth", "biased_separable"]
    assert [path.split("/")[0] for path in trainable] == with_bias
    # The bias of the others only carries the shift of the BatchNorm.
    frozen = [v.path for v in copy.non_trainable_variables]
    assert [path.split("/")[0] for path in frozen] == ["depth", "separable"]


def test_trainable_batch_norm_is_not_folded_and_its_statistics_are_written_back(
    in_64_bits, in_float64
):
    backbone = in_64_bits["tiny"]
    set_trainable(backbone, "from:conv3", "train")
    norms = backbone.get_layer("conv3_bn"), backbone.get_layer("conv2_bn")
    trained, fixed = (bn.get_weights() for bn in norms)
    assert batch_norms(assert_same_step(backbone, IMAGES, fold=True)) == {"conv3_bn"}
    for old, new in zip(trained, norms[0].get_weights(), strict=True):
        assert np.all(new != old)
    for old, new in zip(fixed, norms[1].get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_copy_in_mixed_precision_is_written_back():
    backbone = make_backbone("tiny", (SIZE, SIZE))
    set_trainable(backbone, "from:conv3", "fixed")
    before = backbone.get_weights()
    with devices.precision("mixed_bfloat16"):
        copy = copy_to_train(backbone)
    take_step(copy, IMAGES)
    write_back(copy, backbone)
    assert changed_paths(backbone, before) == {"conv3_conv/kernel"}
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
    assert len(assert_same_step(backbone, images, True).trainable_variables) == 4
