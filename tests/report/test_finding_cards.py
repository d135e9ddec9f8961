import pytest
from helpers import make_examples
from PIL import Image

from keras_ft.data.examples import Finding
from keras_ft.report import finding_cards


@pytest.fixture
def examples(tmp_path):
    """Images a to e."""
    files = [str(tmp_path / f"{name}.png") for name in "abcde"]
    for i, file in enumerate(files):
        Image.new("RGB", (8, 8), (50 * i, 0, 0)).save(file)
    return make_examples([*"abcde"], files, [0] * 5)


def test_both_images_of_a_pair_are_shown(examples):
    finding = Finding("b", "near_leak", "looks like a in train", "a")
    [card] = finding_cards.select([finding], examples)["shown"]
    assert card.findings == [finding]
    assert [*card.pictures] == ["b", "a"]
    assert all(uri.startswith("data:image/jpeg") for uri in card.pictures.values())
    assert len(set(card.pictures.values())) == 2


def test_an_image_that_cannot_be_read_is_left_out(examples, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    finding = Finding("b", "near_leak", "looks like a", "a")
    [card] = finding_cards.select([finding], examples)["shown"]
    assert [*card.pictures] == ["b"]


def test_no_image_is_shown_twice(examples):
    findings = [
        Finding("b", "near_duplicate", "looks like a", "a"),
        Finding("a", "near_conflict", "looks like b", "b"),
        Finding("c", "near_duplicate", "looks like a", "a"),
        Finding("d", "dark", "it is black"),
        Finding("d", "not_turned", "its EXIF says so"),
        Finding("ant", "few_images", "2 images"),
    ]
    selected = finding_cards.select(findings, examples)
    shown = [[f.name for f in card.findings] for card in selected["shown"]]
    assert shown == [
        ["near_duplicate", "near_conflict"],
        ["dark", "not_turned"],
        ["few_images"],
    ]
    assert selected["rest"] == 1
    pictures = [path for card in selected["shown"] for path in card.pictures]
    assert pictures == ["b", "a", "d"]
