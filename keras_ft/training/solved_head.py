"""Phase head, solved: the minimum that its descent approaches, at several strengths.

On frozen features the loss of a head is convex. Its minimum with a penalty on the
squared weights is that of logistic regression; which strength is right, val decides. A
descent that is stopped early regularises in another way. Neither is the better one on
all data, and on cached features both take seconds.
"""

import logging
from collections.abc import Mapping

import numpy as np
import scipy.optimize
import tensorflow as tf
import threadpoolctl

from keras_ft.evaluation.monitor import Monitor
from keras_ft.system.team import current_team
from keras_ft.training.losses import LabelledLoss
from keras_ft.training.trained_part import TrainedPart

log = logging.getLogger("keras_ft")

# From strong to weak: 10, 3.2, 1, ..., 1e-6.
_STRENGTHS = 10.0 ** np.arange(1, -6.5, -0.5)
_PATIENCE = 3  # strengths in a row that do not lower the loss on val
_TINY = 1e-12  # for features that are all 0
_OPTIONS = {"maxiter": 50, "ftol": 1e-6, "gtol": 1e-4}  # of L-BFGS


def solve_head(
    part: TrainedPart,
    losses: Mapping[str, LabelledLoss],
    monitor: Monitor,
    to_beat: float,
) -> float:
    """Solves the heads by L-BFGS; the network keeps the better weights on val.

    Minimises `mean loss + strength / 2 * |W|^2` on all views, without dropout,
    for features that are scaled to a mean square of 1 and then centred. Each strength
    begins at the solution of the one before (Friedman et al., 2010,
    https://doi.org/10.18637/jss.v033.i01).

    Args:
        part: Of a phase that trains the heads alone.
        losses: The training loss of each task.
        monitor: What compares models.
        to_beat: Its value for the weights that the network has now.

    Returns:
        Its value for those that the network has afterwards.
    """
    objective, team = _Objective(part, losses), current_team()
    best, best_weights = to_beat, part.network.get_weights()
    solution, val_losses = objective.zeros, []
    for strength in _STRENGTHS:
        if team.is_chief:
            solution = objective.minimise(solution, strength)
        # Features of two workers may differ in the last digit.
        solution = team.gather(solution[: None if team.is_chief else 0])
        if not np.isfinite(solution).all():
            log.warning(
                "The head is not solved at strength %.2g: the training loss or its "
                "gradient is not finite.",
                strength,
            )
            break
        objective.assign(solution)
        logs = part.measure_val()
        val_losses.append(logs["val_calibrated_loss"])
        if monitor.is_better(logs[monitor.name], best):
            best, best_weights = logs[monitor.name], part.network.get_weights()
        if np.argmin(val_losses) + _PATIENCE < len(val_losses):
            break
    part.network.set_weights(best_weights)
    if not val_losses:
        return best
    log.info(
        "The head, solved at %d strengths, has a %s of %s%s.",
        len(val_losses),
        monitor.name,
        monitor.format(best),
        f", trained {monitor.format(to_beat)}" if best != to_beat else " at best",
    )
    return best


class _Objective:
    """The penalised loss, as a function of float32 [D + 1, K].

    These are kernels and, in the last row, biases, of the K classes of all tasks.
    """

    def __init__(self, part: TrainedPart, losses: Mapping[str, LabelledLoss]):
        self._batches = part.feature_batches()
        self._heads = part.heads
        self._losses, self._weights = losses, part.task_weights
        sums, squares, self._count = tf.constant(0.0), tf.constant(0.0), 0
        for features, _ in self._batches():
            sums += tf.reduce_sum(features, axis=0)
            squares += tf.reduce_sum(features**2)
            self._count += len(features)
        num_features = int(sums.shape[0])
        self._mean = sums / self._count
        self._scale = tf.sqrt(squares / self._count / num_features) + _TINY
        num_classes = sum(head.units for head in self._heads.values())
        self.zeros = np.zeros([num_features + 1, num_classes], np.float32)

    def minimise(self, start: np.ndarray, strength: float) -> np.ndarray:
        """The minimum, found from `start`; NaN where the objective is not finite."""

        def compute(values: np.ndarray) -> tuple[float, np.ndarray]:
            values = values.astype(np.float32).reshape(start.shape)
            loss, gradient = self._compute(values, strength)
            return float(loss), gradient.ravel().astype(np.float64)

        # Its vectors are short: threads would only wait for those of TensorFlow.
        with threadpoolctl.threadpool_limits(1, "blas"):
            found = scipy.optimize.minimize(
                compute, start.ravel(), jac=True, method="L-BFGS-B", options=_OPTIONS
            )
        if not (np.isfinite(found.fun) and np.isfinite(found.jac).all()):
            return np.full_like(start, np.nan)
        return found.x.reshape(start.shape).astype(np.float32)

    def assign(self, values: np.ndarray) -> None:
        """Gives the heads these values."""
        weights = self._unscale(values)
        for head, *kernel_and_bias in zip(self._heads.values(), *weights, strict=True):
            head.set_weights(kernel_and_bias)

    def _unscale(self, values: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Kernels and biases of the heads, for the features as they are."""
        units = [head.units for head in self._heads.values()]
        kernel = values[:-1] / self._scale
        bias = values[-1] - tf.linalg.matvec(kernel, self._mean, transpose_a=True)
        return tf.split(kernel, units, axis=1), tf.split(bias, units)

    def _compute(self, values: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
        """The objective and its gradient."""
        penalised = values.copy()
        penalised[-1] = 0  # the biases
        total = strength / 2 * np.sum(penalised**2)
        gradient = strength * penalised
        for features, labels in self._batches():
            loss, of_batch = self._sum_losses(values, features, labels)
            total += loss.numpy() / self._count
            gradient += of_batch.numpy() / self._count
        return total, gradient

    @tf.function(reduce_retracing=True)  # its operations are short, eager ones slow
    def _sum_losses(
        self, values: tf.Tensor, features: tf.Tensor, labels: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The sum of a batch's losses, and its gradient."""
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = 0.0
            for name, kernel, bias in zip(
                self._heads, *self._unscale(values), strict=True
            ):
                of_task = self._losses[name].call(
                    labels[name], features @ kernel + bias
                )
                loss += self._weights[name] * tf.reduce_sum(of_task)
        return loss, tape.gradient(loss, values)
