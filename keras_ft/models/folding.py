"""BatchNorm with fixed statistics is an affine map: fold it into the convolution.

    gamma * (convolution(x) - mean) / sqrt(variance + epsilon) + beta

is one convolution whose kernel is scaled, and whose bias is scaled and shifted, per
output channel (Jacob et al., arXiv 1712.05877, section 3.2).
"""

from collections import Counter

import keras
import numpy as np

# The kernel whose last axes are the output channels.
_KERNELS = {
    keras.layers.Conv2D: "kernel",
    keras.layers.DepthwiseConv2D: "kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
}
# bfloat16 would be off by a grey level.
_ALWAYS_FLOAT32 = (keras.layers.Rescaling, keras.layers.Normalization)
Pair = tuple[keras.Layer, keras.layers.BatchNormalization]


def find_pairs(backbone: keras.Model) -> list[Pair]:
    """The convolutions that feed nothing but a BatchNorm, each with that BatchNorm.

    Args:
        backbone: A model of `make_backbone`.
    """
    producers = {id(op.output): op for op in backbone.operations}
    inputs = (t for op in backbone.operations for t in keras.tree.flatten(op.input))
    consumers = Counter(id(tensor) for tensor in (*inputs, *backbone.outputs))
    pairs = []
    for bn in backbone.layers:
        if isinstance(bn, keras.layers.BatchNormalization):
            conv = producers[id(bn.input)]
            linear = getattr(conv, "activation", None) is keras.activations.linear
            if type(conv) in _KERNELS and linear and consumers[id(bn.input)] == 1:
                pairs.append((conv, bn))
    return pairs


class FoldedConvolution(keras.layers.Layer):
    """A convolution that learns, and the fixed BatchNorm after it, as one convolution.

    Kernel and bias are multiplied anew in each step, so that gradients reach them as
    they would through the BatchNorm: what is learned is the same, for less work on
    feature maps.

    Args:
        convolution: A layer with a kernel and a bias.
        scale: float32 [channels], see `_affine`.
        shift: float32 [channels].
    """

    def __init__(self, convolution: keras.Layer, scale: np.ndarray, shift: np.ndarray):
        # In float32: the convolution itself casts its input and the products.
        super().__init__(name=convolution.name, dtype="float32", autocast=False)
        self.convolution = convolution
        self.scale, self.shift = scale, shift

    def build(self, input_shape):
        self.convolution.build(input_shape)

    def compute_output_spec(self, inputs):
        return self.convolution.compute_output_spec(inputs)

    def call(self, inputs):
        kernel, bias = _kernel(self.convolution), self.convolution.bias
        products = [
            (kernel, kernel.value * _per_channel(self.scale, kernel.shape)),
            (bias, bias.value * self.scale + self.shift),
        ]
        with keras.StatelessScope(state_mapping=products):
            return self.convolution(inputs)


def copy_to_train(backbone: keras.Model, fold: bool = True) -> keras.Model:
    """Builds a copy of a backbone that computes and learns the same for less.

    What is frozen (its layers' `trainable`) runs as in inference: its dropout is left
    out and its BatchNorm folded. BatchNorm that is fixed after a convolution that
    learns is folded too if asked for, see `FoldedConvolution`.

    Args:
        backbone: A float32 model of `make_backbone`; it is left as it is.
        fold: Whether to fold BatchNorm after convolutions that learn.

    Returns:
        A model with weights of its own in Keras's present dtype policy, layers named
        as in `backbone`.
    """
    folded = {
        conv.name: (conv, bn)
        for conv, bn in find_pairs(backbone)
        if not bn.trainable and (fold or not conv.trainable)
    }
    left_out = {bn.name for _, bn in folded.values()} | {
        layer.name
        for layer in backbone.layers
        if isinstance(layer, keras.layers.Dropout) and not layer.trainable
    }

    def clone(op: keras.Operation) -> keras.Operation:
        if isinstance(op, keras.Model):
            return keras.models.clone_model(op, clone_function=clone)
        config = op.get_config()
        if isinstance(op, keras.Layer) and not isinstance(op, _ALWAYS_FLOAT32):
            config["dtype"] = keras.config.dtype_policy().name
        if op.name not in folded:
            return type(op).from_config(config)
        copy = type(op).from_config(config | {"use_bias": True})
        _, bn = folded[op.name]
        return FoldedConvolution(copy, *_affine(bn)) if op.trainable else copy

    def call(op: keras.Operation, *args, **kwargs) -> keras.KerasTensor:
        return args[0] if op.name in left_out else op(*args, **kwargs)

    copy = keras.models.clone_model(backbone, clone_function=clone, call_function=call)
    for layer in backbone.layers:
        if layer.weights and layer.name not in left_out:
            target = copy.get_layer(layer.name)
            _, bn = folded.get(layer.name, (None, None))
            _copy_weights(layer, target, bn)
    return copy


def write_back(copy: keras.Model, backbone: keras.Model) -> None:
    """Gives a backbone what its copy has learned.

    Args:
        copy: What `copy_to_train` made of `backbone`.
        backbone: The weights of what learns are set.
    """
    for layer in backbone.layers:
        if layer.trainable_weights:
            learned = copy.get_layer(layer.name).get_weights()
            # A folded convolution may have a bias that the original has not.
            layer.set_weights(learned[: len(layer.weights)])


def _copy_weights(
    layer: keras.Layer, target: keras.Layer, bn: keras.Layer | None
) -> None:
    """Gives a copy its original's weights, folded with a BatchNorm if it is frozen."""
    weights = layer.get_weights()
    if bn is None:
        target.set_weights(weights)
        return
    if not layer.use_bias:
        weights.append(np.zeros(bn.moving_mean.shape, weights[0].dtype))
    target.set_weights(weights)
    if isinstance(target, FoldedConvolution):
        # It stands in for the fixed beta where there was no bias.
        target.convolution.bias.trainable = layer.use_bias
        return
    scale, shift = _affine(bn)
    kernel = _kernel(target)
    kernel.assign(kernel * _per_channel(scale, kernel.shape))
    target.bias.assign(target.bias * scale + shift)


def _kernel(conv: keras.Layer) -> keras.Variable:
    return getattr(conv, _KERNELS[type(conv)])


def _affine(bn: keras.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a BatchNorm in inference, float32 [channels]."""
    scale = 1 / np.sqrt(bn.moving_variance.numpy() + bn.epsilon)
    if bn.scale:
        scale = scale * bn.gamma.numpy()
    shift = -bn.moving_mean.numpy() * scale
    return scale, shift + bn.beta.numpy() if bn.center else shift


def _per_channel(scale: np.ndarray, kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Shapes a scale [channels] to multiply a kernel, also a depthwise one."""
    depthwise = kernel_shape[-1] != len(scale)
    return scale.reshape(kernel_shape[-2:] if depthwise else kernel_shape[-1:])
