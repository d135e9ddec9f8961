"""A backbone of three convolutions, so that end-to-end tests take seconds."""

import keras


def TinyNet(
    include_top: bool, weights: None, input_shape: tuple[int, int, int]
) -> keras.Model:
    """Three stages of convolution, BatchNorm and ReLU, each of stride 2.

    Called like a builder of keras.applications, without a top and published weights. A
    model from float32 [B, H, W, 3], sides of at least 16, to float32 [B, H/8, W/8, 32].
    """
    inputs = x = keras.Input(input_shape)
    for i, filters in enumerate((16, 24, 32), 1):
        x = keras.layers.Conv2D(
            filters, 3, 2, "same", use_bias=False, name=f"conv{i}_conv"
        )(x)
        x = keras.layers.BatchNormalization(name=f"conv{i}_bn")(x)
        x = keras.layers.ReLU(name=f"conv{i}_relu")(x)
    return keras.Model(inputs, x, name="tinynet")
