"""The model that `model.fit` trains."""

import keras
from keras import ops

from keras_ft.config.config import Config
from keras_ft.config.phases import Phase
from keras_ft.data.examples import Examples
from keras_ft.training.losses import make_training_loss
from keras_ft.training.optimizer import make_optimizer


def make_learner(
    config: Config, phase: Phase, train: Examples, network: keras.Model, steps: int
) -> "Learner":
    """Compiles a network for training.

    Args:
        config: The loss, the optimizer, XLA and the seed.
        phase: The phase.
        train: The training examples.
        network: From inputs to logits [B, K].
        steps: Number of batches per epoch.
    """
    loss = make_training_loss(config.train.imbalance, train.count_classes())
    learner = Learner(network, loss)
    learner.compile(
        optimizer=make_optimizer(config.train, phase, steps),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        # An object, not a name: Keras would make its variables within the first
        # step, which would then be traced twice, as without the next line.
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile={"auto": "auto", "on": True, "off": False}[config.speed.jit],
    )
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


class ClassMetrics(keras.metrics.Metric):
    """Macro F1 and balanced accuracy of all examples since `reset_state`.

    Both are computed over the whole set, as `evaluation.metrics.compute_metrics`
    defines them: means over the classes that occur. A mean over batches would differ.
    Three counts per class suffice, so 1000 classes cost no more than their logits.

    Args:
        num_classes: K.
    """

    def __init__(self, num_classes: int):
        super().__init__(name="class_metrics")
        self.num_classes = num_classes
        # Keras adds up the variables of a metric over the devices.
        self.labelled = self._add_counts("labelled")
        self.predicted = self._add_counts("predicted")
        self.correct = self._add_counts("correct")

    def _add_counts(self, name):
        return self.add_variable((self.num_classes,), "zeros", name=name)

    def update_state(self, labels, logits, sample_weight=None):
        """Counts a batch: labels and logits float [B, K]. Takes no weights."""
        labelled, predicted = (
            ops.one_hot(ops.argmax(scores, axis=-1), self.num_classes, dtype=self.dtype)
            for scores in (labels, logits)
        )
        for counts, batch in (
            (self.labelled, labelled),
            (self.predicted, predicted),
            (self.correct, labelled * predicted),
        ):
            counts.assign(counts + ops.sum(batch, axis=0))

    def result(self):
        """`macro_f1` and `balanced_accuracy`, in [0, 1]; 0 before any example."""
        labelled, predicted, correct = self.labelled, self.predicted, self.correct
        num_occur = ops.sum(ops.cast(labelled > 0, self.dtype))
        # A class that does not occur has no correct prediction, so it adds 0.
        recall = ops.divide_no_nan(correct, labelled)
        f1 = ops.divide_no_nan(2 * correct, labelled + predicted)
        return {
            "macro_f1": ops.divide_no_nan(ops.sum(f1), num_occur),
            "balanced_accuracy": ops.divide_no_nan(ops.sum(recall), num_occur),
        }


class Learner(keras.Model):
    """A network in training, with a training loss besides the compiled loss.

    It shares the network's layers. In its logs `loss` is the training loss and
    `val_loss` the compiled one; `macro_f1` and `balanced_accuracy` are logged of both
    train and val.

    Args:
        network: A functional model to logits [B, K].
        training_loss: See `make_training_loss`.
    """

    def __init__(self, network: keras.Model, training_loss: keras.losses.Loss):
        # A functional model, not one that calls the network: that would cast images
        # to the 16 bits of mixed precision before the network sees them.
        super().__init__(network.input, network.output)
        self.training_loss = training_loss
        # Not compiled: Keras unfolds the results of a model's own metrics only.
        self.class_metrics = ClassMetrics(network.output.shape[-1])

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if training:  # no layer adds a loss of its own
            return self.training_loss(y, y_pred)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.class_metrics.update_state(y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)
