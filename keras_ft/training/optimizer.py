"""Optimizer and learning-rate schedule of a phase."""

import keras

from keras_ft.config.phases import Phase
from keras_ft.config.schema import TrainConfig


def make_schedule(
    train: TrainConfig, phase: Phase, steps_per_epoch: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up, then constant or cosine down to zero.

    Args:
        train: `schedule` and `warmup_epochs`; warm-up is at most half of the phase.
        phase: Its `epochs` and peak `learning_rate`.
        steps_per_epoch: Batches per epoch.

    Returns:
        A schedule over the phase's steps, or the rate itself where it never changes.
    """
    if train.schedule == "constant" and not train.warmup_epochs:
        return phase.learning_rate
    steps = phase.epochs * steps_per_epoch
    warmup_steps = min((train.warmup_epochs or 0) * steps_per_epoch, steps // 2)
    warmup = {}
    if warmup_steps:
        warmup = {"warmup_target": phase.learning_rate, "warmup_steps": warmup_steps}
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else phase.learning_rate,
        decay_steps=steps - warmup_steps,
        # A cosine that ends at its peak is constant.
        alpha=1.0 if train.schedule == "constant" else 0.0,
        **warmup,
    )


def make_optimizer(
    train: TrainConfig, phase: Phase, steps_per_epoch: int
) -> keras.optimizers.Optimizer:
    """A new optimizer; one can't be compiled again with other trainable weights.

    Weight decay spares biases and BatchNorm's gamma and beta (Goyal et al., arXiv
    1706.02677).
    """
    learning_rate = make_schedule(train, phase, steps_per_epoch)
    # The default of Keras for AdamW is 0.004; here the flag alone decides.
    decay = train.weight_decay or (0.0 if train.optimizer == "adamw" else None)
    if train.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            learning_rate, momentum=train.momentum, weight_decay=decay
        )
    else:
        make = {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}
        optimizer = make[train.optimizer](learning_rate, weight_decay=decay)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer
