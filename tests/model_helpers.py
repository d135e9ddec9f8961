"""What tests of networks share: pixels, weights, freezing."""

import contextlib
from collections.abc import Iterator

import numpy as np
from helpers import make_task


def make_pixels(size: int, batch: int = 4) -> np.ndarray:
    """Random images float32 [batch, size, size, 3] of whole numbers in [0, 255]."""
    pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3))
    return pixels.astype("float32")


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Layers made in this block are float64, so that only mistakes make differences."""
    import keras

    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


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


def layers_of(model, layer_type):
    """The layers of a type, those inside containers included."""
    layers = model._flatten_layers(include_self=False)
    return [layer for layer in layers if isinstance(layer, layer_type)]


def batch_norms(model):
    """The names of the BatchNorms of a model."""
    import keras

    return {bn.name for bn in layers_of(model, keras.layers.BatchNormalization)}


def bits(model):
    """The weights of a model, to compare them bit for bit."""
    return [w.tobytes() for w in model.get_weights()]


def changed_paths(model, before):
    """The paths of the weights of a model that differ from `before` in any bit."""
    return {
        variable.path
        for variable, old in zip(model.weights, before, strict=True)
        if variable.numpy().tobytes() != old.tobytes()
    }


def infer(model, inputs):
    """The output of a model in inference, as an array; of a dict its only value."""
    output = model(inputs, training=False)
    if isinstance(output, dict):
        [output] = output.values()
    return np.array(output)


def tasks_of(model):
    """The tasks of a classifier of one task."""
    return [make_task(model.output_shape[-1])]


def assert_close(actual, expected, tolerance):
    """Compares arrays; `tolerance` is a share of the largest expected value."""
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


def set_trainable(backbone, unfreeze, batch_norm="fixed"):
    """Makes the stages that `--unfreeze` names trainable."""
    from keras_ft.catalog import backbones
    from keras_ft.models import classifier

    stages = backbones.stages_to_train(backbone.name, unfreeze)
    classifier.set_trainable(backbone, stages, batch_norm)


def split(model, unfreeze, fold=True):
    """Splits a classifier where the stages that `--unfreeze` names begin."""
    from keras_ft.catalog import backbones
    from keras_ft.models import classifier

    name = classifier.get_backbone(model).name
    stages = backbones.stages_to_train(name, unfreeze)
    return classifier.split(model, tasks_of(model), stages, fold)
