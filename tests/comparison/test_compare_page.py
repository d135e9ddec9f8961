import re
from html.parser import HTMLParser

import pytest
from helpers import run_metrics

from keras_ft.comparison import compare_page, sweep
from keras_ft.comparison.ranking import Result
from keras_ft.comparison.summary import make_comparison, summarize, to_json
from keras_ft.config.settings import Config

HOSTILE = "<script>alert('1')</script>&$x^$\u202e/x.h5"


def compare(folder, text, results):
    """A comparison with two seeds; `results` are metrics or error messages."""
    flags = {"workdir": folder, "data": "<b>photos</b>", "sweep": text, "seeds": 2}
    config = Config(mode="compare", **flags)
    runs = zip(sweep.plan_runs(config), results, strict=True)
    return make_comparison(
        config,
        [
            Result(run.workdir, run.setting, run.config.run.seed, None, result)
            if isinstance(result, str)
            else Result(run.workdir, run.setting, run.config.run.seed, result)
            for run, result in runs
        ],
    )


def finished(accuracy, train=8):
    counts = {"train": train, "val": 50}
    return run_metrics(1 - accuracy, accuracy, num_examples=counts)


def read(html):
    """The text that a browser shows, and the names of the elements."""
    parser, text, tags = HTMLParser(), [], set()
    parser.handle_data = text.append
    parser.handle_starttag = lambda tag, _: tags.add(tag)
    parser.feed(html)
    return " ".join(" ".join(text).split()), tags


def test_the_page_recommends_a_setting_and_shows_names_as_text(tmp_path):
    results = [finished(0.9), finished(0.7), finished(0.92), "no <i>room</i>"]
    comparison = compare(tmp_path, f"weights={HOSTILE}|starter", results)
    html = compare_page.render(comparison)
    text, tags = read(html)
    shown = HOSTILE.replace("\u202e", r"\u202e")
    assert f"Recommended: weights={shown} . Its val_calibrated_loss, 0.0900," in text
    assert "Its test accuracy is 0.910 (0.900 to 0.920)" in text
    assert "3 of 4 runs have finished" in text
    assert "no <i>room</i>" in text
    assert "Comparison on <b>photos</b>" in text
    assert not tags & {"script", "i", "b"}
    assert "More labels" not in text
    # Nothing is loaded from elsewhere.
    assert set(re.findall(r'src="(.{10})', html)) == {"data:image"}


def test_warnings_of_runs_stand_in_page_and_summary_once(tmp_path):
    warning = "12 of 60 test images are in train."
    results = [finished(0.9) | {"warnings": [warning]} for _ in range(2)]
    comparison = compare(tmp_path, "dropout=0.1", results)
    assert read(compare_page.render(comparison))[0].count(warning) == 1
    assert summarize(comparison).count(f"\nWarning: {warning}\n") == 1
    assert to_json(comparison)["warnings"] == [warning]


def test_existing_reports_of_runs_are_linked(tmp_path):
    comparison = compare(tmp_path, "dropout=0.1|0.2", [finished(0.9)] * 4)
    folder = tmp_path / "runs" / "dropout=0.1,seed=1"
    folder.mkdir(parents=True)
    (folder / "report.html").touch()
    links = re.findall('href="(.*?)"', compare_page.render(comparison))
    assert links == ["runs/dropout%3D0.1%2Cseed%3D1/report.html"]


def test_a_learning_curve_is_shown_with_its_statement(tmp_path):
    results = [finished(1 - 2 / n, 2 * n) for n in (5, 10, 20)] * 2
    comparison = compare(tmp_path, "examples_per_class=5|10|20", results)
    text, _ = read(compare_page.render(comparison))
    assert (
        "Twice as many labels (40 per class) would raise the val accuracy by about 0.05"
        in text
    )
    axes = compare_page.plot_curves(comparison.curves).axes[0]
    measured, law = axes.lines
    assert measured.get_xdata().tolist() == [5, 10, 20]
    assert measured.get_ydata().tolist() == pytest.approx([0.6, 0.8, 0.9])
    assert law.get_xdata()[-1] == pytest.approx(40)


def test_the_plot_shows_each_seed_and_the_noise(tmp_path):
    results = map(finished, [0.9, 0.5, 0.8, 0.6])
    comparison = compare(tmp_path, "dropout=0.1|0.2", list(results))
    axes = compare_page.plot_settings(comparison.ranking).axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0.1", "0.2"]
    seeds = [line.get_xdata() for line in axes.lines[::2]]
    assert seeds[0] == pytest.approx([0.1, 0.2])
    [band] = axes.patches
    least = comparison.ranking.noise.least_significant_difference(2, 2)
    assert band.get_width() == pytest.approx(2 * least)


def test_without_a_finished_run_there_is_no_recommendation(tmp_path):
    results = ["no room", ""]
    comparison = compare(tmp_path, "dropout=0.1", results)
    text, tags = read(compare_page.render(comparison))
    assert "No run has finished" in text
    assert "no room" in text
    assert "img" not in tags
