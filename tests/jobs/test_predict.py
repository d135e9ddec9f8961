import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import COLOURS, make_task, png_header, read_table
from PIL import Image

from keras_ft.catalog.archive import Description
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.settings import Config
from keras_ft.data.file_facts import FORMAT_NAMES
from keras_ft.errors import UserError
from keras_ft.jobs.predict import predict
from keras_ft.kinds.task import MULTILABEL, Task
from keras_ft.models.trained import load_trained
from keras_ft.serving import model_files
from keras_ft.serving.rows import JsonRows

NO_IMAGE = f"not a readable {FORMAT_NAMES} image"


@pytest.fixture
def run(finished_run):
    """The workdir of a finished run."""
    return Path(finished_run.run.workdir)


def config(model, data, **flags):
    return Config(mode="predict", model=model, data=data, **flags)


@pytest.fixture
def predict_rows(run, tmp_path, monkeypatch):
    """Predicts images by a model, that of `run` unless given; returns the rows."""
    monkeypatch.setitem(sys.modules, "ray", None)  # only --cluster needs it

    def call(data, model=run, **flags):
        output = tmp_path / "out.csv"
        predict(config(model, data, output=output, overwrite=True, **flags))
        return read_table(output)

    return call


def test_predictions_are_rows_with_errors_as_rows(predict_rows, image_folder, caplog):
    red = image_folder / "red"
    (red / "0.png").write_bytes(b"no image")
    (red / "1.png").unlink()
    (red / "1.png").symlink_to("nowhere")
    (red / "notes.txt").write_text("no picture")
    rows = predict_rows(image_folder, top_k=9, batch_size=4)
    others = ["top_2", "top_2_probability", "top_3", "top_3_probability"]
    assert list(rows[0]) == ["path", "class_name", "probability", *others, "error"]
    assert len(rows) == 30
    assert "Wrote 28 predictions to " in caplog.messages[-1]
    assert caplog.messages[-1].endswith("; 2 files could not be read.")
    errors = {row["path"]: row["error"] for row in rows if row["error"]}
    assert errors == {
        str(red / "0.png"): NO_IMAGE,
        str(red / "1.png"): "No such file or directory",
    }
    for row in rows:
        if row["error"]:
            assert row["class_name"] == row["probability"] == ""
            continue
        names = [row[key] for key in ("class_name", "top_2", "top_3")]
        keys = ("probability", "top_2_probability", "top_3_probability")
        values = [float(row[key]) for key in keys]
        assert sorted(names) == sorted(COLOURS)
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)


def test_every_format_is_predicted(predict_rows, image_folder, monkeypatch):
    red = image_folder / "red"
    [row] = predict_rows(red / "3.png")
    with Image.open(red / "3.png") as image:
        image.save(red / "tiff.tif")
        image.save(red / "tiff.jpg", "tiff")
        image.save(red / "avif.avif", quality=95)
        image.convert("F").save(red / "float.tif")
    (red / "truncated.tif").write_bytes((red / "tiff.tif").read_bytes()[:-100])
    (red / "new.heic").write_bytes(b"\0\0\0\x10ftypheic\0\0\0\0")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    rows = {Path(row["path"]).name: row for row in predict_rows(red)}
    assert len(rows) == 16
    for name in ("tiff.tif", "tiff.jpg"):
        assert rows[name] == row | {"path": str(red / name)}
    probability = float(rows["avif.avif"]["probability"])
    assert probability == pytest.approx(float(row["probability"]), abs=0.05)
    assert "8 or 16 bits" in rows["float.tif"]["error"]
    assert rows["truncated.tif"]["error"] == NO_IMAGE
    assert "pip install 'keras_ft[heic]'" in rows["new.heic"]["error"]


def test_a_class_name_is_no_formula(predict_rows, run, image_folder, tmp_path):
    model, _ = load_trained(run / "model.keras")
    description = Description(
        (Task(class_names=("=1+1", "@b", 'c,\n"d"')),), Preprocessing(16, 16)
    )
    model_files.write_model(model, description, tmp_path / "odd.keras")
    rows = predict_rows(image_folder, tmp_path / "odd.keras")
    assert len(rows) == 30
    names = {row[key] for row in rows for key in ("class_name", "top_2", "top_3")}
    assert names == {"'=1+1", "'@b", 'c,\n"d"'}


def test_every_form_of_a_model_gives_the_same_answers(
    predict_rows, run, image_folder, tmp_path
):
    lone = tmp_path / "lone.keras"
    shutil.copy(run / "model.keras", lone)
    saved_model = run / "export" / "saved_model"
    answers = []
    for model in (run, run / "model.keras", lone, saved_model, saved_model / "1"):
        rows = predict_rows(image_folder / "red", model)
        assert len(rows) == 10
        answers.append([row["class_name"] for row in rows])
    assert all(answer == answers[0] for answer in answers)


def test_file_names_may_be_of_any_bytes(run, image_folder, tmp_path, capfdbinary):
    file = os.path.join(os.fsencode(image_folder), b"caf\xe9, $x.png")
    shutil.copy(image_folder / "red" / "3.png", file)
    name = os.fsdecode(file)
    predict(config(run, name, output=tmp_path / "out.csv"))
    written = (tmp_path / "out.csv").read_bytes().splitlines()[1]
    assert written.startswith(b'"' + file + b'",')
    predict(config(run, name))
    assert capfdbinary.readouterr().out.splitlines()[1] == written


def test_one_file_is_predicted(run, image_folder, tmp_path, capsys):
    file = image_folder / "red" / "3.png"
    predict(config(run, file, top_k=1))
    header, row = capsys.readouterr().out.splitlines()
    assert header == "path,class_name,probability,error"
    assert row.startswith(f"{file},")
    # A decompression bomb is not decoded.
    (tmp_path / "bomb.png").write_bytes(png_header(10_000, 10_000))
    with pytest.raises(UserError, match="can be read.*1 file could not be read"):
        predict(config(run, tmp_path / "bomb.png", top_k=1))
    _, row = capsys.readouterr().out.splitlines()
    assert row.endswith(",,,more than 89478485 pixels")


def test_an_output_that_exists_is_kept(predict_rows, run, image_folder, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("mine")
    with pytest.raises(UserError, match="--output must not exist"):
        predict(config(run, image_folder, output=output))
    assert output.read_text() == "mine"
    assert len(predict_rows(image_folder)) == 30


def read_json_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_have_the_answers_of_the_table(
    predict_rows, run, image_folder, tmp_path
):
    (image_folder / "red" / "0.png").write_bytes(b"no image")
    predict(config(run, image_folder / "red", output=tmp_path / "out.jsonl", top_k=2))
    rows = read_json_rows(tmp_path / "out.jsonl")
    table = predict_rows(image_folder / "red", top_k=2)
    assert len(rows) == len(table) == 10
    for row, cells in zip(rows, table, strict=True):
        assert list(row) == ["path", "class_name", "probability", "top", "error"]
        assert row["path"] == cells["path"]
        if row["error"]:
            assert row["error"] == cells["error"] == NO_IMAGE
            assert row["class_name"] is row["probability"] is row["top"] is None
            continue
        assert row["error"] is None
        first, second = row["top"]
        assert first == {key: row[key] for key in ("class_name", "probability")}
        assert first["class_name"] == cells["class_name"]
        assert f"{first['probability']:.6f}" == cells["probability"]
        assert second["class_name"] == cells["top_2"]
        assert f"{second['probability']:.6f}" == cells["top_2_probability"]


def test_json_rows_of_several_tasks():
    tags = make_task(3, name="tags", kind=MULTILABEL, thresholds=(0.5, 0.5, 0.5))
    rows = JsonRows([make_task(2, name="age"), tags], top_k=1)
    probabilities = {
        "age": np.array([0.25, 0.75], np.float32),
        "tags": np.array([0.5, 0.25, 1.0], np.float32),
    }
    best = {"class_name": "b", "probability": 0.75}
    applying = [
        {"class_name": "a", "probability": 0.5},
        {"class_name": "c", "probability": 1.0},
    ]
    assert json.loads(rows.to_row("=x", probabilities, "")) == {
        "path": "=x",
        "tasks": {"age": {**best, "top": [best]}, "tags": {"labels": applying}},
        "error": None,
    }
    nothing = {"class_name": None, "probability": None, "top": None}
    assert json.loads(rows.to_row("x", None, "why")) == {
        "path": "x",
        "tasks": {"age": nothing, "tags": {"labels": None}},
        "error": "why",
    }


def test_a_list_of_images_is_predicted_in_its_order(
    run, image_folder, tmp_path, monkeypatch
):
    names = [f"{colour}/{i}.png" for i in (3, 1, 2) for colour in ("red", "blue")]
    (tmp_path / "list").write_text("\n".join([*names, "gone.png"]))
    monkeypatch.chdir(image_folder)
    output = tmp_path / "out.csv"
    predict(config(run, f"@{tmp_path / 'list'}", output=output, batch_size=2))
    rows = read_table(output)
    assert [row["path"] for row in rows] == [*names, "gone.png"]
    errors = [row["error"] for row in rows]
    assert errors == [""] * 6 + ["No such file or directory"]
