import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
from helpers import export_result, make_examples, write_run
from report_helpers import make_metrics, predict

from keras_ft.catalog.backbones import Weights
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.config.recipe import resolve
from keras_ft.config.settings import Config
from keras_ft.report.model_card import write_model_card
from keras_ft.runs.record import load_record

HOSTILE = (
    "a | b",
    "two\nlines",
    "<!-- yours -->\n",
    "<script>alert(1)</script>",
    "[x](javascript:alert) *b* `c`",
    "\u202egnp.exe",
    "license: gpl",
)


class Run:
    """A workdir with the results of a run that was not trained."""

    def __init__(self, folder, class_names=("cat", "dog"), per_class=2, wrong=()):
        classes = range(len(class_names))
        rows = [*itertools.product(("train", "val", "test"), classes, range(per_class))]
        splits, labels, _ = zip(*rows, strict=True)
        names = [f"{split}-{label}-{i}.png" for split, label, i in rows]
        examples = make_examples(names, labels=labels, class_names=class_names)
        examples = examples.with_splits(np.array(splits, object))
        self.config = Config(data=f"{folder}/my photos", workdir=str(folder / "run"))
        self.metrics = make_metrics(examples, predict(examples.test, wrong))
        weights = Weights("starter", sha256="abc123")
        packages = {"keras": "3.15.1", "keras_ft": None}
        run = write_run(self.config, examples, weights=weights, packages=packages)
        self.paths = run.paths

    def write(self, **changes):
        record = dataclasses.replace(load_record(self.paths), **changes)
        recipe = resolve(self.config).with_image_size(ImageSize(224, 224))
        return write_model_card(self.paths, recipe, self.metrics, record)

    def card(self, **changes):
        return self.write(**changes).read_text()


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_the_card_has_results_and_metadata(tmp_path):
    run = Run(tmp_path, per_class=4, wrong=(0,))
    card = run.card()
    header, _, body = card.removeprefix("---\n").partition("---\n")
    assert "pipeline_tag: image-classification\n" in header
    assert 'name: "my photos"\n' in header
    assert "type: accuracy\n      value: 0.8750\n" in header
    assert "| accuracy | 0.875 | 0.800 to 1.000 |" in body
    assert "| cat | 1.000 | 0.750 | 0.857 | 4 | 4 |" in body
    assert "calibration error is 0.346 before" in body
    assert "starter weights" in body and "research, not commerce" in body
    assert "SHA-256 of the file: `abc123`" in body
    assert "`keras_ft` ?" in body
    assert "datasets:" not in header


def test_limits_are_computed(tmp_path):
    run = Run(tmp_path, ("cat", "dog", "owl"), per_class=4, wrong=(0, 1, 4))
    run.metrics["audit"] = {"near_leak": 3, "conflict": 2, "few_images": 1}
    run.metrics["calibration"]["reason"] = "val has 6 images"
    per_class = run.metrics["test"]["per_class"]
    per_class["owl"] |= {"support": 0, "recall": 0.0}
    limits = run.card().partition("## Limits")[2].partition("\n## ")[0]
    for limit in (
        "Copies of an image have different labels (2 conflict).",
        "Test has only 12 images; the interval of the accuracy is 0.800 to 1.000.",
        "fewer than 50 training images: cat (4), dog (4), owl (4).",
        "Classes without test images: owl (0).",
        "many images are missed: cat (found 2 of 4).",
        "not calibrated: val has 6 images.",
    ):
        assert limit in limits
    assert "few_images" not in limits
    run.metrics["num_examples"]["test"] = 1000
    per_class["cat"]["recall"] = 0.9
    limits = run.card().partition("## Limits")[2]
    assert "has only" not in limits and "missed" not in limits


def test_the_card_says_what_answers_use(run):
    threshold = run.metrics["threshold"]
    card = run.card()
    assert "A threshold of 0.430 for dog, chosen on val, is not used." in card
    assert "| accuracy | 0.700 | 0.688 |" in card
    threshold["in_use"] = True
    assert "Answers, and so all of these results, use the thresholds" in run.card()
    threshold["reason"] = "val has 9 images"
    card = run.card()
    assert "All thresholds are one half: val has 9 images." in card
    assert "with threshold" not in card
    threshold["in_use"] = False
    assert "No threshold was chosen for dog" in run.card()


def test_what_is_undefined_has_no_number(tmp_path):
    run = Run(tmp_path, wrong=(0,))
    assert "| macro F1 | 0.733 | 0.700 to 1.000 |" in run.card()
    run.metrics["test"]["accuracy"] = 1.0  # then the bootstrap has no interval
    run.metrics["test"]["per_class"]["cat"]["support"] = 0
    card = run.card()
    assert "| macro F1 | 0.733 | |" in card
    assert "| cat | – | – | – | 2 | 0 |" in card


def test_an_export_without_an_accuracy_was_compared_on_other_images(run):
    run.metrics["exports"] = {"saved_model": export_result(accuracy=0.75)}
    assert "in its own runtime, on test.\n" in run.card()
    run.metrics["exports"]["onnx"] = export_result(accuracy=None)
    card = run.card()
    assert "on test; one without an accuracy on other images" in card
    assert "preprocess.py" in card


def test_the_oldest_versions_that_read_a_model_are_named(run):
    assert "With Keras 3.15 or newer, alone, `keras.models" in run.card()
    assert "2.19" not in run.card()
    run.metrics["exports"] = {"litert_int8": export_result()}
    assert "TensorFlow runs `litert_int8` from version 2.19 on." in run.card()


def test_warnings_precede_the_results(run):
    assert "Warning" not in run.card()
    assert "which neither training nor selection used" in run.card()
    run.metrics["warnings"] = ["12 of *60* images are copies."]
    assert "nor selection used" not in run.card()
    _, _, results = run.card().partition("## Results")
    assert results.index("**Warning:** 12 of \\*60\\* images are copies.") < (
        results.index("| accuracy |")
    )


@pytest.mark.parametrize("used", ["imagenet", "preset", "none", "/home/me/my.h5"])
def test_the_licence_depends_on_the_weights(run, used):
    origin = used if "/" not in used else ""
    run.metrics |= {"weights_used": used, "weights_origin": origin}
    licence = run.card().partition("their licence\n")[2].partition("\n## ")[0]
    expected = {
        "imagenet": "Keras Applications",
        "preset": "page of the preset",
        "none": "random weights",
        "/home/me/my.h5": "your own weights, `my.h5`",
    }
    assert expected[used] in licence
    assert "Tiny-ImageNet" not in licence
    assert str(run.paths.folder.parent) not in run.card()  # it may be published


def test_own_weights_have_the_terms_of_those_they_began_with(run):
    run.metrics["weights_used"] = "/home/me/runs/mine/"
    licence = run.card().partition("their licence\n")[2].partition("\n## ")[0]
    assert "your own weights, `mine`; their terms apply, too.\n" in licence
    assert "Those began with the starter weights." in licence
    assert "Tiny-ImageNet" in licence and "research, not commerce" in licence


def test_hostile_names_are_text(tmp_path):
    run = Run(tmp_path, HOSTILE)
    data = '\u202e"\n---\nx: y'
    run.config = Config(data=data, workdir=run.config.run.workdir)
    card = run.card()
    header, _, body = card.removeprefix("---\n").partition("\n---\n")
    for value in re.findall(r" name: (.*)", header):
        if value != "Macro F1":
            assert json.loads(value)
    assert "x: y" not in header.splitlines()
    table = body.partition("| class |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) == len(HOSTILE)
    for row in table:
        assert len(re.findall(r"(?<!\\)\|", row)) == 7
    assert not re.search(r"(?<!\\)<script|(?<!\\)\[x|\u202e", body)
    assert card.count("\n<!-- yours -->") == 1
    assert len(re.findall("^license:", card, re.M)) == 1
    assert run.write() == run.paths.model_card  # its own text is no edit


def test_what_the_user_filled_in_is_kept(run):
    path = run.write()
    card = path.read_text()
    filled_in = "<!-- yours -->\nFor my garden.\nlicense: no\n<!-- end of yours -->"
    card = re.sub("<!-- yours -->.*<!-- end of yours -->", filled_in, card, flags=re.S)
    path.write_text(card.replace("license: unknown", "license: mit"))
    run.metrics["test"]["accuracy"] = 0.123
    assert run.write() == path
    card = path.read_text()
    assert "| accuracy | 0.123 |" in card
    assert filled_in in card and "\nlicense: mit\n" in card
    assert "To be filled in" not in card


def test_other_edits_are_kept_beside_the_new_card(run):
    path = run.write()
    edited = path.read_text().replace("## Limits", "## Limits\n\nIt fails at night.")
    edited = edited.replace("license: unknown", "license: mit")
    path.write_text(edited)
    for _ in range(2):
        second = run.write()
        assert second.name == "model_card-2.md"
        assert "license: mit" in second.read_text()
    second.write_text("mine")
    assert run.write().name == "model_card-3.md"
    assert path.read_text() == edited
    assert second.read_text() == "mine"


def test_a_public_data_set_is_named(run):
    run.config = Config(data="tfds:cats_vs_dogs:4.0.1", workdir=run.config.run.workdir)
    header = run.card().removeprefix("---\n").partition("---\n")[0]
    assert 'datasets:\n- "cats_vs_dogs"\n' in header
