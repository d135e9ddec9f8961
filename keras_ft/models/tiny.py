"""A backbone of three convolutions, so that end-to-end tests take seconds."""

import keras

_MIN_SIZE = 16


def TinyNet(
    include_top: bool = False,
    weights: str | None = None,
    input_shape: tuple[int, int, int] | None = None,
    name: str = "tinynet",
) -> keras.Model:
    """Builds three stages of convolution, BatchNorm and ReLU, each of stride 2.

    Args:
        include_top: Must be False: there is no classifier. Defaults to False.
        weights: Must be None: there are no published weights. Defaults to None.
        input_shape: (height, width, 3), sides of at least 16. Defaults to (32, 32, 3).
        name: Name of the model. Defaults to `tinynet`.

    Returns:
        A model from float32 [B, H, W, 3] to float32 [B, H/8, W/8, 32].

    Raises:
        ValueError: If an argument is not as described.
    """
    if include_top or weights is not None:
        raise ValueError(
            "TinyNet has neither a top nor published weights. "
            f"Received: include_top={include_top}, weights={weights}"
        )
    input_shape = input_shape or (32, 32, 3)
    if min(input_shape[:2]) < _MIN_SIZE:
        raise ValueError(
            f"TinyNet needs images of at least {_MIN_SIZE} pixels a side. "
            f"Received: input_shape={input_shape}"
        )
    inputs = x = keras.Input(input_shape)
    for i, filters in enumerate((16, 24, 32), 1):
        x = keras.layers.Conv2D(
            filters, 3, 2, "same", use_bias=False, name=f"conv{i}_conv"
        )(x)
        x = keras.layers.BatchNormalization(name=f"conv{i}_bn")(x)
        x = keras.layers.ReLU(name=f"conv{i}_relu")(x)
    return keras.Model(inputs, x, name=name)
