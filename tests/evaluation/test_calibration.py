import numpy as np
import pytest
import scipy.special
from helpers import make_task

from keras_ft.evaluation.calibration import (
    apply_temperature,
    choose_threshold,
    fit_temperature,
)

TASK = make_task(3)


def make_miscalibrated(temperature, count=4000, seed=0):
    """Makes labels whose probabilities are known, and miscalibrated probabilities.

    Returns:
        Labels [N], the softmax of logits times a temperature, the true softmax [N, 3].
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 3))
    fair = scipy.special.softmax(logits, axis=1)
    labels = (rng.random((count, 1)) > fair.cumsum(axis=1)).sum(axis=1)
    probabilities = scipy.special.softmax(logits * temperature, axis=1)
    return labels, probabilities.astype(np.float32), fair


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_fit_temperature_recovers_the_temperature(temperature):
    labels, probabilities, fair = make_miscalibrated(temperature)
    found, reason = fit_temperature(TASK, labels, probabilities)
    assert found == pytest.approx(temperature, rel=0.08)
    assert reason == ""
    scaled = apply_temperature(TASK, probabilities, found)
    np.testing.assert_allclose(scaled, fair, atol=0.05)


@pytest.mark.parametrize(("temperature", "bound"), [(0.1, 0.5), (50.0, 5.0)])
def test_temperatures_stay_within_bounds(temperature, bound):
    labels, probabilities, _ = make_miscalibrated(temperature)
    found, _ = fit_temperature(TASK, labels, probabilities)
    assert found == pytest.approx(bound, rel=1e-3)


def test_no_temperature_is_fitted_on_few_examples():
    labels, probabilities, _ = make_miscalibrated(2.5, count=99)
    assert fit_temperature(TASK, labels, probabilities) == (
        1.0,
        "val has 99 images, fewer than 100",
    )


def test_no_temperature_is_fitted_without_errors():
    _, probabilities, _ = make_miscalibrated(2.5)
    labels = probabilities.argmax(axis=1)
    found = fit_temperature(TASK, labels, probabilities)
    assert found == (1.0, "there is no error on val")


def test_apply_temperature_divides_logits_and_keeps_predictions():
    rng = np.random.default_rng(0)
    # So large that some probabilities are 0 in float32.
    logits = rng.normal(0, 30, (50, 4))
    probabilities = scipy.special.softmax(logits, axis=1).astype(np.float32)
    for temperature in (0.5, 5.0):
        scaled = apply_temperature(TASK, probabilities, temperature)
        expected = scipy.special.softmax(logits / temperature, axis=1)
        np.testing.assert_allclose(scaled, expected, atol=1e-6)
        np.testing.assert_array_equal(scaled.argmax(1), logits.argmax(1))
    same = apply_temperature(TASK, probabilities, 1.0)
    np.testing.assert_allclose(same, probabilities, rtol=1e-6, atol=1e-37)


def test_the_threshold_separates_separable_classes():
    labels = np.array([0, 0, 0, 1, 1])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.9])
    assert choose_threshold(labels, scores) == pytest.approx(0.35)


def test_the_threshold_has_the_highest_balanced_accuracy():
    rng = np.random.default_rng(3)
    labels = (rng.random(300) < 0.1).astype(int)
    scores = np.clip(rng.normal(0.2 + 0.2 * labels, 0.15), 0, 1)
    threshold = choose_threshold(labels, scores)

    def balanced(at):
        predicted = scores >= at
        return predicted[labels == 1].mean() + (~predicted[labels == 0]).mean()

    assert balanced(threshold) == max(balanced(at) for at in np.linspace(0, 1, 2001))
    assert balanced(threshold) > balanced(0.5)


def test_equal_scores_have_a_threshold():
    assert 0 <= choose_threshold(np.array([1, 0]), np.array([0.4, 0.4])) <= 1
