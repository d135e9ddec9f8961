import dataclasses
from pathlib import Path

import pytest
import scipy.stats
from helpers import run_metrics

from keras_ft.comparison.ranking import Result, pool_noise
from keras_ft.comparison.ranking import rank as rank_by
from keras_ft.evaluation.monitor import MONITORS


def rank(results, monitor="val_loss"):
    return rank_by(results, MONITORS[monitor])


def setting(name):
    return (("unfreeze", name),)


def run(name, seed, loss, seconds=10.0, accuracy=0.5, **metrics):
    metrics = run_metrics(loss, accuracy, **{"seconds": {"total": seconds}, **metrics})
    return Result(Path(f"{name}{seed}"), setting(name), seed, metrics)


def runs(name, losses, seconds=10.0):
    return [run(name, seed, loss, seconds) for seed, loss in enumerate(losses)]


def names(ranking):
    return [ranked.setting[0][1] for ranked in ranking.settings]


def test_settings_are_ranked_by_the_mean_of_the_monitored_metric():
    results = [
        *(run("a", seed, 1.0, accuracy=acc) for seed, acc in enumerate([0.9, 0.7])),
        *(run("b", seed, 2.0, accuracy=acc) for seed, acc in enumerate([0.95, 0.85])),
    ]
    by_loss = rank(results)
    assert names(by_loss) == ["a", "b"]
    by_accuracy = rank(results, "val_accuracy")
    assert names(by_accuracy) == ["b", "a"]
    assert dataclasses.astuple(by_accuracy.settings[0].val) == pytest.approx(
        (0.9, 0.85, 0.95)
    )
    assert by_loss.settings[1].val_accuracy == pytest.approx(0.9)


def test_noise_is_the_error_term_of_a_one_way_analysis_of_variance():
    groups = [[1.0, 2.0, 3.0], [5.0, 5.5, 7.5], [2.0, 2.2, 2.1]]
    noise = pool_noise(groups)
    # Squares within: 2 + 3.5 + 0.02, over 9 - 3 degrees of freedom.
    assert noise.degrees == 6
    assert noise.std**2 == pytest.approx(5.52 / 6)
    # t of 0.975 at 6 degrees, from a printed table.
    assert noise.least_significant_difference(3, 3) == pytest.approx(
        2.447 * (5.52 / 6 * 2 / 3) ** 0.5, rel=1e-3
    )


def test_two_settings_are_distinguished_as_by_students_t_test():
    for shift in (1.0, 2.0, 3.0):
        a, b = [1.0, 2.0, 2.5], [1.0 + shift, 2.0 + shift, 3.5 + shift]
        ranking = rank([*runs("a", a), *runs("b", b)])
        p = scipy.stats.ttest_ind(a, b).pvalue
        assert ranking.settings[1].within_noise == (p >= 0.05)
    assert p < 0.05


def test_the_fastest_of_the_settings_within_the_noise_is_recommended():
    ranking = rank(
        [
            *runs("best", [1.0, 1.2], seconds=60),
            *runs("close", [1.1, 1.3], seconds=20),
            *runs("far", [9.0, 9.2], seconds=1),
        ]
    )
    assert [one.within_noise for one in ranking.settings] == [True, True, False]
    assert ranking.recommended.setting == setting("close")
    assert ranking.reason == (
        "Its val_loss, 1.2000, is within the noise of the best, 1.1000 "
        "(unfreeze=best), and it is the fastest of the 2 settings that are "
        "indistinguishable within the noise, 20 s instead of 60 s."
    )


def test_the_best_is_recommended_if_it_is_the_fastest_or_alone():
    results = [*runs("a", [1.0, 1.2], seconds=5), *runs("b", [1.1, 1.2], seconds=9)]
    ranking = rank(results)
    assert ranking.recommended.setting == setting("a")
    assert "is the best, and it is the fastest of the 2 settings" in ranking.reason
    results = [*runs("a", [1.0, 1.2], seconds=9), *runs("b", [8.1, 8.2], seconds=1)]
    ranking = rank(results)
    assert ranking.recommended.setting == setting("a")
    assert "more than the noise" in ranking.reason


def test_a_setting_that_cannot_be_compared_is_recommended_with_the_reason():
    failed = Result(Path("b0"), setting("b"), 0, error="no memory.")
    few = run("c", 0, 0.1, num_examples={"train": 3})
    alone = runs("a", [1.0])
    start = "Its val_loss, 1.0000, can't be compared: "
    missing = " Without a finished run: 1 of"
    for others, reason in (
        ([], "no other has finished."),
        ([failed], f"no other has finished.{missing} 2 settings."),
        ([few], "the others train on fewer images."),
        ([few, failed], f"the others train on fewer images.{missing} 3 settings."),
    ):
        assert rank([*others, *alone]).reason == start + reason
    of_three = rank([*alone, failed, *runs("c", [2.0])]).reason
    assert of_three.endswith(f"uncertain.{missing} 3 settings.")


def test_settings_with_fewer_images_come_last_and_do_not_count_as_noise():
    few = {"num_examples": {"train": 3}}
    results = [
        *(run("few", seed, loss, 1.0, **few) for seed, loss in enumerate([0.1, 5.9])),
        *runs("a", [4.0, 4.1]),
        *runs("b", [4.5, 4.6]),
    ]
    ranking = rank(results)
    assert names(ranking) == ["a", "b", "few"]
    assert [one.within_noise for one in ranking.settings] == [True, False, None]
    assert ranking.recommended.setting == setting("a")
    assert ranking.noise.degrees == 2


def test_with_one_seed_the_noise_is_unknown():
    ranking = rank([run("a", 0, 1.0, 99.0), run("b", 0, 9.0, 1.0)])
    assert ranking.noise is None
    assert {one.within_noise for one in ranking.settings} == {None}
    assert ranking.recommended.setting == setting("a")
    assert "every difference is uncertain" in ranking.reason


def test_runs_that_no_seed_changes_say_nothing_about_the_noise():
    ranking = rank([*runs("a", [1.0, 1.0]), *runs("b", [1.1, 1.1])])
    assert ranking.noise is None
    assert {one.within_noise for one in ranking.settings} == {None}
    assert "since no seed changed a result, the noise is unknown" in ranking.reason
    ranking = rank([*runs("a", [1.0, 1.0]), *runs("b", [1.1, 1.3])])
    assert ranking.noise == pool_noise([[1.1, 1.3]])


def test_failed_runs_are_left_out():
    failed = Result(Path("c0"), setting("c"), 0, error="no memory")
    results = [failed, *runs("a", [1.0, 1.1]), run("b", 0, 1.2)]
    ranking = rank(results)
    assert names(ranking) == ["a", "b"]
    assert ranking.noise.degrees == 1
    assert rank([failed]) is None


def test_costs_are_medians_and_may_be_unknown():
    results = [
        run("a", seed, 1.0, seconds, inference_images_per_second=rate)
        for seed, seconds, rate in ((0, 90.0, 5.0), (1, 10.0, 6.0), (2, 12.0, 50.0))
    ]
    [known] = rank(results).settings
    assert (known.seconds, known.model_bytes, known.images_per_second) == (12, 7, 6)
    [not_exported] = rank([run("a", 0, 1.0, inference_images_per_second=None)]).settings
    assert not_exported.images_per_second is None
