"""A run of several tasks, each labelled for some of the images only."""

import csv
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import installed_formats, leave_out_export, read_table
from report_helpers import HtmlPage
from task_helpers import make_config, make_table

from keras_ft import cli
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.settings import Config
from keras_ft.data.dataset import load_splits
from keras_ft.images.pipeline import ImageReader, make_inputs
from keras_ft.jobs.evaluate import evaluate
from keras_ft.jobs.train import train
from keras_ft.kinds.measure import measure
from keras_ft.models.heads import predict_probabilities
from keras_ft.models.trained import load_trained
from keras_ft.runs.find_model import find_model
from keras_ft.serving.trained_classifier import load_classifier
from keras_ft.training import callbacks


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def run(table, pretrained):
    """The config of a finished run."""
    config = make_config(
        table,
        table.parent / "run",
        pretrained,
        average_epochs=1,  # a phase is then one of the epochs in history.csv
        export_formats=installed_formats(),
    )
    train(config)
    return config


@pytest.fixture
def workdir(run):
    return Path(run.run.workdir)


@pytest.fixture
def metrics(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def test_metrics_of_each_task_are_those_of_the_saved_model(run, workdir, metrics):
    model, description = load_trained(workdir / "model.keras")
    tasks = description.tasks
    splits = load_splits(run.data, run.run.seed)
    assert list(metrics["tasks"]) == ["colour", "light", "tags"]
    for name in ("val", "test"):
        split = splits.split(name)
        inputs = make_inputs(
            ImageReader(split, Preprocessing(16, 16), 8), range(len(split))
        )
        probabilities = predict_probabilities(model, tasks, inputs, len(split))
        for task, target in zip(tasks, split.targets, strict=True):
            found = metrics["tasks"][task.name]
            assert found["num_examples"][name] == task.kind.is_labelled(target).sum()
            assert 0 < found["num_examples"][name] <= len(split)
            expected = measure(task, target, probabilities[task.name])
            for key in ("loss", "accuracy", "macro_f1", "balanced_accuracy", "ece"):
                assert found[name][key] == pytest.approx(expected[key], abs=1e-5)
        for key in ("loss", "accuracy", "macro_f1", "balanced_accuracy"):
            mean = np.mean([t[name][key] for t in metrics["tasks"].values()])
            assert metrics[name][key] == pytest.approx(mean)
    assert "class_names" not in metrics


def test_history_has_the_metrics_of_each_task(workdir, metrics):
    for row in read_table(workdir / "history.csv"):
        for name in ("loss", "accuracy", "macro_f1", "balanced_accuracy"):
            values = [float(row[f"val_{task}_{name}"]) for task in metrics["tasks"]]
            assert float(row[f"val_{name}"]) == pytest.approx(np.mean(values), rel=1e-4)
    best = metrics["phases"][metrics["best_phase"]]
    row = [r for r in read_table(workdir / "history.csv") if r["phase"] == "finetune"][
        metrics["phases"]["finetune"]["best_epoch"] - 1
    ]
    of_phase = metrics["tasks"]["tags"]["phases"]["finetune"]["val"]
    assert float(row["val_tags_loss"]) == pytest.approx(of_phase["loss"], abs=1e-4)
    assert best["epochs"] >= 1


def test_the_saved_model_answers_for_each_task(workdir):
    loaded = tf.saved_model.load(str(workdir / "export" / "saved_model" / "1"))
    about = loaded.signatures["tasks"]()
    assert about["name"].numpy().tolist() == [b"colour", b"light", b"tags"]
    assert about["kind"].numpy().tolist() == [b"multiclass"] * 2 + [b"multilabel"]
    tags = about["tags/class_names"].numpy()
    assert tags.tolist() == [b"blue", b"bright", b"green"]
    files = [row["path"] for row in read_table(workdir / "splits.csv")]
    images = tf.constant([Path(file).read_bytes() for file in files])
    answer = loaded.signatures["serving_default"](image_bytes=images)
    assert set(answer) == {
        *(
            f"{t}/{key}"
            for t in ("colour", "light")
            for key in ("class_name", "probability", "probabilities")
        ),
        "tags/labels",
        "tags/probabilities",
    }
    applies = answer["tags/probabilities"].numpy() >= about["tags/thresholds"].numpy()
    expected = [b"|".join(tags[row]) for row in applies]
    assert answer["tags/labels"].numpy().tolist() == expected
    assert len(set(expected)) > 1
    from_keras = load_classifier(workdir / "model.keras").predict(files)
    for name, probabilities in from_keras.items():
        served = answer[f"{name}/probabilities"].numpy()
        np.testing.assert_allclose(served, probabilities, atol=1e-5)


def test_every_format_answers_for_each_task(run, workdir, metrics, capsys):
    formats = installed_formats()
    if len(formats) == 1:
        pytest.skip("needs one of the extras litert, onnx, openvino")
    splits = load_splits(run.data, run.run.seed)
    expected = load_classifier(workdir / "model.keras").predict(splits.test.files)
    for name in formats:
        row = metrics["exports"][name]
        classifier = load_classifier(find_model(workdir / "export" / name))
        probabilities = classifier.predict(splits.test.files)
        same, accuracies, differences = [], [], []
        pairs = zip(classifier.tasks, splits.test.targets, strict=True)
        for task, target in pairs:
            ours, theirs = probabilities[task.name], expected[task.name]
            accuracies.append(measure(task, target, ours)["accuracy"])
            differences.append(np.abs(ours - theirs).max())
            limits = np.float32(task.thresholds)
            same.append(
                ((ours >= limits) == (theirs >= limits)).all(1)
                if task.thresholds
                else ours.argmax(1) == theirs.argmax(1)
            )
        assert row["difference"] == pytest.approx(max(differences), abs=1e-5)
        assert row["agreement"] == pytest.approx(np.all(same, axis=0).mean())
        assert row["accuracy"] == pytest.approx(np.mean(accuracies))
    page = HtmlPage((workdir / "report.html").read_text())
    assert all(page.has(f"export/{name}/1") for name in formats)
    made_by = f"--flagfile={workdir / 'flags.cfg'}"
    assert cli.main(["", made_by, f"--workdir={workdir}"]) == 0
    shown = capsys.readouterr().out
    assert all(str(workdir / "export" / name / "1") in shown for name in formats)


def test_predictions_have_columns_for_each_task(workdir, table, tmp_path, capsys):
    output = tmp_path / "predictions.csv"
    args = ["keras_ft", "--mode=predict", f"--model={workdir}", f"--data={table}"]
    assert cli.main([*args, "--top_k=1", f"--output={output}"]) == 0
    rows = read_table(output)
    assert list(rows[0]) == [
        "path",
        "colour/class_name",
        "colour/probability",
        "light/class_name",
        "light/probability",
        "tags/labels",
        "tags/probabilities",
        "error",
    ]
    classifier = load_classifier(workdir / "export" / "saved_model" / "1")
    predicted = classifier.predict([row["path"] for row in rows])
    tags = classifier.tasks[2]
    for i, row in enumerate(rows):
        best = predicted["colour"][i].argmax()
        assert row["colour/class_name"] == ("blue", "green", "red")[best]
        applies = predicted["tags"][i] >= np.float32(tags.thresholds)
        names = [n for n, yes in zip(tags.class_names, applies, strict=True) if yes]
        assert row["tags/labels"] == "|".join(names)


def test_the_table_of_a_run_is_evaluated_on_its_test_images(
    run, workdir, table, metrics
):
    found = evaluate(Config(mode="evaluate", model=str(workdir), data=str(table)))
    assert found["num_examples"] == metrics["num_examples"]["test"]
    assert found["accuracy"] == pytest.approx(metrics["test"]["accuracy"])
    for name, of_task in metrics["tasks"].items():
        assert found["tasks"][name]["loss"] == pytest.approx(
            of_task["test"]["loss"], abs=1e-5
        )


def test_the_page_has_a_part_for_each_task(workdir):
    page = (workdir / "report.html").read_text()
    for i in (1, 2, 3):
        assert f'href="#task{i}"' in page and f'id="task{i}"' in page
    assert page.count('aria-label="Confusion matrix"') == 2
    assert "mean average precision" in page


def test_the_model_card_has_a_part_for_each_task(workdir, metrics):
    card = (workdir / "model_card.md").read_text()
    header, _, body = card.removeprefix("---\n").partition("---\n")
    assert header.count("  - task:") == 3
    parts = re.split("^### ", body, flags=re.MULTILINE)[1:]
    assert [part.split()[0] for part in parts] == ["colour", "light", "tags"]
    for part, (name, results) in zip(parts, metrics["tasks"].items(), strict=True):
        assert f"| accuracy | {results['test']['accuracy']:.3f} |" in part
        for class_name, row in results["test"]["per_class"].items():
            [cells] = re.findall(rf"^\| {class_name} (.*) \|$", part, re.MULTILINE)
            *_, in_train, in_test = cells.split(" | ")
            assert int(in_test) == row["support"]
            assert int(in_train) > 0
        assert ("| threshold |" in part) == (name == "tags")


def assert_equal_runs(first: Path, second: Path) -> None:
    rows = [read_table(folder / "history.csv") for folder in (first, second)]
    for row in rows[0] + rows[1]:
        row["seconds"] = ""
    assert rows[0] == rows[1]
    models = [keras.models.load_model(f / "model.keras") for f in (first, second)]
    for a, b in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_interrupted_run_ends_as_the_uninterrupted_one(
    run, workdir, table, pretrained, tmp_path, monkeypatch
):
    leave_out_export(monkeypatch.setattr)
    config = make_config(table, tmp_path / "resumed", pretrained)
    plain = callbacks.History.on_epoch_end

    def stop(self, epoch, logs=None):
        if (self.phase, epoch) == ("finetune", 1):
            raise KeyboardInterrupt
        plain(self, epoch, logs)

    monkeypatch.setattr(callbacks.History, "on_epoch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(callbacks.History, "on_epoch_end", plain)
    train(config)
    assert_equal_runs(workdir, tmp_path / "resumed")


def test_one_column_given_by_name_is_the_run_without_a_name(
    table, pretrained, tmp_path, monkeypatch
):
    leave_out_export(monkeypatch.setattr)
    rows = [row for row in read_table(table) if row["colour"]]
    for column in ("label", "species"):
        with open(tmp_path / f"{column}.csv", "w", newline="") as stream:
            cells = [[row["path"], row["colour"]] for row in rows]
            csv.writer(stream).writerows([["path", column], *cells])
    named = {"label": (), "species": ("species",)}
    for column, columns in named.items():
        train(
            make_config(
                tmp_path / f"{column}.csv",
                tmp_path / column,
                pretrained,
                label_columns=columns,
                head_epochs=1,
                finetune_epochs=1,
            )
        )
    assert_equal_runs(tmp_path / "label", tmp_path / "species")
    splits = [(tmp_path / c / "splits.csv").read_text() for c in named]
    assert splits[0].replace("label", "species", 1) == splits[1]
    with_name, without = (
        json.loads((tmp_path / c / "metrics.json").read_text())
        for c in ("species", "label")
    )
    assert with_name["test"] == without["test"]
    assert with_name["tasks"]["species"]["test"] == without["test"]
    shutil.rmtree(tmp_path / "species")


def test_temperatures_are_those_of_each_task(workdir, metrics):
    model, description = load_trained(workdir / "model.keras")
    tasks = description.tasks
    assert {t.name for t in tasks if t.thresholds} == {"tags"}
    for task in tasks:
        calibration = metrics["tasks"][task.name]["calibration"]
        assert calibration["reason"]  # val is small
        scale = model.get_layer(f"temperature_{task.name}").scale
        assert scale == pytest.approx(1 / calibration["temperature"])
    half = np.full((2, 3), 0.5)
    np.testing.assert_allclose(tasks[2].kind.rescale(half, 2.0), half)
