import numpy as np
import pytest
from helpers import make_examples, make_task

from keras_ft.evaluation.monitor import MONITORS
from keras_ft.training.gain import compare
from keras_ft.training.phase_result import PhaseResult, calibrate


def make_result(val, of_label):
    """A phase with these probabilities of the right class, of two, on val."""
    of_label = np.asarray(of_label, np.float32)
    probabilities = np.stack([of_label, 1 - of_label], axis=1)
    swap = val.labels == 1
    probabilities[swap] = probabilities[swap, ::-1]
    by_split = {"val": {"label": probabilities}}
    calibrated = calibrate(val, by_split)
    return PhaseResult("finetune", 1, 1, 1.0, 0.0, 0.0, by_split, calibrated)


@pytest.fixture
def val():
    names = [str(i) for i in range(90)]  # fewer than a temperature needs
    labels = np.arange(90) % 2
    return make_examples(names, None, labels, make_task(2).class_names)


def gain_of(val, before, after, monitor):
    results = (make_result(val, of_label) for of_label in (after, before))
    return compare(*results, val, MONITORS[monitor], {"label": 1.0})


def test_the_standard_error_is_that_of_paired_losses(val):
    rng = np.random.default_rng(1)
    before = rng.uniform(0.2, 0.9, 90)
    after = np.clip(before + rng.normal(0.02, 0.05, 90), 0.01, 0.99)
    for monitor in ("val_loss", "val_calibrated_loss"):
        result = gain_of(val, before, after, monitor)
        differences = np.log(after) - np.log(before)
        assert result.gain == pytest.approx(differences.mean(), abs=1e-5)
        expected = differences.std() / np.sqrt(90)
        assert result.standard_error == pytest.approx(expected, rel=0.15)
        # Not paired, it would be several times as large.
        assert np.log(after).std() / np.sqrt(90) > 2 * expected


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_phase_is_chosen_unless_it_is_clearly_worse(val, monitor):
    right = np.arange(90) % 3 > 0  # before; 60 of 90
    before = np.where(right, 0.8, 0.4)
    better, level, worse = before.copy(), before.copy(), before.copy()
    better[~right] = 0.8
    level[np.flatnonzero(right)[:10]] = 0.4  # ten images lost, nine won
    level[np.flatnonzero(~right)[:9]] = 0.8
    worse[np.flatnonzero(right)[:20]] = 0.4
    better, level, worse, same = (
        gain_of(val, before, after, monitor) for after in (better, level, worse, before)
    )
    assert better.gain > better.standard_error and better.is_chosen
    assert -level.standard_error < level.gain < 0 and level.is_chosen
    assert worse.gain < -worse.standard_error and not worse.is_chosen
    assert (same.gain, same.standard_error) == (0, 0) and same.is_chosen
    phases = {"finetune": {"gain": same.gain, "standard_error": same.standard_error}}
    [sentence] = MONITORS[monitor].describe_gains(phases)
    assert f"finetune is as good by {monitor}, standard error 0.000" in sentence
    assert sentence.endswith(": chosen, as it is not clearly worse.")
