import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from keras_ft.evaluation.monitor import MONITORS
from keras_ft.training import solved_head
from keras_ft.training.losses import LabelledLoss
from keras_ft.training.solved_head import solve_head

MONITOR = MONITORS["val_calibrated_loss"]
cross_entropy = LabelledLoss(tf.nn.softmax_cross_entropy_with_logits)


class Part:
    """Stands in for `TrainedPart`: heads on features of two blurred classes."""

    def __init__(self, *tasks, features, labels):
        self.features, self.labels = features, labels
        inputs = keras.Input(features.shape[1:])
        dense = {task: keras.layers.Dense(3, name=task) for task in tasks}
        outputs = {task: layer(inputs) for task, layer in dense.items()}
        self.network, self.heads = keras.Model(inputs, outputs), dense
        self.task_weights = {task: 1 / len(tasks) for task in tasks}
        self.val_losses = []

    def feature_batches(self):
        def batches():
            for start in range(0, len(self.features), 16):
                part = slice(start, start + 16)
                labels = dict.fromkeys(self.heads, self.labels[part])
                yield tf.constant(self.features[part]), labels

        return batches

    def measure_val(self):
        """The loss of other features of the same classes."""
        logits = self.network(self.features[::-1] * 0.5)
        losses = [
            np.mean(cross_entropy.call(self.labels[::-1], logits[t]))
            for t in self.heads
        ]
        self.val_losses.append(np.mean(losses))
        return {MONITOR.name: self.val_losses[-1]}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    features = rng.normal(3, 1, (60, 5)).astype(np.float32)
    features[:, :3] += 1.5 * np.eye(3, dtype=np.float32)[labels]
    return {"features": features, "labels": np.eye(3, dtype=np.float32)[labels]}


def test_it_is_logistic_regression(data):
    part = Part("label", **data)
    objective = solved_head._Objective(part, {"label": cross_entropy})
    strength = 0.01
    objective.assign(objective.minimise(objective.zeros, strength))
    scaled = data["features"] / np.sqrt(np.mean(data["features"] ** 2))
    reference = LogisticRegression(C=1 / (strength * 60), tol=1e-6, max_iter=1000)
    reference.fit(scaled, data["labels"].argmax(1))
    probabilities = tf.nn.softmax(part.network(data["features"])["label"])
    expected = reference.predict_proba(scaled)
    np.testing.assert_allclose(probabilities, expected, atol=5e-3)


def test_two_heads_are_solved_as_one_alone(data):
    """The weights of the tasks add up to 1, so each has half of the penalty."""
    two, one = Part("a", "b", **data), Part("a", **data)
    for part, strength in ((two, 0.05), (one, 0.1)):
        losses = dict.fromkeys(part.heads, cross_entropy)
        objective = solved_head._Objective(part, losses)
        objective.assign(objective.minimise(objective.zeros, strength))
    for name in ("a", "b"):
        logits = two.network(data["features"])[name]
        expected = one.network(data["features"])["a"]
        np.testing.assert_allclose(logits, expected, atol=0.02)


def test_the_strength_that_is_best_on_val_is_kept(data, caplog):
    part = Part("label", **data)
    best = solve_head(part, {"label": cross_entropy}, MONITOR, to_beat=9.0)
    assert best == min(part.val_losses) < part.val_losses[0]
    assert best == part.measure_val()[MONITOR.name]  # the network has these weights
    # The path ended three strengths after the best.
    assert np.argmin(part.val_losses[:-1]) == len(part.val_losses) - 1 - 1 - 3
    assert f"has a val_calibrated_loss of {best:.4f}, trained 9.0000" in caplog.text


def test_better_weights_stay(data):
    part = Part("label", **data)
    before = part.network.get_weights()
    assert solve_head(part, {"label": cross_entropy}, MONITOR, to_beat=0.0) == 0
    for old, new in zip(before, part.network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_are(data, caplog):
    def with_deviation(labels, logits):  # its gradient is NaN for equal logits
        loss = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
        return loss + tf.math.reduce_std(logits, axis=-1)

    part = Part("label", **data)
    before = part.network.get_weights()
    losses = {"label": LabelledLoss(with_deviation)}
    assert solve_head(part, losses, MONITOR, to_beat=9.0) == 9.0
    for old, new in zip(before, part.network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "The head is not solved at strength 10" in caplog.text
    assert "solved at 0" not in caplog.text
