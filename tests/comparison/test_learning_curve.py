from pathlib import Path

import pytest
from helpers import run_metrics

from keras_ft.comparison.learning_curve import find_curves, fit_power_law
from keras_ft.comparison.ranking import Result, rank
from keras_ft.evaluation.monitor import MONITORS


def runs(size, accuracies, images=None, **others):
    """Runs with `size` examples for each of two classes, one run per accuracy."""
    setting = (("examples_per_class", str(size)), *others.items())
    counts = {"train": 2 * (images or size), "val": 100}
    return [
        Result(
            Path(f"{setting}{seed}"),
            setting,
            seed,
            run_metrics(1 - accuracy, accuracy, num_examples=counts),
        )
        for seed, accuracy in enumerate(accuracies)
    ]


def curves(*results):
    ranking = rank([run for each in results for run in each], MONITORS["val_loss"])
    return find_curves(ranking.settings)


def test_the_power_law_of_the_data_is_fitted():
    sizes = [5, 10, 20, 50]
    law = fit_power_law(sizes, [0.8 * size**-0.4 for size in sizes])
    assert (law.scale, law.exponent) == pytest.approx((0.8, -0.4))
    assert law.error(100) == pytest.approx(0.8 * 100**-0.4)
    assert fit_power_law([10, 20], [0.4, 0.8]).error(1000) == 1


def test_the_gain_of_twice_as_many_labels_follows_from_the_law():
    # The error is halved with each four-fold size: a gain of 0.1 * (1 - 2**-0.5).
    [curve] = curves(
        runs(64, [0.899, 0.901]),
        runs(4, [0.595, 0.605]),
        runs(16, [0.799, 0.801]),
    )
    assert curve.sizes == (4, 16, 64)
    assert [point.mean for point in curve.accuracies] == pytest.approx([0.6, 0.8, 0.9])
    assert (curve.accuracies[0].low, curve.accuracies[0].high) == (0.595, 0.605)
    assert curve.law.exponent == pytest.approx(-0.5)
    assert curve.statement == (
        "Twice as many labels (128 per class) would raise the val accuracy by about "
        "0.03, extrapolated from 3 sizes by a power law."
    )


def test_the_statement_says_if_the_gain_is_within_the_noise_or_the_noise_unknown():
    noisy = [runs(4, [0.5, 0.7]), runs(16, [0.7, 0.9]), runs(64, [0.85, 0.95])]
    [curve] = curves(*noisy)
    assert "within the noise between seeds (below 0." in curve.statement
    [curve] = curves(*(each[:1] for each in noisy))
    assert "with one seed the noise is unknown" in curve.statement
    [curve] = curves(*([each[0], each[0]] for each in noisy))
    assert "since no seed changed a result, the noise is unknown" in curve.statement


def test_few_sizes_or_no_rise_promise_no_gain():
    [curve] = curves(runs(4, [0.5, 0.5]), runs(16, [0.7, 0.7]))
    assert curve.law is None
    assert curve.statement.startswith("2 sizes are too few")
    [curve] = curves(runs(4, [0.7]), runs(16, [0.7]), runs(64, [0.6]))
    assert "did not rise" in curve.statement


def test_a_curve_may_reach_an_error_of_zero():
    [curve] = curves(runs(4, [0.9]), runs(16, [1.0]), runs(64, [1.0]))
    assert "would raise the val accuracy by less than 0.01" in curve.statement


def test_each_combination_of_the_other_flags_has_its_own_curve():
    found = curves(
        *(runs(size, [0.5], unfreeze="all") for size in (4, 8)),
        *(runs(size, [0.6], unfreeze="none") for size in (4, 8)),
        runs(4, [0.6], unfreeze="to:conv2"),
    )
    assert {curve.setting for curve in found} == {
        (("unfreeze", "all"),),
        (("unfreeze", "none"),),
    }


def test_sizes_are_the_numbers_of_images_that_there_are():
    # 0 means all images, here 30; 50 are not there either.
    [curve] = curves(runs(0, [0.8], 30), runs(50, [0.6], 30), runs(10, [0.5], 10))
    assert curve.sizes == (10, 30)
    assert curve.accuracies[1].mean == pytest.approx(0.7)


def test_without_the_flag_there_is_no_curve():
    plain = [Result(Path("a"), (("dropout", "0"),), 0, runs(4, [0.5])[0].metrics)]
    assert curves(plain) == []
