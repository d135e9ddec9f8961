"""Folds BatchNorm with fixed statistics into the convolution before it.

    gamma * (convolution(x) - mean) / sqrt(variance + epsilon) + beta

equals a convolution whose kernel is scaled, and whose bias is scaled and shifted, per
output channel (Jacob et al., arXiv 1712.05877, section 3.2).
"""

from collections import Counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ft.models.layers import children, is_of_keras, own_variables
from keras_ft.system.devices import num_devices

# The attribute with the kernel whose last axes are the output channels.
_KERNELS = {
    keras.layers.Conv2D: "kernel",
    keras.layers.DepthwiseConv2D: "kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
}
# In bfloat16 their output would be wrong by up to one grey level.
_ALWAYS_FLOAT32 = (keras.layers.Rescaling, keras.layers.Normalization)


def find_pairs(backbone: keras.Model) -> list[tuple[keras.Layer, keras.Layer]]:
    """Pairs of a convolution and the BatchNorm that alone uses its output."""
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
    """A trainable convolution and the fixed BatchNorm after it as one convolution.

    Kernel and bias are scaled in every step, and gradients reach them as they would
    through the BatchNorm. So training gives the same result with less work on feature
    maps. Scale and shift are float32 [channels].
    """

    def __init__(self, convolution: keras.Layer, scale: np.ndarray, shift: np.ndarray):
        # In float32: the convolution itself casts its input, kernel and bias.
        super().__init__(name=convolution.name, dtype="float32", autocast=False)
        self.convolution = convolution
        self.scale, self.shift = scale, shift

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.convolution.build(input_shape)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return self.convolution.compute_output_spec(inputs)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel, bias = _kernel(self.convolution), self.convolution.bias
        scaled = [
            (kernel, kernel.value * _per_channel(self.scale, kernel.shape)),
            (bias, bias.value * self.scale + self.shift),
        ]
        with keras.StatelessScope(state_mapping=scaled):
            return self.convolution(inputs)


def copy_to_train(backbone: keras.Model, fold: bool = True) -> keras.Model:
    """Builds a copy of a backbone that trains to the same result with less work.

    Frozen layers (by their `trainable`) run as in inference: dropout is left out, and
    BatchNorm is folded into the convolution before it. Fixed BatchNorm after a
    trainable convolution is folded as well if `fold` is set, see `FoldedConvolution`.
    The copy has weights of its own, is in Keras's global dtype policy, and its layers
    have the names of those in the float32 backbone.
    """
    folded = {
        conv.name: bn
        for conv, bn in find_pairs(backbone)
        if not bn.trainable and (fold or not conv.trainable)
    }
    left_out = {bn.name for bn in folded.values()} | {
        layer.name
        for layer in backbone.layers
        if isinstance(layer, keras.layers.Dropout) and not layer.trainable
    }

    def clone(op: keras.Operation) -> keras.Operation:
        if isinstance(op, keras.Model) and is_of_keras(op):
            return keras.models.clone_model(op, clone_function=clone)
        return _clone(op, folded.get(op.name))

    def call(op: keras.Operation, *args: Any, **kwargs: Any) -> keras.KerasTensor:
        return args[0] if op.name in left_out else op(*args, **kwargs)

    copy = keras.models.clone_model(backbone, clone_function=clone, call_function=call)
    for layer in backbone.layers:
        if layer.weights and layer.name not in left_out:
            _copy_weights(layer, copy.get_layer(layer.name), folded.get(layer.name))
            _copy_flags(layer, copy.get_layer(layer.name))
    if num_devices() > 1:
        for layer in copy._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True  # its statistics are of all devices' examples
    return copy


def clone(network: keras.Model) -> keras.Model:
    """Copies a float32 network, with layers that are used nowhere else."""
    copy = keras.models.clone_model(network, clone_function=_clone)
    copy.set_weights(network.get_weights())
    return copy


def write_back(copy: keras.Model, backbone: keras.Model) -> None:
    """Copies the trained weights of `copy_to_train(backbone)` back to the backbone."""
    for layer in backbone.layers:
        if layer.trainable_weights:
            trained = copy.get_layer(layer.name).get_weights()
            # A folded convolution may have a bias that the original does not have.
            layer.set_weights(trained[: len(layer.weights)])


def _clone(op: keras.Operation, bn: keras.Layer | None = None) -> keras.Operation:
    """Copies an operation without weights, ready to fold `bn` into it if given."""
    config = op.get_config()
    # The weights are set next; random ones take time.
    config |= {key: "zeros" for key in config if key.endswith("_initializer")}
    if isinstance(op, keras.Layer) and not isinstance(op, _ALWAYS_FLOAT32):
        config["dtype"] = keras.config.dtype_policy().name
    if bn is None:
        copy = type(op).from_config(config)
        copy.name = op.name  # some layers of KerasHub change what is in the config
        return copy
    copy = type(op).from_config(config | {"use_bias": True})
    return FoldedConvolution(copy, *_affine(bn)) if op.trainable else copy


def _copy_weights(
    layer: keras.Layer, target: keras.Layer, bn: keras.Layer | None
) -> None:
    """Copies a layer's weights to its clone; folds `bn` into them if it is frozen."""
    weights = layer.get_weights()
    if bn is None:
        target.set_weights(weights)
        return
    if not layer.use_bias:
        weights.append(np.zeros(bn.moving_mean.shape, weights[0].dtype))
    target.set_weights(weights)
    if isinstance(target, FoldedConvolution):
        # A bias that the original does not have only carries the fixed shift.
        target.convolution.bias.trainable = layer.use_bias
        return
    scale, shift = _affine(bn)
    kernel = _kernel(target)
    kernel.assign(kernel * _per_channel(scale, kernel.shape))
    target.bias.assign(target.bias * scale + shift)


def _copy_flags(layer: keras.Layer, target: keras.Layer) -> None:
    """Copies what is trainable inside a layer, which its config does not say."""
    for inner, inner_target in zip(children(layer), children(target), strict=False):
        _copy_flags(inner, inner_target)
    if children(layer):
        pairs = zip(own_variables(layer), own_variables(target), strict=True)
        for variable, variable_target in pairs:
            variable_target.trainable = variable.trainable
    elif not children(target):
        target.trainable = layer.trainable
        if isinstance(layer, keras.layers.BatchNormalization):
            target.momentum = layer.momentum


def _kernel(conv: keras.Layer) -> keras.Variable:
    return getattr(conv, _KERNELS[type(conv)])


def _affine(bn: keras.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Computes scale and shift of a BatchNorm in inference, float32 [channels]."""
    scale = 1 / np.sqrt(bn.moving_variance.numpy() + bn.epsilon)
    if bn.scale:
        scale = scale * bn.gamma.numpy()
    shift = -bn.moving_mean.numpy() * scale
    return scale, shift + bn.beta.numpy() if bn.center else shift


def _per_channel(scale: np.ndarray, kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Reshapes a scale [channels] so that it multiplies a kernel's output channels."""
    depthwise = kernel_shape[-1] != len(scale)
    return scale.reshape(kernel_shape[-2:] if depthwise else kernel_shape[-1:])
