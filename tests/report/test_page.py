import csv
import html.parser
import json
import os

import keras
import numpy as np
import pytest
from PIL import Image

from keras_ft.data.examples import Examples, Finding
from keras_ft.evaluation.metrics import compute_metrics
from keras_ft.models.classifier import make_backbone, make_classifier
from keras_ft.report import page, run_page

HOSTILE = (
    "\"quoted\" & 'more'",
    "$x^2$",
    "<script>alert(1)</script>",
    "two\nlines",
    "\u202egnp.exe",
    "x" * 80,
    "\u0642\u0637 😀",
)
# Elements without an end tag.
VOID = {"meta", "img", "br"}


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: elements, attributes and text."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        # Breaks between words count as one space.
        self.text += " ".join(data.split()) + " "

    def pictures(self, kind):
        sources = [a["src"] for tag, a in self.elements if tag == "img"]
        return [src for src in sources if src.startswith(f"data:image/{kind}")]

    def has(self, text):
        return text in " ".join(self.text.split())


def make_splits(folder, class_names):
    """Two images of each class in each split, in a folder whose name is no UTF-8."""
    folder = os.fsdecode(os.fsencode(folder) + b"/\xff<b>&'\"")
    os.makedirs(folder)
    rows = []
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for label in range(len(class_names)):
            for i in range(2):
                path = f"{folder}/{split}-{label}-{i}.png"
                pixels = rng.integers(0, 255, (24, 20, 3), np.uint8)
                Image.fromarray(pixels).save(os.fsencode(path))
                rows.append((path, path, label, split, ""))
    columns = [np.array(column, dtype=object) for column in zip(*rows, strict=True)]
    columns[2] = columns[2].astype(np.int64)
    return Examples(*columns, tuple(class_names))


def answers(labels, num_classes, wrong=()):
    """Probabilities that are right but for some examples."""
    predictions = np.array(labels)
    predictions[list(wrong)] = (predictions[list(wrong)] + 1) % num_classes
    off = 0.2 / num_classes
    return np.float32(0.8 * np.eye(num_classes)[predictions] + off)


def measure(labels, probabilities, class_names):
    metrics = compute_metrics(labels, probabilities, class_names)
    accuracy, f1 = metrics["accuracy"], metrics["macro_f1"]
    return metrics | {
        "accuracy_interval": [max(accuracy - 0.2, 0), min(accuracy + 0.1, 1)],
        "macro_f1_interval": [max(f1 - 0.3, 0), min(f1 + 0.1, 1)],
    }


def make_metrics(splits, probabilities):
    """metrics.json of a run of both phases."""
    class_names = splits.class_names
    measured = {
        name: measure(getattr(splits, name).labels, array, class_names)
        for name, array in probabilities.items()
    }
    phase = {"seconds": 2.0, "epochs": 2, "best_epoch": 2, "images_per_second": 5.0}
    before = {name: {"loss": 1.2345, "ece": 0.3456} for name in measured}
    metrics = {
        "class_names": list(class_names),
        "num_examples": {
            name: len(getattr(splits, name)) for name in ("train", "val", "test")
        }
        | {"skipped": 0},
        "audit": {},
        "weights_used": "starter",
        "weights_attempts": [{"weights": "imagenet", "error": "no <network>"}],
        "best_phase": "finetune",
        "best_epoch": 1,
        "monitor": "val_loss",
        **measured,
        "phases": dict.fromkeys(("head", "finetune"), phase | measured),
        "calibration": {
            "temperature": 1.25,
            "fitted_on": "val",
            "reason": "",
            "before": before,
        },
        "seconds": {"data": 1.0, "finetune": 3.0, "total": 4.0},
    }
    if len(class_names) == 2:
        found = {"balanced_accuracy": 0.75, "precision": 0.625, "recall": 0.875}
        threshold = {"class_name": class_names[1], "value": 0.43, "test": found}
        metrics["threshold"] = threshold
    return metrics


class Run:
    """A finished run, and its report."""

    def __init__(self, folder, class_names=("cat", "dog"), wrong=()):
        self.folder = folder / "run"
        self.folder.mkdir()
        self.splits = make_splits(folder, class_names)
        self.probabilities = {
            "val": answers(self.splits.val.labels, len(class_names)),
            "test": answers(self.splits.test.labels, len(class_names), wrong),
        }
        self.metrics = make_metrics(self.splits, self.probabilities)
        self.findings = []
        self.history = [("head", 1), ("head", 2), ("finetune", 1)]

    def report(self):
        (self.folder / "flags.cfg").write_text("--data=<i>x</i>\n--seed=7\n")
        run = {
            "weights": {"sha256": "abc123"},
            "precision": "float32",
            "devices": ["CPU:0"],
            "packages": {"keras": "3.15.1", "keras_ft": None},
        }
        (self.folder / "run.json").write_text(json.dumps(run))
        with open(self.folder / "history.csv", "w", newline="") as stream:
            fields = ("loss", "accuracy", "val_loss", "val_accuracy")
            writer = csv.writer(stream)
            writer.writerow(("phase", "epoch", *fields))
            writer.writerows((*row, 0.5, 0.5, 0.5, 0.5) for row in self.history)
        keras.utils.set_random_seed(1)
        model = make_classifier(
            make_backbone("tiny", 16), len(self.splits.class_names), dropout=0.0
        )
        run_page.write_report(
            self.folder,
            self.metrics,
            self.splits,
            self.findings,
            self.probabilities,
            model,
        )
        return Page((self.folder / "report.html").read_bytes().decode())


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


@pytest.fixture
def no_plots(monkeypatch):
    """Spares the time of drawing what a test does not look at."""
    monkeypatch.setattr(run_page.plots, "inline", lambda figure: "data:image/svg+xml,")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a run whose names of classes and files try everything."""
    run = Run(tmp_path_factory.mktemp("hostile"), HOSTILE, wrong=(2, 5))
    run.metrics["audit"] = {"leak": 1, "few_images": 7}
    run.findings = [
        Finding(run.splits.test.paths[0], "leak", "the same bytes as <img src=x>"),
        *(Finding(name, "few_images", "2 images in train") for name in HOSTILE),
    ]
    return run.report()


def test_names_are_text_and_nothing_else(hostile):
    # In a browser's sight these are characters, not elements.
    for shown in (
        "\"quoted\" & 'more'",
        "$x^2$",
        "<script>alert(1)</script>",
        r"two\nlines",
        r"\u202egnp.exe",
        "x" * 80,
        "\u0642\u0637 😀",
        "the same bytes as <img src=x>",
        r"/\udcff<b>&'",
        "--data=<i>x</i>",
        "no <network>",
    ):
        assert hostile.has(shown)
    tags = {tag for tag, _ in hostile.elements}
    assert not tags & {"script", "iframe", "object", "embed", "link", "form", "i"}


def test_a_page_loads_and_runs_nothing(hostile):
    for _, attributes in hostile.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:image/"))
    policies = [
        attributes["content"]
        for tag, attributes in hostile.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    [policy] = policies
    assert "default-src 'none'" in policy and "script-src" not in policy


def test_links_lead_somewhere(hostile):
    ids = {a["id"] for _, a in hostile.elements if "id" in a}
    links = {a["href"][1:] for tag, a in hostile.elements if tag == "a"}
    assert links and links <= ids


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("wrong", "interval", "expected"),
    [
        ((), [0.8, 1.0], "That is better than always answering dog"),
        ((0,), [0.4, 0.9], "not certain that the model is any better"),
        ((0, 1), [0.2, 0.8], "no better than always answering dog"),
        ((0, 1, 2), [0.0, 0.6], "no better than always answering dog"),
    ],
)
def test_verdict_against_the_majority_class(tmp_path, wrong, interval, expected):
    run = Run(tmp_path, wrong=wrong)
    run.splits.train.labels[:] = [0, 1, 1, 1]
    run.metrics["test"]["accuracy_interval"] = interval
    shown = run.report()
    assert shown.has(expected)
    accuracy = 100 * (1 - len(wrong) / 4)
    assert shown.has(f"The model gets {accuracy:.1f} % of 4 test images right")


@pytest.mark.usefixtures("no_plots")
def test_of_equally_frequent_classes_the_best_guess_on_test_counts(run):
    run.splits.test.labels[:] = [1, 1, 1, 0]
    assert run.report().has("always answering dog , the most frequent class")


@pytest.mark.usefixtures("no_plots")
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (0.5, "Fine-tuning gained 50.0 points over the head alone"),
        (0.9, "gained 10.0 points over the head alone (90.0 %), which is within"),
        (1.0, "The head alone, without fine-tuning, gives as much"),
        (None, "This is the head alone: fine-tuning brought no better val_loss"),
    ],
)
def test_verdict_against_the_head_alone(run, head, expected):
    if head is None:
        run.metrics["best_phase"] = "head"
    else:
        test = run.metrics["phases"]["head"]["test"]
        run.metrics["phases"]["head"]["test"] = test | {"accuracy": head}
    assert run.report().has(expected)


@pytest.mark.usefixtures("no_plots")
def test_verdict_when_fine_tuning_lost(tmp_path):
    run = Run(tmp_path, wrong=(0,))
    test = run.metrics["phases"]["head"]["test"]
    run.metrics["phases"]["head"]["test"] = test | {"accuracy": 1.0}
    assert run.report().has("fine-tuning lost 25.0 points against the head alone")


@pytest.mark.usefixtures("no_plots")
def test_without_phase_head_nothing_is_said_of_it(run):
    del run.metrics["phases"]["head"]
    run.history = [("finetune", 1)]
    assert not run.report().has("head alone")


@pytest.mark.usefixtures("no_plots")
def test_leaks_are_told_beside_the_verdict(run):
    assert not run.report().has("may be too good")
    run.metrics["audit"] = {"leak": 2, "near_leak": 3}
    assert run.report().has("The audit found 5 images")


def test_a_run_without_errors_or_findings_is_a_sensible_page(run):
    shown = run.report()
    assert shown.has("None: every test image is answered rightly")
    assert shown.has("Findings of the audit None.")
    assert not shown.has("Most confused")
    # Loss, accuracy, two confusion matrices, ROC, precision and recall, reliability.
    assert len(shown.pictures("svg")) == 7


def test_errors_are_shown_with_what_is_confused(tmp_path):
    shown = Run(tmp_path, ("cat", "dog", "eel"), wrong=(2, 3, 4)).report()
    assert shown.has("3 of 6 test images are answered wrongly")
    assert shown.has("Most confused")
    assert shown.has("dog eel 2 100.0 %")
    assert shown.has("eel cat 1 50.0 %")
    assert shown.has("label dog 6.7 % prediction eel 86.7 %")
    assert not shown.has("Threshold")
    assert len(shown.pictures("svg")) == 5
    # Three errors and six uncertain images, with Grad-CAM where it says something.
    assert 9 <= len(shown.pictures("jpeg")) <= 18


@pytest.mark.usefixtures("no_plots")
def test_the_worst_class_comes_first(tmp_path):
    shown = Run(tmp_path, ("ant", "bee", "cat"), wrong=(4, 5)).report()
    _, _, table = shown.text.partition("lowest F1 first")
    assert table.index("cat") < table.index("ant") < table.index("bee")


@pytest.mark.usefixtures("no_plots")
def test_classes_without_test_images_come_last(run):
    per_class = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    run.metrics["test"]["per_class"]["cat"] = per_class
    _, _, table = run.report().text.partition("lowest F1 first")
    assert table.index("dog") < table.index("cat")
    assert "cat – – – 0" in " ".join(table.split())


@pytest.mark.usefixtures("no_plots")
def test_findings_have_pictures_of_what_can_be_read_up_to_a_limit(run):
    plain = len(run.report().pictures("jpeg"))
    run.splits.splits[0] = "skipped"
    paths = run.splits.paths
    run.findings = [
        Finding(paths[0], "unreadable", "can't be decoded"),
        *(Finding(path, "duplicate", "the same bytes") for path in [paths[1]] * 20),
        Finding("cat", "few_images", "2 images"),
    ]
    shown = run.report()
    # The limit is 12, and each kind has its turn.
    assert shown.has("1 unreadable, 20 duplicate, 1 few_images.")
    assert shown.has("And 10 more.")
    assert len(shown.pictures("jpeg")) - plain == 10


@pytest.mark.usefixtures("no_plots")
def test_a_test_image_that_is_gone_is_a_card_without_a_picture(tmp_path):
    run = Run(tmp_path, wrong=(0, 1, 2, 3))
    before = len(run.report().pictures("jpeg"))
    os.remove(os.fsencode(run.splits.test.files[0]))
    shown = run.report()
    assert shown.has("test-0-0.png")
    assert before - 4 <= len(shown.pictures("jpeg")) < before


@pytest.mark.usefixtures("no_plots")
def test_calibration_and_threshold_are_told(run):
    shown = run.report()
    assert shown.has("temperature of 1.250, fitted on val")
    assert shown.has("1.2345") and shown.has("0.3456")
    assert shown.has("from a probability of 0.43")
    assert shown.has("on test 0.750, with precision 0.625 and recall 0.875")
    run.metrics["calibration"]["reason"] = "too few images"
    assert run.report().has("not rescaled: too few images")


@pytest.mark.usefixtures("no_plots")
def test_test_images_of_one_class_have_no_curves_of_a_threshold(run):
    run.splits.test.labels[:] = 1
    test = measure(run.splits.test.labels, run.probabilities["test"], ("cat", "dog"))
    run.metrics["test"] = test
    assert test["roc_auc"] is None
    assert not run.report().has("Threshold")


def test_a_page_of_a_hundred_classes_is_small(tmp_path):
    run = Run(tmp_path, [f"class {i}" for i in range(100)], wrong=range(60))
    assert run.report().has("class 99")
    assert (run.folder / "report.html").stat().st_size < 2_000_000


def test_a_template_must_be_given_all_it_names():
    with pytest.raises(page.jinja2.UndefinedError):
        page.render("report.html", metrics={})


@pytest.mark.usefixtures("no_plots")
def test_grad_cam_is_explained_where_it_is_shown(run, monkeypatch):
    monkeypatch.setattr(run_page.gallery, "lay_on", lambda image, heat: "data:,")
    assert run.report().has("Grad-CAM")
    # Of a single cell, as of small images, it would say nothing.
    monkeypatch.setattr(run_page.gallery, "lay_on", lambda image, heat: "")
    assert not run.report().has("Grad-CAM")
