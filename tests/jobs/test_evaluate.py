import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from helpers import read_table, write_images
from PIL import Image
from report_helpers import HtmlPage

from keras_ft import cli
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs.evaluate import evaluate


@pytest.fixture
def run(finished_run):
    """The workdir of a finished run."""
    return Path(finished_run.run.workdir)


@pytest.fixture
def measure(run, tmp_path):
    """Evaluates a model, that of `run` unless given; returns the written metrics."""

    def call(data, model=run, overwrite=True, **flags):
        output = tmp_path / "metrics.json"
        flags |= {"output": output, "overwrite": overwrite}
        metrics = evaluate(Config(mode="evaluate", model=model, data=data, **flags))
        assert json.loads(output.read_text()) == metrics
        return metrics

    return call


def test_images_that_the_model_was_trained_on_are_left_out(
    measure, run, finished_run, capsys
):
    metrics = measure(finished_run.data.data)
    assert metrics["num_examples"] == 6  # of 30: 0.15 of ten in each of three classes
    then = json.loads((run / "metrics.json").read_text())
    assert metrics["confusion_matrix"] == then["test"]["confusion_matrix"]
    flags = [f"--model={run}", f"--data={finished_run.data.data}"]
    assert cli.main(["", "--mode=evaluate", *flags]) == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last == f"Accuracy: {100 * metrics['accuracy']:.1f} %"
    by_export = measure(finished_run.data.data, run / "export" / "saved_model")
    assert by_export["confusion_matrix"] == metrics["confusion_matrix"]


def test_there_must_be_images_that_the_model_has_not_seen(measure, run, tmp_path):
    rows = read_table(run / "splits.csv")
    lines = [f"{row['path']},{row['label']}" for row in rows if row["split"] != "test"]
    (tmp_path / "seen.csv").write_text("\n".join(["path,label", *lines]))
    with pytest.raises(UserError, match="only images that .*splits.csv lists"):
        measure(tmp_path / "seen.csv")


def test_all_of_other_images_are_used(measure, tmp_path):
    # The classes of the set are fewer than the model's, and their order another.
    write_images(tmp_path / "other" / "red", (200, 0, 0), 5)
    metrics = measure(tmp_path / "other")
    assert metrics["num_examples"] == 5
    assert metrics["per_class"]["red"]["support"] == 5
    assert metrics["accuracy"] == metrics["per_class"]["red"]["recall"]
    assert len(metrics["confusion_matrix"]) == 3


def test_of_a_set_with_splits_test_is_used(measure, tmp_path):
    for split, count in (("train", 3), ("test", 4)):
        write_images(tmp_path / "set" / split / "red", (200, 0, 0), count)
    assert measure(tmp_path / "set")["num_examples"] == 4


def test_classes_that_the_model_lacks_are_named(measure, tmp_path):
    write_images(tmp_path / "other" / "pink", (200, 100, 100), 2)
    with pytest.raises(UserError, match="it has blue, green, red. Received: pink"):
        measure(tmp_path / "other")


def test_converted_images_are_measured_like_others(measure, tmp_path):
    red, tiff = tmp_path / "png" / "red", tmp_path / "tiff" / "red"
    write_images(red, (200, 0, 0), 5)
    tiff.mkdir(parents=True)
    for file in red.iterdir():
        Image.open(file).save(tiff / f"{file.stem}.tif")
    assert measure(tmp_path / "tiff") == measure(tmp_path / "png")


def test_heic_without_its_package_is_an_error_that_names_it(
    measure, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "set" / "red").mkdir(parents=True)
    file = tmp_path / "set" / "red" / "x.heic"
    file.write_bytes(b"\0\0\0\x10ftypheic\0\0\0\0")
    with pytest.raises(
        UserError, match=r"1 file that can't .*x.heic: .*pip install 'keras_ft\[heic\]'"
    ):
        measure(tmp_path / "set")


def test_unreadable_images_are_skipped_or_named(measure, tmp_path):
    write_images(tmp_path / "other" / "red", (200, 0, 0), 3)
    broken = tmp_path / "other" / "red" / "1.png"
    shutil.copyfile(broken, tmp_path / "whole.png")
    for size in (60, 900):  # without pixels, with some
        broken.write_bytes((tmp_path / "whole.png").read_bytes()[:size])
        with pytest.raises(UserError, match="1 of 3 that are not: .*1.png"):
            measure(tmp_path / "other", on_bad_image="error")
        metrics = measure(tmp_path / "other")
        assert (metrics["num_examples"], metrics["num_skipped"]) == (2, 1)


def test_a_page_and_the_wrong_images_are_written_beside_the_metrics(measure, tmp_path):
    write_images(tmp_path / "set" / "red", (200, 0, 0), 3)
    write_images(tmp_path / "set" / "blue", (210, 0, 0), 3)
    for file in sorted((tmp_path / "set" / "blue").iterdir()):
        Image.open(file).save(file.with_suffix(".tif"))
        file.unlink()
    metrics = measure(tmp_path / "set")
    wrong = round(6 * (1 - metrics["accuracy"]))
    assert wrong >= 3
    rows = read_table(tmp_path / "metrics.wrong.csv")
    assert [*rows[0]] == ["path", "label", "prediction", "probability"]
    assert len(rows) == wrong
    assert all(row["label"] != row["prediction"] for row in rows)
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    page = HtmlPage((tmp_path / "metrics.html").read_text(encoding="utf-8"))
    assert page.has(f"{wrong} of 6 images are classified incorrectly")
    assert len(page.images("jpeg")) >= wrong
    low, high = metrics["accuracy_interval"]
    assert low < metrics["accuracy"] < high
    error = metrics["accuracy_standard_error"]
    assert error == pytest.approx(math.sqrt(wrong * (6 - wrong) / 6**3))


@pytest.mark.parametrize("name", ["metrics.json", "metrics.html", "metrics.wrong.csv"])
def test_no_file_is_overwritten(measure, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=f"--output must .*{name}"):
        measure(tmp_path, overwrite=False)
    assert [path.name for path in tmp_path.glob("metrics.*")] == [name]
