import pytest


@pytest.mark.parametrize(
    ("wrong", "interval", "expected"),
    [
        ((), [0.8, 1.0], "Always predicting dog , the most frequent class in train"),
        ((0,), [0.4, 0.9], "within the interval, so the model may be no better"),
        ((0, 1), [0.2, 0.8], "no better than always predicting dog"),
        ((0, 1, 2), [0.0, 0.6], "no better than always predicting dog"),
    ],
)
def test_verdict_against_the_majority_class(make_run, wrong, interval, expected):
    run = make_run(wrong=wrong)
    run.relabel("train", [0, 1, 1, 1])
    run.metrics["test"]["accuracy_interval"] = interval
    page = run.render()
    assert page.has(expected)
    assert page.has("would reach only 50.0 %") == (not wrong)
    accuracy = 100 * (1 - len(wrong) / 4)
    assert page.has(f"classifies {accuracy:.1f} % of 4 test images correctly")


def test_of_equally_frequent_classes_the_majority_is_the_best_on_test(run):
    run.relabel("test", [1, 1, 1, 0])
    assert run.render().has("Always predicting dog , the most frequent class")


@pytest.mark.parametrize(
    ("head", "wrong", "expected"),
    [
        (0.5, (), "gained 50.0 percentage points over training only the head"),
        (
            0.9,
            (),
            "gained 10.0 percentage points over training only the head",
        ),
        (1.0, (), "Training only the head, without fine-tuning, reached the same"),
        (1.0, (0,), "lost 25.0 percentage points on test compared with training only"),
    ],
)
def test_verdict_against_the_head(make_run, head, wrong, expected):
    run = make_run(wrong=wrong)
    test = run.metrics["phases"]["head"]["test"]
    run.metrics["phases"]["head"]["test"] = test | {"accuracy": head}
    page = run.render()
    assert page.has(expected)
    assert page.has("(90.0 %), which is within the interval") == (head == 0.9)


def test_verdict_when_the_head_is_best(run):
    run.metrics["best_phase"] = "head"
    assert run.render().has("model of phase head: fine-tuning did not improve val_loss")


def test_without_phase_head_the_verdict_does_not_mention_it(run):
    del run.metrics["phases"]["head"]
    run.epochs = [("finetune", "1")]
    page = run.render()
    assert not page.has("the head") and not page.has("phase head")


def test_the_verdict_warns_of_leaks(run):
    assert not run.render().has("too good")
    run.metrics["warnings"] = ["Results on test are likely too good: <reason>."]
    assert run.render().has("too good: <reason>.")


def test_fine_tuning_is_compared_without_thresholds(run):
    """The head has no thresholds of its own, which would look like a gain."""
    run.metrics["test"] = run.metrics["test"] | {"accuracy": 0.75}
    for phase in run.metrics["phases"].values():
        phase["test"] = phase["test"] | {"accuracy": 0.5}
    assert run.render().has("without fine-tuning, reached the same accuracy")
