import functools
import itertools
import os
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from PIL import Image
from report_helpers import HtmlPage, make_metrics, measure, predict

from keras_ft.data.examples import Finding, make_examples
from keras_ft.evaluation.calibration import Calibrated
from keras_ft.models.backbones import Weights
from keras_ft.models.classifier import make_backbone, make_classifier
from keras_ft.report import gallery, run_page, task_page
from keras_ft.runs.record import RunRecord

HOSTILE = (
    "\"quoted\" & 'more'",
    "$x^2$",
    "<script>alert(1)</script>",
    "two\nlines",
    "\u202egnp.exe",
    "x" * 80,
    "\u0642\u0637 😀",
)


def make_splits(folder, class_names, per_class):
    """Writes some images of each class and split; the folder's name is not UTF-8."""
    folder = os.fsdecode(os.fsencode(folder) + b"/\xff<b>&'\"")
    os.makedirs(folder)
    classes, rng = range(len(class_names)), np.random.default_rng(0)
    rows = [*itertools.product(("train", "val", "test"), classes, range(per_class))]
    paths = [f"{folder}/{split}-{label}-{i}.png" for split, label, i in rows]
    for path in paths:
        pixels = rng.integers(0, 255, (24, 20, 3), np.uint8)
        Image.fromarray(pixels).save(os.fsencode(path))
    splits, labels, _ = zip(*rows, strict=True)
    examples = make_examples(paths, labels=labels, class_names=class_names)
    return examples.with_splits(np.array(splits, object))


@functools.cache
def make_model(tasks):
    keras.utils.set_random_seed(1)
    return make_classifier(make_backbone("tiny", 16), tasks, dropout=0.0)


class Run:
    """What a report shows, to be changed by tests."""

    def __init__(self, folder, class_names=("cat", "dog"), wrong=(), per_class=2):
        self.splits = make_splits(folder, class_names, per_class)
        self.probabilities = predict(self.splits.test, wrong)
        self.metrics = make_metrics(self.splits, self.probabilities)
        self.findings = []
        self.onednn = None
        self.epochs = [("head", "1"), ("head", "2"), ("finetune", "1")]

    def relabel(self, split, labels):
        """Gives the examples of a split other labels."""
        self.splits.labels[self.splits.splits == split] = labels

    def render(self):
        task, weights = self.splits.task, Weights("starter", sha256="abc123")
        packages = {"keras": "3.15.1", "keras_ft": None}
        values = dict.fromkeys(("loss", "accuracy", "val_loss", "val_accuracy"), "0.5")
        page = run_page.render(
            self.metrics,
            self.splits,
            self.findings,
            {"label": Calibrated(task, 1.25, "", {"test": self.probabilities})},
            make_model(self.splits.tasks),
            RunRecord(
                "running", weights, {}, "float32", ("CPU:0",), packages, self.onednn
            ),
            [{"phase": phase, "epoch": i} | values for phase, i in self.epochs],
            flags=["--data=<i>x</i>", "--seed=7"],
        )
        return HtmlPage(page)


@pytest.fixture
def no_plots(monkeypatch):
    """Saves the time of figures that a test does not look at."""
    plots = Mock(**{"inline.return_value": "data:image/svg+xml,"})
    for module in (run_page, task_page):
        monkeypatch.setattr(module, "plots", plots)


@pytest.fixture
def make_run(no_plots, monkeypatch, tmp_path):
    """Makes a run whose report has neither figures nor test images, to save time."""
    monkeypatch.setattr(gallery, "make_cards", lambda *args: [])
    return functools.partial(Run, tmp_path)


@pytest.fixture
def run(make_run):
    return make_run()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a run with hostile names of classes and files."""
    run = Run(tmp_path_factory.mktemp("hostile"), HOSTILE, wrong=(2, 5))
    run.metrics["audit"] = {"leak": 1, "few_images": 7}
    run.findings = [
        Finding(run.splits.test.paths[0], "leak", "the same bytes as <img src=x>"),
        *(Finding(name, "few_images", "2 images in train") for name in HOSTILE),
    ]
    return run.render()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The page of a run of two classes without errors or findings."""
    return Run(tmp_path_factory.mktemp("plain")).render()


def test_names_are_escaped(hostile):
    names = [*HOSTILE[:3], r"two\nlines", r"\u202egnp.exe", *HOSTILE[5:]]
    others = ["the same bytes as <img src=x>", r"/\udcff<b>&'", "--data=<i>x</i>"]
    for shown in [*names, *others, "no <network>"]:
        assert hostile.has(shown)
    tags = {tag for tag, _ in hostile.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "form", "i"}


def test_the_page_loads_no_file_and_runs_no_script(hostile):
    for _, attributes in hostile.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:image/"))
    policies = [a["content"] for _, a in hostile.elements if "http-equiv" in a]
    [policy] = policies
    assert "default-src 'none'" in policy and "script-src" not in policy


def test_links_have_targets(hostile):
    ids = {a["id"] for _, a in hostile.elements if "id" in a}
    links = {a["href"][1:] for tag, a in hostile.elements if tag == "a"}
    assert links and links <= ids


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


@pytest.mark.parametrize(
    ("onednn", "expected"), [(True, "oneDNN on; "), (False, "oneDNN off; "), (None, "")]
)
def test_the_page_says_whether_onednn_was_on(run, onednn, expected):
    run.onednn = onednn
    assert f"Precision float32; {expected}CPU:0;" in run.render().text


def test_without_phase_head_the_verdict_does_not_mention_it(run):
    del run.metrics["phases"]["head"]
    run.epochs = [("finetune", "1")]
    page = run.render()
    assert not page.has("the head") and not page.has("phase head")


def test_the_verdict_warns_of_leaks(run):
    assert not run.render().has("too optimistic")
    run.metrics["audit"] = {"leak": 2, "near_leak": 3}
    assert run.render().has("The audit found 5 images")


def test_a_run_without_errors_or_findings_has_a_complete_page(plain):
    assert plain.has("None: every test image is classified correctly")
    assert plain.has("Findings of the audit None.")
    assert not plain.has("Most frequent confusions")
    # Loss, accuracy, two confusion matrices, ROC, precision and recall, reliability.
    assert len(plain.images("svg")) == 7


@pytest.mark.usefixtures("no_plots")
def test_errors_are_shown_with_confused_classes(tmp_path):
    page = Run(tmp_path, ("cat", "dog", "eel"), wrong=(2, 3, 4)).render()
    assert page.has("3 of 6 test images are classified incorrectly")
    assert page.has("Most frequent confusions")
    assert page.has("dog eel 2 100.0 %")
    assert page.has("eel cat 1 50.0 %")
    assert page.has("label dog 6.7 % prediction eel 86.7 %")
    assert not page.has("Threshold")
    assert len(page.images("svg")) == 5
    # Three errors and six low-confidence images, some without a heatmap.
    assert 9 <= len(page.images("jpeg")) <= 18


def test_classes_are_sorted_by_f1(make_run):
    page = make_run(("ant", "bee", "cat"), wrong=(4, 5)).render()
    _, _, table = page.text.partition("lowest F1 first")
    assert table.index("cat") < table.index("ant") < table.index("bee")


def test_classes_without_test_images_come_last(run):
    per_class = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    run.metrics["test"]["per_class"]["cat"] = per_class
    _, _, table = run.render().text.partition("lowest F1 first")
    assert table.index("dog") < table.index("cat")
    assert "cat – – – 0" in " ".join(table.split())


def test_some_findings_of_each_kind_are_shown_with_readable_images(run):
    run.splits.splits[0] = "skipped"
    paths = run.splits.paths
    run.findings = [
        Finding(paths[0], "unreadable", "can't be decoded"),
        *(Finding(path, "duplicate", "the same bytes") for path in [paths[1]] * 20),
        Finding("cat", "few_images", "2 images"),
    ]
    page = run.render()
    # The limit is 12, and each kind has its turn.
    assert page.has("1 unreadable, 20 duplicate, 1 few_images.")
    assert page.has("And 10 more.")
    assert len(page.images("jpeg")) == 10


@pytest.mark.usefixtures("no_plots")
def test_a_missing_test_image_has_a_card_without_a_thumbnail(tmp_path):
    run = Run(tmp_path, wrong=(0, 1, 2, 3))
    before = len(run.render().images("jpeg"))
    os.remove(os.fsencode(run.splits.test.files[0]))
    page = run.render()
    assert page.has("test-0-0.png")
    assert before - 4 <= len(page.images("jpeg")) < before


def test_calibration_and_threshold_are_described(plain):
    assert plain.has("temperature of 1.250, fitted on val")
    assert plain.has("1.2345") and plain.has("0.3456")
    assert plain.has("from a probability of 0.43")
    assert plain.has("On test, the balanced accuracy is 0.750")
    assert plain.has("the precision 0.625 and the recall 0.875")


def test_the_reason_for_no_calibration_is_shown(run):
    run.metrics["calibration"]["reason"] = "too few images"
    assert run.render().has("not rescaled: too few images")


def test_test_images_of_one_class_have_no_threshold_curves(run):
    run.relabel("test", 1)
    test = measure(run.splits.split("test"), run.probabilities)
    run.metrics["test"] = test
    assert test["roc_auc"] is None
    assert not run.render().has("Threshold")


def test_the_page_of_a_hundred_classes_is_small(tmp_path):
    names = [f"class {i}" for i in range(100)]
    page = Run(tmp_path, names, wrong=range(60), per_class=1).render()
    assert page.has("class 99")
    assert page.size < 2_000_000


@pytest.mark.parametrize("heatmap", ["data:,", ""])
def test_grad_cam_is_explained_if_there_is_a_heatmap(run, monkeypatch, heatmap):
    shown = {"cat": 0.9}
    card = gallery.Card("a.png", "data:,", heatmap, "cat", "cat", shown, "cat")
    monkeypatch.setattr(gallery, "make_cards", lambda *args: [card])
    assert run.render().has("Grad-CAM") == bool(heatmap)
