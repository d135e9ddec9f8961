import base64
import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from keras_ft.report import plots

SVG = "{http://www.w3.org/2000/svg}"
LABELS = np.array([0, 0, 1, 1], bool)
SCORES = np.array([0.1, 0.6, 0.4, 0.9])


def texts(figure):
    """The texts in the SVG of a figure."""
    kind, _, encoded = plots.inline(figure).partition(";base64,")
    assert kind == "data:image/svg+xml"
    root = ET.fromstring(base64.b64decode(encoded))
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def points(figure, label):
    """The data of the line with a label, [N, 2]."""
    lines = [line for axes in figure.axes for line in axes.lines]
    [line] = (line for line in lines if line.get_label() == label)
    return line.get_xydata().tolist()


def make_history(*phases):
    """Makes rows of history.csv; each value occurs once."""
    rows = []
    for phase, epochs in phases:
        for epoch in range(1, epochs + 1):
            row = {"phase": phase, "epoch": str(epoch)}
            for i, field in enumerate(("loss", "val_loss", "accuracy", "val_accuracy")):
                row[field] = str(0.1 * i + 0.01 * len(rows))
            rows.append(row)
    return rows


def test_long_labels_lose_their_middle():
    assert plots.label("x" * 28) == "x" * 28
    assert plots.label("first " + "x" * 80 + " last", 15) == "first x…xx last"


def test_names_are_drawn_literally():
    names = ["$x^2$", "a \\$ b$", "<b>&\"'", "two\nlines", "漢字 😀", "\u0642\u0637"]
    figure = Figure()
    figure.subplots().set_yticks(range(6), [plots.label(name) for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        written = texts(figure)
    assert [*names[:3], "two\\nlines", *names[4:]] == [
        text for text in written if not re.fullmatch(r"[\d.]+", text)
    ]


def test_svg_is_self_contained_and_reproducible():
    figure = plots.draw_curves(make_history(("head", 2)), "loss", ("head", 1))
    svg = base64.b64decode(plots.inline(figure).partition(",")[2]).decode()
    assert "<script" not in svg
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)', svg))
    assert plots.inline(figure) == plots.inline(figure)


def test_curves_show_both_phases_and_mark_the_best_epoch():
    rows = make_history(("head", 3), ("finetune", 2))
    figure = plots.draw_curves(rows, "accuracy", ("finetune", 1))
    expected = [[i + 1, float(row["val_accuracy"])] for i, row in enumerate(rows)]
    assert points(figure, "val") == expected
    assert points(figure, "train")[0] == [1, float(rows[0]["accuracy"])]
    assert points(figure, "best") == [expected[3]]
    [axes] = figure.axes
    starts = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert starts == [0.5, 3.5]
    assert {"head", "finetune"} <= set(texts(figure))


def test_curves_of_one_epoch_can_be_drawn():
    figure = plots.draw_curves(make_history(("head", 1)), "loss", ("head", 1))
    assert points(figure, "best") == [[1, 0.1]]
    assert "1" in texts(figure)
    solved = plots.draw_curves(make_history(("head", 1)), "loss", None)
    labels = solved.axes[0].get_legend_handles_labels()[1]
    assert labels == ["train", "val"]  # and no best epoch


def test_the_threshold_is_marked_at_its_rates():
    # At 0.5, one of two negatives and one of two positives are predicted positive.
    name = "threshold 0.5"
    assert points(plots.draw_roc(LABELS, SCORES, 0.5), name) == [[0.5, 0.5]]
    figure = plots.draw_precision_recall(LABELS, SCORES, 0.7)
    assert points(figure, "threshold 0.7") == [[0.5, 1.0]]


def test_a_threshold_above_all_scores_has_no_precision():
    texts(plots.draw_precision_recall(LABELS, SCORES, 0.95))
    assert points(plots.draw_roc(LABELS, SCORES, 0.95), "threshold 0.95") == [[0, 0]]


def test_the_reliability_diagram_leaves_out_empty_bins():
    probabilities = np.stack([1 - SCORES, SCORES], axis=1)
    figure = plots.draw_reliability(LABELS.astype(int), probabilities)
    # The two predictions of confidence 0.9 are correct, the two of 0.6 wrong.
    assert points(figure, "bin mean") == pytest.approx(np.array([[0.6, 0], [0.9, 1]]))
    texts(figure)
