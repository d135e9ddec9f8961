import itertools
import os
import re

import pytest
from report_helpers import measure
from run_page_helpers import Run

from keras_ft.data.examples import Finding
from keras_ft.report import gallery

HOSTILE = (
    "\"quoted\" & 'more'",
    "$x^2$",
    "<script>alert(1)</script>",
    "two\nlines",
    "\u202egnp.exe",
    "x" * 80,
    "\u0642\u0637 😀",
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page of a run with hostile names of classes and files."""
    run = Run(tmp_path_factory.mktemp("hostile"), HOSTILE, wrong=(2, 5))
    run.metrics["audit"] = {"leak": 1, "few_images": 7}
    leak, other = run.splits.test.paths[0], run.splits.train.paths[0]
    run.findings = [
        Finding(leak, "leak", "the same bytes as <img src=x>", other),
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


def test_tables_scroll_in_boxes_of_their_own(hostile, plain):
    for page in (hostile, plain):
        boxes = [
            attributes.get("class")
            for (_, attributes), (tag, own) in itertools.pairwise(page.elements)
            if tag == "table" and own.get("class") != "bars"
        ]
        assert len(boxes) >= 5 and set(boxes) <= {"wide", "scroll"}


def test_links_have_targets(hostile):
    ids = {a["id"] for _, a in hostile.elements if "id" in a}
    links = {a["href"][1:] for tag, a in hostile.elements if tag == "a"}
    assert links and links <= ids


def test_the_page_begins_with_the_run_its_data_and_when_it_was_finished(plain, run):
    head, _, _ = " ".join(plain.text.split()).partition("The model classifies")
    data = re.escape(run.run.recipe.data.data.rpartition("/")[2])
    pattern = (
        rf"run .*{data} : 22 images. tiny at 16 px. Finished [-\d]{{10}} [:\d]{{5}}"
    )
    assert re.search(pattern, head)


def test_the_page_suggests_what_to_do_next(hostile):
    assert hostile.has("What next")
    assert hostile.has("Classify images of your own.")
    assert hostile.has("python -m keras_ft --mode=predict --model=")


@pytest.mark.parametrize(
    ("onednn", "expected"), [(True, "oneDNN on; "), (False, "oneDNN off; "), (None, "")]
)
def test_the_page_says_whether_onednn_was_on(run, onednn, expected):
    run.onednn = onednn
    assert f"Precision float32; {expected}CPU:0;" in run.render().text


def test_a_run_without_errors_or_findings_has_a_complete_page(plain):
    assert plain.has("None: every test image is classified correctly")
    assert plain.has("Findings of the audit None.")
    assert not plain.has("Most frequent confusions")
    # Loss, accuracy, ROC, precision and recall, reliability.
    assert len(plain.images("svg")) == 5


@pytest.mark.usefixtures("no_plots")
def test_errors_are_shown_with_confused_classes(tmp_path):
    page = Run(tmp_path, ("cat", "dog", "eel"), wrong=(2, 3, 4)).render()
    assert page.has("3 of 6 test images are classified incorrectly")
    assert page.has("Most frequent confusions")
    assert page.has("dog eel 2 100.0 %")
    assert page.has("eel cat 1 50.0 %")
    assert page.has("label dog 6.7 % prediction eel 86.7 %")
    assert not page.has("Threshold")
    assert len(page.images("svg")) == 3
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
        *(Finding(path, "wrong_extension", "it is a PNG") for path in paths[1:]),
        *(Finding(str(i), "few_images", "2 images") for i in range(20)),
    ]
    page = run.render()
    # The limit is 12, and each kind has its turn.
    assert page.has("1 unreadable, 11 wrong_extension, 20 few_images.")
    assert page.has("And 20 more.")
    assert len(page.images("jpeg")) == 6


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
    assert plain.has("on this page answer with the more probable class")
    for row in (
        "on test without threshold with threshold",
        "accuracy 0.700 0.688",
        "balanced accuracy 0.650 0.750",
        "recall 0.875 0.875",
    ):
        assert plain.has(row)


def test_thresholds_of_answers_are_described(run):
    run.metrics["threshold"]["in_use"] = True
    page = run.render()
    assert page.has("Thresholds are those with the highest F1 on val")
    assert page.has("on this page answer with these thresholds")
    run.metrics["threshold"]["reason"] = "val has 9 images"
    assert run.render().has("All thresholds are one half: val has 9 images.")


def test_the_reasons_for_no_calibration_and_no_threshold_are_shown(run):
    assert run.render().has("before")
    run.metrics["calibration"]["reason"] = "too few images"
    run.metrics["threshold"]["reason"] = "no gain"
    page = run.render()
    assert page.has("not rescaled: too few images")
    assert not page.has("before")  # nor after: they would be the same
    assert page.has("No threshold was chosen: no gain.")
    assert not page.has("with threshold")


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
    assert page.has("class 49 class 50 1 100.0 %")
    assert not page.has("by label (row) and prediction")
    assert page.size < 2_000_000


@pytest.mark.parametrize("heatmap", ["data:,", ""])
def test_grad_cam_is_explained_if_there_is_a_heatmap(run, monkeypatch, heatmap):
    shown = {"cat": 0.9}
    card = gallery.Card("a.png", "data:,", heatmap, "cat", "cat", shown, "cat")
    monkeypatch.setattr(gallery, "make_cards", lambda *args: [card])
    assert run.render().has("Grad-CAM") == bool(heatmap)
