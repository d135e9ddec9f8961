"""The model that `model.fit` trains."""

from collections.abc import Mapping

import keras
from keras import ops

from keras_ft.config.config import Config
from keras_ft.config.phases import Phase
from keras_ft.data.examples import Examples
from keras_ft.system.collectives import current_workers
from keras_ft.training.losses import make_losses
from keras_ft.training.optimizer import make_optimizer
from keras_ft.training.task_metrics import NAMES, TaskMetrics


def make_learner(
    config: Config, phase: Phase, examples: Examples, network: keras.Model, steps: int
) -> "Learner":
    """Compiles a network for training.

    Args:
        config: The loss, the optimizer, XLA and the seed.
        phase: The phase.
        examples: The examples in their splits.
        network: From inputs to a dict of logits [B, K] by task.
        steps: Number of batches per epoch.
    """
    weights = config.train.weigh(task.name for task in examples.tasks)
    learner = Learner(
        network,
        make_losses(examples.train, config.train.imbalance, config.train.loss),
        make_losses(examples.val, "none"),
        weights,
        [TaskMetrics(task, examples.tasks) for task in examples.tasks],
    )
    learner.compile(
        optimizer=make_optimizer(config.train, phase, steps),
        jit_compile=config.speed.jit == "on",
    )
    # Otherwise Keras makes its variables within the first step, which would then be
    # traced twice.
    learner.optimizer.build(learner.trainable_variables)
    _reset_seeds(learner, config.run.seed)
    return learner


def _reset_seeds(network: keras.Model, seed: int) -> None:
    """Resets the random generators of a network, those of dropout.

    Phases share layers, so a generator would continue where the phase before left it,
    which a resumed run may not repeat.
    """
    weights = {id(weight) for weight in network.weights}
    states = [state for state in network.variables if id(state) not in weights]
    for i, state in enumerate(states):
        state.assign([seed + i, 0])  # a seed, and how often it was drawn from


class Learner(keras.Model):
    """A network in training, with a training loss and another one for validation.

    It shares the network's layers. In its logs `loss` is the training loss and
    `val_loss` the other one, means over the tasks, as are accuracy, `macro_f1` and
    `balanced_accuracy`. With several tasks, there are also those of each task.

    Args:
        network: A functional model to a dict of logits [B, K] by task.
        training_losses: A loss for each task, see `make_losses`.
        val_losses: Those for validation.
        weights: The weight of each task; the sum is 1.
        metrics_by_task: The metrics of each task.
    """

    def __init__(
        self,
        network: keras.Model,
        training_losses: Mapping[str, keras.losses.Loss],
        val_losses: Mapping[str, keras.losses.Loss],
        weights: Mapping[str, float],
        metrics_by_task: list[TaskMetrics],
    ):
        # A functional model, not one that calls the network: that would cast images
        # to the 16 bits of mixed precision before the network sees them.
        super().__init__(network.input, network.output)
        self.training_losses = training_losses
        self.val_losses = val_losses
        self.task_weights = weights
        # Not compiled: Keras unfolds the results of a model's own metrics only.
        self.metrics_by_task = metrics_by_task
        self._has_workers = current_workers().count > 1

    # With several workers Keras's `fit` fails in two places, see
    # https://github.com/keras-team/keras/issues/20585. The next three methods avoid
    # both; tests/training/test_workers.py fails when Keras no longer needs them.

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras passes a batch of several tensors to a function that takes one. There is
        # nothing to build: the layers, the metrics and the optimizer are built.
        if not self._has_workers:
            super()._maybe_symbolic_build(iterator, data_batch)

    def train_step(self, data):
        return self._with_axis(super().train_step(data))

    def test_step(self, data):
        return self._with_axis(super().test_step(data))

    def _with_axis(self, logs):
        """Adds to scalars the axis that Keras takes the mean over."""
        if not self._has_workers:
            return logs
        return {name: ops.reshape(value, (1,)) for name, value in logs.items()}

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        losses = self.training_losses if training else self.val_losses
        return sum(
            weight * losses[task](y[task], y_pred[task])
            for task, weight in self.task_weights.items()
        )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        for metrics in self.metrics_by_task:
            task = metrics.task.name
            metrics.update_state(y[task], y_pred[task])
        return self.get_metrics_result()

    def get_metrics_result(self):
        results = super().get_metrics_result()
        if len(self.metrics_by_task) > 1:
            for name in NAMES:
                results[name] = sum(
                    weight * results[f"{task}_{name}"]
                    for task, weight in self.task_weights.items()
                )
        return results
