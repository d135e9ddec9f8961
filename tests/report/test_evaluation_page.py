import numpy as np
import pytest
from helpers import make_task
from report_helpers import HtmlPage, label, make_measured

from keras_ft.config.settings import Config
from keras_ft.kinds.measure import average
from keras_ft.kinds.task import MULTILABEL, Task
from keras_ft.report.evaluation_page import write_page


@pytest.fixture
def render(tmp_path):
    def call(*measured, **changes):
        by_task = {of_task.task.name: of_task.metrics for of_task in measured}
        metrics = average(by_task, dict.fromkeys(by_task, 1 / len(by_task)))
        metrics |= {"num_examples": 4, "num_seen": 0, "num_skipped": 0, "warnings": []}
        config = Config(mode="evaluate", model="runs/<i>", data="photos")
        page, table = tmp_path / "x.html", tmp_path / "x.wrong.csv"
        write_page(page, table, config, metrics | changes, measured, None, None)
        return HtmlPage((tmp_path / "x.html").read_text(encoding="utf-8"))

    return call


def predict(predictions, num_classes):
    return np.eye(num_classes)[predictions] * 0.8 + 0.2 / num_classes


def test_the_page_of_one_task(render):
    examples = label(Task(class_names=("cat", "<b>dog")), [0, 0, 1, 1])
    measured = make_measured(examples, predict([0, 1, 1, 1], 2))
    warnings = ["Nobody knows."]
    page = render(measured, num_seen=3, num_skipped=2, warnings=warnings)
    assert page.has(
        "classifies 75.0 % of 4 images correctly (standard error 12.5 percentage "
        "points, 95 % confidence interval 40.0 % to 90.0 %)."
    )
    assert page.has("runs/<i> , images photos , without 3 that the model was trained")
    assert page.has("2 can't be read") and page.has("Nobody knows.")
    assert page.has("cat 1.000 0.500 0.667 2")
    assert page.has("cat <b>dog 1 50.0 %")  # confused
    assert page.has("1 of 4 images are classified incorrectly")
    assert page.has("label cat 10.0 % prediction <b>dog 90.0 % 1.png")
    assert not page.has("Grad-CAM")
    assert page.has("Images by label (row) and prediction (column).")


def test_a_page_without_mistakes_says_so(render):
    examples = label(make_task(2), [0, 1])
    page = render(make_measured(examples, predict([0, 1], 2)))
    assert page.has("None: every image is classified correctly.")


def test_the_page_of_several_tasks(render):
    tags = make_task(2, name="tags", kind=MULTILABEL, thresholds=(0.5, 0.5))
    kinds = label(make_task(3, name="kind"), [0, 1, 2])
    tagged = label(tags, [[1, 0], [0, 0]])
    page = render(
        make_measured(kinds, predict([0, 1, 2], 3)),
        make_measured(tagged, np.array([[0.9, 0.1], [0.7, 0]])),
    )
    assert page.has("The mean accuracy of 2 tasks is 75.0 % on 4 images.")
    assert page.has("tags 2 2 50.0 % 12.5 % 0.667 1")
    assert page.has("All classes of 50.0 % of 2 images are right (standard error")
    assert page.has("label none prediction a 70.0 % 1.png")
    ids = {a["id"] for _, a in page.elements if "id" in a}
    assert {a["href"][1:] for tag, a in page.elements if tag == "a"} <= ids


def test_of_many_mistakes_the_surest_are_shown(render):
    examples = label(make_task(2), [0] * 50)
    page = render(make_measured(examples, predict([1] * 50, 2)))
    assert page.has(
        "these are the 48 of which the model is surest, and x.wrong.csv lists all"
    )
    assert sum(tag == "li" for tag, _ in page.elements) == 48
