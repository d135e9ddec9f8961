import pytest
from report_helpers import HtmlPage

from keras_ft.evaluation.monitor import MONITORS
from keras_ft.report import live_page

MONITOR = MONITORS["val_loss"]


def make_rows(*phases):
    """Rows of history.csv, as text as if they were read from it."""
    names = ("loss", "val_loss", "accuracy", "val_accuracy")
    return [
        {"phase": phase, "epoch": str(epoch + 1), "seconds": "2.5"}
        | {name: str(1 / (epoch + 2)) for name in names}
        for phase, epochs in phases
        for epoch in range(epochs)
    ]


def render(rows, done=2, name="mine", data="photos"):
    epochs = done, 7
    return HtmlPage(live_page.render(name, data, "finetune", epochs, rows, MONITOR))


def test_the_page_shows_how_far_training_is_and_reloads_itself():
    page = render(make_rows(("head", 3), ("finetune", 2)))
    assert page.has("Training, phase finetune: 2 of at most 7 epochs.")
    assert page.has("The best val_loss of this phase is 0.3333 .")
    assert page.has("At most 0:00:12 left in this phase.")
    assert ("meta", {"http-equiv": "refresh", "content": "10"}) in page.elements
    *_, table = page.text.partition("val accuracy")
    # The newest epoch is the first.
    assert " ".join(table.split()).startswith("finetune 2 2.5 0.3333 0.3333 0.333")


def test_lines_of_both_splits_have_a_point_for_each_epoch():
    page = render(make_rows(("head", 3), ("finetune", 2)))
    lines = [a for tag, a in page.elements if tag == "polyline"]
    assert [a["class"] for a in lines] == ["train", "val"] * 2
    for line in lines:
        points = [tuple(map(float, p.split(","))) for p in line["points"].split()]
        assert len(points) == 5
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        assert all(0 <= x <= 400 and 0 <= y <= 220 for x, y in points)
        assert points[0][1] < points[1][1] < points[2][1]  # from above: it falls


@pytest.mark.parametrize("epochs", [0, 1])
def test_few_epochs_have_a_page(epochs):
    page = render(make_rows(("finetune", epochs)), done=epochs)
    assert page.has("No epoch has ended yet.") == (not epochs)
    assert page.has(f"{epochs} of at most 7 epochs")


def test_names_are_escaped_and_nothing_is_loaded():
    page = render([], 0, "<script>x</script>", "<i>\u202e")
    assert page.has("<script>x</script>") and page.has(r"<i>\u202e")
    assert not {"script", "link", "img", "i"} & {tag for tag, _ in page.elements}
