import dataclasses
import shlex

import numpy as np
import pytest
from helpers import make_dataset
from run_page_helpers import Run

from keras_ft.catalog.backbones import Weights
from keras_ft.comparison.sweep import plan_runs
from keras_ft.config import flags
from keras_ft.config.settings import Config
from keras_ft.report.next_steps import Results, suggest


@pytest.fixture
def make_results(tmp_path):
    """Makes the results of a run; `changed` are flags, `facts` of its files."""

    def make(
        class_names=("cat", "dog", "eel"), wrong=(), facts=(), best_row=None, **changed
    ):
        run = Run(tmp_path, class_names, wrong, per_class=12)
        config = run.run.recipe.config.replace(head_epochs=3, weights="imagenet")
        run.run.paths.flags.write_text(flags.to_flagfile(config))
        for section in ("data", "train"):
            old = getattr(run.run.recipe, section)
            names = {field.name for field in dataclasses.fields(old)} & set(changed)
            new = dataclasses.replace(
                old, **{name: changed.pop(name) for name in names}
            )
            recipe = dataclasses.replace(run.run.recipe, **{section: new})
            run.run = dataclasses.replace(run.run, recipe=recipe)
        dataset = make_dataset(run.splits)
        for name, value in dict(facts).items():
            dataset.facts[name] = value
        run.metrics["test"]["accuracy_interval"] = [0.9, 1.0]
        run.metrics.update(changed)
        rows = [{"phase": "finetune", "epoch": "1"} | best_row] if best_row else []
        return Results(run.run, dataset, run.metrics, rows)

    return make


def parse(step):
    """The config of a suggested command, which breaks no rule."""
    python, option, module, *arguments = shlex.split(step.command)
    assert (python, option, module) == ("python", "-m", "keras_ft")
    config = flags.parse(["keras_ft", *arguments])
    assert isinstance(config, Config)
    return config


def find(results, part):
    """The suggestion that contains a text, None if there is none."""
    steps = suggest(results)
    assert 1 <= len(steps) <= 5
    configs = [parse(step) for step in steps]
    found = [i for i, step in enumerate(steps) if part in step.text]
    return configs[found[0]] if found else None


def test_a_run_without_errors_suggests_to_use_the_model(make_results, tmp_path):
    results = make_results(exports={"saved_model": {}})
    predict, serve = map(parse, suggest(results))
    assert (predict.run.mode, serve.run.mode) == ("predict", "serve")
    assert predict.apply.model == serve.apply.model == str(tmp_path / "run")


@pytest.mark.parametrize(("high", "is_suggested"), [(0.84, False), (0.86, True)])
def test_few_test_images_suggest_to_measure_on_more(make_results, high, is_suggested):
    results = make_results()
    results.metrics["test"]["accuracy_interval"] = [0.7, high]
    config = find(results, "36 test images can't tell runs apart: the accuracy is betw")
    assert (config is not None) == is_suggested
    assert not is_suggested or config.run.mode == "evaluate"


@pytest.mark.parametrize(
    ("used", "tried", "is_suggested"),
    [
        ("starter", "imagenet", True),
        ("starter", "x.h5", False),
        ("imagenet", "", False),
    ],
)
def test_starter_weights_suggest_those_of_imagenet(
    make_results, used, tried, is_suggested
):
    results = make_results(wrong=(1, 2))
    attempts = ({"weights": tried, "error": "no network"},) if tried else ()
    record = dataclasses.replace(
        results.run.record, weights=Weights(used, attempts=attempts)
    )
    run = dataclasses.replace(results.run, record=record)
    config = find(dataclasses.replace(results, run=run), "starter weights, which are")
    assert (config is not None) == is_suggested
    assert not is_suggested or config.model.weights == ("imagenet",)


def test_what_was_not_exported_is_not_served(make_results):
    [predict] = suggest(make_results(exports={}))
    assert "--mode=predict" in predict.command


@pytest.mark.parametrize(
    ("audit", "part"),
    [
        ({"leak": 1}, "1 finding of the audit says that an image of val or test"),
        ({"near_leak": 2, "conflict": 9}, "2 findings of the audit say that an image"),
        ({"near_conflict": 2}, "have different labels"),
        (
            {"not_searched": 1},
            "skips the search for near duplicates in sets of this size",
        ),
    ],
)
def test_findings_suggest_a_check(make_results, audit, part):
    config = find(make_results(audit=audit), part)
    assert config.run.mode == "check" and config.apply.output


def test_near_duplicates_in_one_split_suggest_nothing(make_results):
    [predict] = suggest(make_results(audit={"near_duplicate": 5}))
    assert "--mode=predict" in predict.command


@pytest.mark.parametrize(
    ("weights", "part", "mode"),
    [("none", "random weights", "train"), ("imagenet", "wrong with the data", "check")],
)
def test_what_has_learned_nothing_begins_again(make_results, weights, part, mode):
    results = make_results(wrong=range(5))
    results.metrics["test"]["accuracy_interval"] = [0.3, 0.5]
    run = with_weights(results.run, weights)
    model = dataclasses.replace(run.recipe.model, backbone="resnet50")
    recipe = dataclasses.replace(run.recipe, model=model)
    run = dataclasses.replace(run, recipe=recipe)
    results = dataclasses.replace(results, run=run)
    config = find(results, part)
    assert config.run.mode == mode
    assert mode == "check" or config.model.weights is config.train.head_epochs is None
    assert len(suggest(results)) == 2  # no confusion, and nothing to serve


def test_no_command_is_suggested_twice(make_results):
    results = make_results(wrong=range(5), audit={"leak": 1})
    results.metrics["test"]["accuracy_interval"] = [0.3, 0.5]
    first, predict = suggest(results)
    assert "another split" in first.text and "--mode=check" in first.command


def with_weights(run, used):
    """A run that began with some weights."""
    record = dataclasses.replace(run.record, weights=Weights(used))
    return dataclasses.replace(run, record=record)


@pytest.mark.parametrize(
    ("weights", "side", "wrong", "expected"),
    [
        ("imagenet", 100, (0,), True),
        ("imagenet", 16, (0,), False),  # files have no more pixels
        ("imagenet", 100, (), False),  # nothing to improve
        ("none", 100, (0,), False),  # no weights prefer a size
        ("/gone", 100, (0,), False),
    ],
)
def test_larger_images_are_suggested(make_results, weights, side, wrong, expected):
    results = make_results(wrong=wrong, facts={"width": side, "height": side})
    run = with_weights(results.run, weights)
    config = find(dataclasses.replace(results, run=run), "sees 16 px")
    assert (config is not None) == expected
    if expected:
        assert config.data.image_size == (32, 32)
        assert config.run.workdir.endswith("run-32px")


def test_a_weak_class_with_few_images_should_have_more(make_results):
    results = make_results(wrong=range(12, 22))
    assert find(results, "recognised") is None  # all classes have as many images
    part = (
        "Of 12 test images of dog, 2 are recognised, and it has only 1 training image"
    )
    assert find(with_one_dog(results), part).run.workdir.endswith("run-more")


def with_one_dog(results):
    """The results with a single image of dog in train."""
    splits = results.dataset.examples.splits.copy()
    splits[13:24] = "unused"
    examples = results.dataset.examples.with_splits(splits)
    dataset = dataclasses.replace(results.dataset, examples=examples)
    return dataclasses.replace(results, dataset=dataset)


def test_one_error_is_no_reason_for_more_images(make_results):
    assert find(with_one_dog(make_results(wrong=[12])), "recognised") is None


@pytest.mark.parametrize(
    ("gain", "expected"), [(-0.1, True), (0.1, True), (0.3, False), (None, False)]
)
def test_a_learning_curve_is_suggested_where_fine_tuning_gained_nothing(
    make_results, gain, expected
):
    results = make_results(wrong=[0])
    phase = results.metrics["phases"]["finetune"]
    phase |= {"gain": gain, "standard_error": gain and 0.2}
    assert find(results, "learning curve") is None  # 12 images of a class are too few
    repeated = results.dataset.examples.take(np.repeat(np.arange(108), 2))
    dataset = make_dataset(repeated)
    config = find(dataclasses.replace(results, dataset=dataset), "learning curve")
    assert (config is not None) == expected
    if expected:
        values = [run.config.data.examples_per_class for run in plan_runs(config)]
        assert sorted(set(values)) == [6, 12, 24]


def test_the_most_frequent_confusion_is_named(make_results):
    config = find(make_results(wrong=[0, 12, 13, 14]), "3 of 12 test images of dog")
    assert config.data.classes == ("dog", "eel")


@pytest.mark.parametrize(
    ("class_names", "wrong"), [(("cat", "dog", "eel"), [0, 1]), (("a", "b"), range(9))]
)
def test_chance_and_two_classes_are_no_confusion(make_results, class_names, wrong):
    assert find(make_results(class_names, wrong), "confusion") is None


def test_names_in_commands_are_quoted(make_results):
    names = ("a, b", "it's $HOME", "z")
    config = find(make_results(names, [0, 1, 2, 3]), "confusion")
    assert config.data.classes == names[:2]


OVERFITTED = {"accuracy": "0.99", "val_accuracy": "0.8"}


@pytest.mark.parametrize(
    ("row", "changed", "ending", "expected"),
    [
        (OVERFITTED, {}, "JPG", True),
        (OVERFITTED, {}, "png", False),
        (OVERFITTED, {"mirror": True}, "jpg", False),
        (OVERFITTED, {"augment": "none"}, "jpg", False),
        (OVERFITTED, {"unfreeze": "from:conv3"}, "jpg", False),
        (OVERFITTED, {"best_phase": "head"}, "jpg", False),
        ({"accuracy": "0.81", "val_accuracy": "0.8"}, {}, "jpg", False),
        (None, {}, "jpg", False),
    ],
)
def test_mirroring_is_suggested_for_photographs(
    make_results, row, changed, ending, expected
):
    results = make_results(best_row=row, **changed)
    originals = np.array([f"{i}.{ending}" for i in range(108)], object)
    dataset = dataclasses.replace(results.dataset, originals=originals)
    config = find(dataclasses.replace(results, dataset=dataset), "mirrored")
    assert (config is not None) == expected
    assert not expected or config.data.mirror
