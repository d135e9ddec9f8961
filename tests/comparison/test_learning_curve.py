import pytest

from keras_ft.comparison.learning_curve import find_curves, fit_power_law
from keras_ft.comparison.ranking import Result, rank


def runs(size, accuracies, images=None, **others):
    """Runs with `size` examples for each of two classes, one run per accuracy."""
    setting = (("examples_per_class", str(size)), *others.items())
    return [
        Result(
            f"{setting}{seed}",
            setting,
            seed,
            {
                "class_names": ["a", "b"],
                "num_examples": {"train": 2 * (images or size), "val": 100},
                "val": {"loss": 1 - accuracy, "accuracy": accuracy},
                "seconds": {"total": 1.0},
                "model_bytes": 7,
                "inference_images_per_second": 5.0,
            },
        )
        for seed, accuracy in enumerate(accuracies)
    ]


def curves(*results):
    ranking = rank([run for each in results for run in each], "val_loss")
    return find_curves(ranking.settings)


def test_a_power_law_is_found_again():
    sizes = [5, 10, 20, 50]
    law = fit_power_law(sizes, [0.8 * size**-0.4 for size in sizes])
    assert (law.scale, law.exponent) == pytest.approx((0.8, -0.4))
    assert law.error(100) == pytest.approx(0.8 * 100**-0.4)
    assert fit_power_law([10, 20], [0.4, 0.8]).error(1000) == 1


def test_twice_as_many_labels_bring_what_the_law_says():
    # The error is halved with each four-fold size: a gain of 0.1 * (1 - 2**-0.5).
    [curve] = curves(
        runs(64, [0.9, 0.9]),
        runs(4, [0.595, 0.605]),
        runs(16, [0.8, 0.8]),
    )
    assert curve.sizes == (4, 16, 64)
    assert [point.mean for point in curve.accuracies] == pytest.approx([0.6, 0.8, 0.9])
    assert (curve.accuracies[0].low, curve.accuracies[0].high) == (0.595, 0.605)
    assert curve.law.exponent == pytest.approx(-0.5)
    assert curve.statement == (
        "Twice as many labels (128 per class) would bring about 0.03 more val "
        "accuracy, extrapolated from 3 sizes by a power law."
    )


def test_a_gain_within_the_noise_and_a_single_seed_are_told():
    noisy = [runs(4, [0.5, 0.7]), runs(16, [0.7, 0.9]), runs(64, [0.85, 0.95])]
    [curve] = curves(*noisy)
    assert "within the noise of seeds (below 0." in curve.statement
    [curve] = curves(*(each[:1] for each in noisy))
    assert "with one seed the noise is not known" in curve.statement


def test_few_sizes_or_no_rise_promise_nothing():
    [curve] = curves(runs(4, [0.5, 0.5]), runs(16, [0.7, 0.7]))
    assert curve.law is None
    assert curve.statement.startswith("2 sizes do not tell")
    [curve] = curves(runs(4, [0.7]), runs(16, [0.7]), runs(64, [0.6]))
    assert "did not rise" in curve.statement


def test_no_error_at_all_has_a_curve_too():
    [curve] = curves(runs(4, [0.9]), runs(16, [1.0]), runs(64, [1.0]))
    assert "would bring less than 0.01 more" in curve.statement


def test_each_other_setting_has_its_own_curve():
    found = curves(
        *(runs(size, [0.5], unfreeze="all") for size in (4, 8)),
        *(runs(size, [0.6], unfreeze="none") for size in (4, 8)),
        runs(4, [0.6], unfreeze="to:conv2"),
    )
    assert {curve.setting for curve in found} == {
        (("unfreeze", "all"),),
        (("unfreeze", "none"),),
    }


def test_sizes_are_what_the_classes_have():
    # 0 means all images, here 30; 50 are not there either.
    [curve] = curves(runs(0, [0.8], 30), runs(50, [0.6], 30), runs(10, [0.5], 10))
    assert curve.sizes == (10, 30)
    assert curve.accuracies[1].mean == pytest.approx(0.7)


def test_without_the_flag_there_is_no_curve():
    plain = [Result("a", (("dropout", "0"),), 0, runs(4, [0.5])[0].metrics)]
    assert curves(plain) == []
