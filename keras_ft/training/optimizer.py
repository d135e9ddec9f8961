"""Optimizer and learning-rate schedule of a phase."""

import keras
import tensorflow as tf

from keras_ft.config.recipe import Phase, TrainRecipe


def make_schedule(
    train: TrainRecipe, phase: Phase, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up, at most half the phase, then constant or cosine down to zero."""
    if train.schedule == "constant" and not train.warmup_epochs:
        return phase.learning_rate
    steps = phase.epochs * steps_per_epoch
    warmup_steps = min(train.warmup_epochs * steps_per_epoch, steps // 2)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else phase.learning_rate,
        decay_steps=steps - warmup_steps,
        # A cosine that ends at its peak is constant.
        alpha=1.0 if train.schedule == "constant" else 0.0,
        warmup_target=phase.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


class Adam(keras.optimizers.Adam):
    """Adam with one operation per variable.

    Keras's own makes a dozen, each of which passes over all of the variable, and whose
    tracing takes a good part of the first step. The formula is the same, and so are the
    optimizer's variables.
    """

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(self.beta_1, step),
            beta2_power=tf.pow(self.beta_2, step),
            lr=tf.cast(learning_rate, tf.float32),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )


def make_optimizer(
    train: TrainRecipe, phase: Phase, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """A new optimizer; one can't be compiled again with other trainable weights.

    Weight decay spares biases, gamma and beta (Goyal et al., arXiv 1706.02677).
    """
    learning_rate = make_schedule(train, phase, steps_per_epoch)
    decay = train.weight_decay or None
    if train.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            learning_rate, momentum=train.momentum, weight_decay=decay
        )
    else:
        # In Keras the weight decay of Adam is decoupled, too, which makes it AdamW.
        optimizer = Adam(learning_rate, weight_decay=decay)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
