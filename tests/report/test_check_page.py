import pytest
from helpers import make_labelled
from report_helpers import HtmlPage

from keras_ft.data.examples import Finding
from keras_ft.errors import UserError
from keras_ft.report import gallery
from keras_ft.report.check_page import write_page


@pytest.fixture
def render(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "make_thumbnail", lambda file: "data:image/jpeg,x")
    splits = ["train", "train", "val", "test", "skipped", *["train"] * 14]
    examples = make_labelled([0, 1, 1, 0, 0, *[0] * 14], splits)

    def call(findings=(), obstacle=None):
        write_page(tmp_path / "x.csv", "<i>", examples, findings, obstacle, "16")
        return HtmlPage((tmp_path / "x.html").read_text(encoding="utf-8"))

    return call


def test_images_are_counted_by_class_and_split(render):
    page = render()
    assert page.has(
        "19 images, 0 findings. Ready to train. Images <i> ; image size 16."
    )
    assert page.has("16 train, 1 val, 1 test, 1 skipped.")
    assert page.has("class train val test a 15 0 1 b 1 1 0")
    assert page.has("Findings None.")


def test_findings_are_grouped_by_kind_and_show_readable_images(render):
    page = render(
        [
            Finding("4.png", "unreadable", "can't be decoded"),
            Finding("3.png", "leak", "the same bytes as 0.png in train"),
            *(Finding(f"{i}.png", "dark", "nearly black") for i in range(5, 19)),
            Finding("a", "few_images", "1 image in train"),
        ]
    )
    assert page.has("unreadable: 1 can't be decoded 4.png leak: 1 the same bytes")
    assert page.has("dark: 14") and page.has("And 2 more. few_images: 1")
    assert page.has("Results on test are likely too good: 1 of 1 images is identical")
    assert page.has("x.csv lists all findings.")
    assert len(page.images("jpeg")) == 1 + 12


def test_what_keeps_training_from_starting_is_said(render):
    page = render(obstacle=UserError("There is no <test>."))
    assert page.has("Training would not start. There is no <test>.")
