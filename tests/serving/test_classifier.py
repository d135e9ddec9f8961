import csv
import json
import os
import shutil

import keras
import numpy as np
import pytest
from helpers import COLOURS, png_header, write_images, write_run

from keras_ft import cli
from keras_ft.config.config import Config
from keras_ft.data.dataset import load_splits
from keras_ft.errors import UserError
from keras_ft.jobs import evaluate as evaluate_job
from keras_ft.jobs import predict as predict_job
from keras_ft.models.classifier import make_backbone, make_classifier
from keras_ft.serving import classifier, export

CLASS_NAMES = tuple(COLOURS)


@pytest.fixture
def run(tmp_path, tiny_config):
    """A workdir with an untrained model."""
    keras.utils.set_random_seed(0)
    model = make_classifier(make_backbone("tiny", 16), 3, dropout=0.0)
    model.layers[-1].kernel.assign(3 * model.layers[-1].kernel)
    splits = load_splits(tiny_config.data, seed=0)
    folder = write_run(tiny_config, splits).folder
    export.write_model(model, CLASS_NAMES, folder / "model.keras")
    export.write_saved_model(model, CLASS_NAMES, folder / "export" / "saved_model")
    return folder


def config(mode, model, data, **flags):
    return Config(mode=mode, model=str(model), data=str(data), **flags)


def evaluate(model, images, tmp_path, **flags):
    output = tmp_path / f"metrics-{len(list(tmp_path.iterdir()))}.json"
    flags |= {"output": str(output)}
    evaluate_job.evaluate(config("evaluate", model, images, **flags))
    return json.loads(output.read_text())


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_predictions_are_rows_with_errors_as_rows(run, image_folder, tmp_path):
    (image_folder / "red" / "0.png").write_bytes(b"no image")
    (image_folder / "red" / "1.png").unlink()
    (image_folder / "red" / "1.png").symlink_to("nowhere")
    (image_folder / "red" / "notes.txt").write_text("no picture")
    output = tmp_path / "out.csv"
    predict_job.predict(
        config("predict", run, image_folder, output=str(output), top_k=9, batch_size=4)
    )
    rows = read(output)
    assert list(rows[0]) == [
        "path",
        "class_name",
        "probability",
        "top_2",
        "top_2_probability",
        "top_3",
        "top_3_probability",
        "error",
    ]
    assert len(rows) == 30
    errors = {row["path"]: row["error"] for row in rows if row["error"]}
    assert errors == {
        str(image_folder / "red" / "0.png"): (
            "not a readable JPEG, PNG, BMP, GIF or WebP image"
        ),
        str(image_folder / "red" / "1.png"): "No such file or directory",
    }
    for row in rows:
        if row["error"]:
            assert row["class_name"] == row["probability"] == ""
            continue
        names = [row["class_name"], row["top_2"], row["top_3"]]
        values = [
            row["probability"],
            row["top_2_probability"],
            row["top_3_probability"],
        ]
        values = [float(value) for value in values]
        assert sorted(names) == sorted(CLASS_NAMES)
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)


def test_a_class_name_is_no_formula(run, image_folder, tmp_path):
    model, _ = export.load_model(run / "model.keras")
    names = ("=1+1", "@b", 'c,\n"d"')
    export.write_model(model, names, tmp_path / "odd.keras")
    output = tmp_path / "out.csv"
    predict_job.predict(
        config("predict", tmp_path / "odd.keras", image_folder, output=str(output))
    )
    rows = read(output)
    assert len(rows) == 30
    assert {row["class_name"] for row in rows} | {row["top_3"] for row in rows} <= {
        "'=1+1",
        "'@b",
        'c,\n"d"',
    }


def test_every_form_of_a_model_gives_the_same_answers(
    run, image_folder, tmp_path, capsys
):
    lone = tmp_path / "lone.keras"
    shutil.copy(run / "model.keras", lone)
    saved_model = run / "export" / "saved_model"
    answers = []
    for model in (run, run / "model.keras", lone, saved_model, saved_model / "1"):
        predict_job.predict(config("predict", model, image_folder / "red"))
        lines = capsys.readouterr().out.splitlines()
        rows = [row.split(",") for row in lines]
        assert len(rows) == 11
        answers.append([row[1] for row in rows[1:]])
    assert all(answer == answers[0] for answer in answers)


def test_file_names_may_be_of_any_bytes(run, image_folder, tmp_path, capfdbinary):
    file = os.path.join(os.fsencode(image_folder), b"caf\xe9, $x.png")
    shutil.copy(image_folder / "red" / "3.png", file)
    name = os.fsdecode(file)
    predict_job.predict(config("predict", run, name, output=str(tmp_path / "out.csv")))
    written = (tmp_path / "out.csv").read_bytes().splitlines()[1]
    assert written.startswith(b'"' + file + b'",')
    predict_job.predict(config("predict", run, name))
    assert capfdbinary.readouterr().out.splitlines()[1] == written


def test_one_file_is_predicted(run, image_folder, capsys):
    file = image_folder / "red" / "3.png"
    predict_job.predict(config("predict", run, file, top_k=1))
    header, row = capsys.readouterr().out.splitlines()
    assert header == "path,class_name,probability,error"
    assert row.startswith(f"{file},")


def test_a_decompression_bomb_is_not_decoded(run, tmp_path, capsys):
    (tmp_path / "bomb.png").write_bytes(png_header(10_000, 10_000))
    predict_job.predict(config("predict", run, tmp_path / "bomb.png", top_k=1))
    _, row = capsys.readouterr().out.splitlines()
    assert row.endswith(",,,more than 89478485 pixels")


def test_an_output_that_exists_is_kept(run, image_folder, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("mine")
    asked = config("predict", run, image_folder, output=str(output))
    with pytest.raises(UserError, match="--output must not exist"):
        predict_job.predict(asked)
    assert output.read_text() == "mine"
    asked = config("predict", run, image_folder, output=str(output), overwrite=True)
    predict_job.predict(asked)
    assert len(read(output)) == 30


def test_evaluate_leaves_out_what_the_model_was_trained_on(
    run, image_folder, tmp_path, capsys
):
    metrics = evaluate(run, image_folder, tmp_path)
    assert (
        cli.main(["", "--mode=evaluate", f"--model={run}", f"--data={image_folder}"])
        == 0
    )
    assert metrics["num_examples"] == 6  # of 30: 0.15 of ten in each of three classes
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last == f"Accuracy: {100 * metrics['accuracy']:.1f} %"
    by_export = evaluate(run / "export" / "saved_model", image_folder, tmp_path)
    assert by_export["confusion_matrix"] == metrics["confusion_matrix"]


def test_evaluate_needs_images_that_the_model_has_not_seen(run, image_folder, tmp_path):
    splits = {row["path"]: row["split"] for row in read(run / "splits.csv")}
    for path, split in splits.items():
        if split == "test":
            os.remove(path)
    with pytest.raises(UserError, match="only images that .*splits.csv lists"):
        evaluate(run, image_folder, tmp_path)


def test_evaluate_on_other_images_uses_all(run, tmp_path):
    # The classes of the set are fewer than the model's, and their order another.
    write_images(tmp_path / "other" / "red", (200, 0, 0), 5)
    metrics = evaluate(run, tmp_path / "other", tmp_path)
    assert metrics["num_examples"] == 5
    assert metrics["per_class"]["red"]["support"] == 5
    assert metrics["accuracy"] == metrics["per_class"]["red"]["recall"]
    assert len(metrics["confusion_matrix"]) == 3


def test_evaluate_uses_test_of_a_set_with_splits(run, tmp_path):
    for split, count in (("train", 3), ("test", 4)):
        write_images(tmp_path / "set" / split / "red", (200, 0, 0), count)
    metrics = evaluate(run, tmp_path / "set", tmp_path)
    assert metrics["num_examples"] == 4


def test_evaluate_names_classes_that_the_model_does_not_know(run, tmp_path):
    write_images(tmp_path / "other" / "pink", (200, 100, 100), 2)
    with pytest.raises(UserError, match="it has blue, green, red. Received: pink"):
        evaluate(run, tmp_path / "other", tmp_path)


def test_evaluate_names_unreadable_images(run, tmp_path):
    write_images(tmp_path / "other" / "red", (200, 0, 0), 3)
    broken = tmp_path / "other" / "red" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match="1 of 3 that are not: .*1.png"):
        evaluate(run, tmp_path / "other", tmp_path, on_bad_image="error")
    metrics = evaluate(run, tmp_path / "other", tmp_path)
    assert (metrics["num_examples"], metrics["num_skipped"]) == (2, 1)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 broken"])
def test_what_is_no_model_is_one_line(tmp_path, content):
    path = tmp_path / "model.keras"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="--model") as error:
        classifier.load_classifier(path)
    assert "\n" not in str(error.value)


def test_a_damaged_saved_model_is_one_line(run):
    version = run / "export" / "saved_model" / "1"
    (version / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(UserError, match="can't be read as a model of keras_ft"):
        classifier.load_classifier(version)


def test_probabilities_match_the_keras_model(run, image_folder):
    exported = classifier.load_classifier(run / "export" / "saved_model" / "1")
    keras_model = classifier.load_classifier(run / "model.keras")
    files = [str(image_folder / "red" / f"{i}.png") for i in range(10)]
    ours = [p for p, _ in classifier.classify(exported, files, batch_size=3)]
    theirs = [p for p, _ in classifier.classify(keras_model, files, batch_size=10)]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
