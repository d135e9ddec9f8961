import numpy as np
import pytest
import scipy.special
from helpers import make_task

from keras_ft.kinds.calibration import (
    calibrate,
    calibrated_loss,
    fit_temperature,
)
from keras_ft.kinds.measure import measure, summarize
from keras_ft.kinds.task import MULTILABEL

TASK = make_task(3)
TAGS = make_task(3, kind=MULTILABEL)


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


def make_tags(sharpness=1.0):
    """Labels of several classes, and their true probabilities made sharper."""
    rng = np.random.default_rng(0)
    logits = rng.normal([0, -1, -2], 1.5, (3000, 3))
    labels = (rng.random((3000, 3)) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    return labels, 1 / (1 + np.exp(-sharpness * logits))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_fit_temperature_recovers_the_temperature(temperature):
    labels, probabilities, fair = make_miscalibrated(temperature)
    found, reason = fit_temperature(TASK, labels, probabilities)
    assert found == pytest.approx(temperature, rel=0.08)
    assert reason == ""
    scaled = TASK.kind.rescale(probabilities, found)
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


def test_rescaling_divides_logits_and_keeps_predictions():
    rng = np.random.default_rng(0)
    # So large that some probabilities are 0 in float32.
    logits = rng.normal(0, 30, (50, 4))
    probabilities = scipy.special.softmax(logits, axis=1).astype(np.float32)
    for temperature in (0.5, 5.0):
        scaled = TASK.kind.rescale(probabilities, temperature)
        expected = scipy.special.softmax(logits / temperature, axis=1)
        np.testing.assert_allclose(scaled, expected, atol=1e-6)
        np.testing.assert_array_equal(scaled.argmax(1), logits.argmax(1))
    same = TASK.kind.rescale(probabilities, 1.0)
    np.testing.assert_allclose(same, probabilities, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
@pytest.mark.parametrize("sharpness", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("num_labelled", [99, 100])
def test_the_calibrated_loss_is_nearly_that_of_the_fit(kind, num_labelled, sharpness):
    labels, probabilities, _ = make_miscalibrated(sharpness, count=150)
    task, target = TASK, labels.copy()
    if kind == "multilabel":
        task, target = TAGS, np.eye(3, dtype=np.int8)[labels]
    target[num_labelled:] = -1
    calibrated = calibrate(task, target, {"val": probabilities})
    assert (calibrated.temperature == 1) == (num_labelled < 100)
    found = calibrated_loss(task, target, probabilities)
    if num_labelled < 100:
        assert found == summarize(task, target, probabilities)["loss"]
    else:
        expected = summarize(task, target, calibrated.probabilities["val"])["loss"]
        assert found == pytest.approx(expected, abs=1e-3)


def test_the_temperature_undoes_overconfidence_and_thresholds_follow():
    labels, sharp = make_tags(sharpness=3.0)
    target = labels.copy()
    target[::4] = -1  # not labelled
    calibrated = calibrate(TAGS, target, {"val": sharp, "test": sharp[:9]})
    assert calibrated.temperature == pytest.approx(3.0, rel=0.1)
    _, fair = make_tags()
    np.testing.assert_allclose(calibrated.probabilities["val"], fair, atol=0.05)
    assert len(calibrated.task.thresholds) == 3
    chosen, plain = (
        measure(task, labels, calibrated.probabilities["val"])
        for task in (calibrated.task, TAGS)
    )
    assert chosen["macro_f1"] > plain["macro_f1"]
    compared = TAGS.kind.compare_thresholds(
        calibrated.task, calibrated.thresholds, labels, calibrated.probabilities["val"]
    )
    for key in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert compared["test"][key] == chosen[key]
        assert compared["test_without"][key] == plain[key]


def test_a_class_of_few_images_keeps_one_half_beside_others():
    labels, fair = make_tags()
    labels[9:, 2] = 0
    calibrated = calibrate(TAGS, labels, {"val": fair / 2})
    first, second, third = calibrated.task.thresholds
    assert first < 0.4 and second < 0.4 and third == 0.5
    assert calibrated.thresholds.reason == ""


def test_few_val_images_have_no_thresholds():
    labels, fair = make_tags()
    few = {"val": fair[:99]}
    calibrated = calibrate(TAGS, labels[:99], few)
    assert calibrated.task.thresholds == (0.5, 0.5, 0.5)
    assert calibrated.thresholds.reason == "val has 99 images, fewer than 100"


def test_a_threshold_between_two_classes_changes_no_answer():
    task, labels = make_task(2), (np.arange(400) % 20 == 0).astype(int)
    rng = np.random.default_rng(0)
    scores = np.clip(rng.normal(0.1 + 0.3 * labels, 0.1), 0, 1)
    probabilities = np.stack([1 - scores, scores], axis=1)
    calibrated = calibrate(task, labels, {"val": probabilities})
    [value], reason = calibrated.thresholds
    assert 0.1 < value < 0.4 and reason == ""
    assert calibrated.task == task
    compared = task.kind.compare_thresholds(
        task, calibrated.thresholds, labels, probabilities
    )
    plain = measure(task, labels, probabilities)
    for key in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert compared["test_without"][key] == plain[key]
    assert compared["test"]["accuracy"] == ((scores >= value) == labels).mean()
    assert compared["test"]["balanced_accuracy"] > plain["balanced_accuracy"] + 0.2


def test_more_classes_of_which_one_applies_have_no_threshold():
    labels, probabilities, _ = make_miscalibrated(1.0)
    assert calibrate(TASK, labels, {"val": probabilities}).thresholds.values == ()
