import errno
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from helpers import ROOT, read_table

from keras_ft import cli, load_classifier
from keras_ft.catalog.archive import find_description
from keras_ft.catalog.formats import FORMATS
from keras_ft.runs.find_model import find_model, hash_model
from keras_ft.serving import exports

for extra in ("ai_edge_litert", "onnx", "onnxruntime", "tf2onnx", "openvino"):
    pytest.importorskip(extra, reason="needs the extras litert, onnx and openvino")

LITERT = ("litert", "litert_float16", "litert_int8")


def export(workdir, *formats):
    flags = [f"--export_formats={','.join(formats)}"] if formats else []
    return cli.main(["", "--mode=export", f"--workdir={workdir}", *flags])


def read_exports(workdir):
    return json.loads((workdir / "metrics.json").read_text())["exports"]


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """The workdir of a finished run, to be changed."""
    return shutil.copytree(finished_run.run.workdir, tmp_path / "run")


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    """A copy of a finished run, exported once more in every format."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(finished_run.run.workdir, folder)
    assert export(folder, *FORMATS) == 0
    return folder


@pytest.mark.parametrize("has_images", [True, False])
def test_a_new_version_is_compared_on_the_images_of_test(
    copied_run, has_images, monkeypatch, capsys
):
    splits = copied_run / "splits.csv"
    test = [row["path"] for row in read_table(splits) if row["split"] == "test"]
    if not has_images:  # instead of them it uses others
        splits.write_text(splits.read_text().replace(".png", ".moved"))
    card = copied_run / "model_card.md"
    assert "export/saved_model/1" in card.read_text()
    compared = []
    prove = exports.prove
    monkeypatch.setattr(exports, "prove", lambda *a: compared.append(a) or prove(*a))
    assert export(copied_run) == 0
    versions = copied_run / "export" / "saved_model"
    assert str(versions / "2") in capsys.readouterr().out
    assert sorted(version.name for version in versions.iterdir()) == ["1", "2"]
    [(_, files, *_)] = compared
    assert len(files) > 0
    assert (sorted(files) == sorted(test)) == has_images
    assert "export/saved_model/2" in card.read_text()
    assert (read_exports(copied_run)["saved_model"]["accuracy"] is None) != has_images


def test_versions_count_up_and_stay(copied_run):
    first = copied_run / "export" / "saved_model" / "1"
    before = hash_model(first)
    (first.parent / "9").mkdir()
    assert export(copied_run) == 0
    assert read_exports(copied_run)["saved_model"]["path"] == "export/saved_model/10"
    assert hash_model(first) == before
    assert not list((copied_run / "export").glob(".partial-*"))


def test_a_workdir_without_a_model_is_one_line(copied_run, capsys):
    (copied_run / "model.keras").unlink()
    assert export(copied_run) == 1
    message = "--mode=export needs a finished run's workdir"
    assert message in capsys.readouterr().err


def test_every_format_is_compared_and_its_results_are_in_the_metrics(exported):
    metrics = json.loads((exported / "metrics.json").read_text())
    assert list(metrics["exports"]) == list(FORMATS)
    for name, row in metrics["exports"].items():
        version = 2 if name == "saved_model" else 1
        assert row["path"] == f"export/{name}/{version}"
        folder = exported / row["path"]
        assert (folder / FORMATS[name].file).is_file()
        assert (folder / "preprocessing.json").exists() == (name != "saved_model")
        sizes = [f.stat().st_size for f in folder.rglob("*") if f.is_file()]
        assert row["bytes"] == sum(sizes)
        assert row["agreement"] == 1
        assert row["accuracy"] == metrics["test"]["accuracy"]
        assert row["difference"] < (0.05 if "_" in name[3:] else 1e-5)
        assert min(row["milliseconds"], row["images_per_second"]) > 0
        assert row["error"] == ""
    by_weights = [metrics["exports"][name]["bytes"] for name in LITERT]
    assert sorted(by_weights, reverse=True) == by_weights
    assert len(set(by_weights)) == 3


def test_every_export_says_which_run_it_is_of(exported):
    metrics = json.loads((exported / "metrics.json").read_text())
    for row in metrics["exports"].values():
        run = find_description(find_model(exported / row["path"])).run
        assert run["model_sha256"] == hash_model(exported / "model.keras")
        assert run["backbone"] == "tiny"
        assert run["packages"]["keras"]
        of_task = run["test"]["label"]
        assert of_task["accuracy"] == metrics["test"]["accuracy"]


def test_predict_and_evaluate_take_every_format(exported, finished_run, tmp_path):
    def run(mode, model, name):
        output = tmp_path / name
        flags = [f"--mode={mode}", f"--model={model}", f"--output={output}"]
        flags += [f"--data={finished_run.data.data}"]
        assert cli.main(["", *flags, f"--cache_dir={tmp_path / 'cache'}"]) == 0
        return output

    expected = read_table(run("predict", exported, "keras.csv"))
    metrics = json.loads(run("evaluate", exported, "keras.json").read_text())
    folder = exported / "export"
    models = {
        "litert": folder / "litert",
        "litert_float16": folder / "litert_float16" / "1",
        "onnx": folder / "onnx" / "1" / "model.onnx",
        "openvino": folder / "openvino" / "1" / "model.xml",
    }
    for name, model in models.items():
        rows = read_table(run("predict", model, f"{name}.csv"))
        assert [row["class_name"] for row in rows] == [
            row["class_name"] for row in expected
        ]
        # What the run was trained on is left out, whichever file of it is named.
        measured = json.loads(run("evaluate", model, f"{name}.json").read_text())
        assert measured["num_examples"] == metrics["num_examples"]
        assert measured["confusion_matrix"] == metrics["confusion_matrix"]


def test_a_lone_file_is_a_model(exported, finished_run, tmp_path):
    lone = shutil.copy(exported / "export/litert/1/model.tflite", tmp_path / "x.tflite")
    classifier = load_classifier(lone)
    assert classifier.class_names == ("blue", "green", "red")


@pytest.mark.parametrize("name", ["litert", "onnx", "openvino"])
def test_the_documented_script_answers_without_this_program(
    exported, finished_run, tmp_path, name
):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    [script] = re.findall(
        rf"<!-- caller {name} -->\n```python\n(.*?)```", text, re.DOTALL
    )
    folder = shutil.copytree(exported / "export" / name / "1", tmp_path / name)
    image = Path(finished_run.data.data) / "green" / "0.png"
    shutil.copy(image, folder / "photo.jpg")
    [row] = load_classifier(exported / "model.keras").predict([image])
    script += (
        "import sys\n"
        "assert not {'tensorflow', 'keras', 'keras_ft'} & set(sys.modules)\n"
    )
    (folder / "script.py").write_text(script)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, "script.py"]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    class_name, probability = done.stdout.split()
    assert class_name == ("blue", "green", "red")[row.argmax()]
    assert float(probability) == pytest.approx(row.max(), abs=1e-3)


def swap_classes(write):
    """A writer whose networks are sure of the classes in another order."""

    def write_swapped(model, description, folder):
        swapped = {name: 100 * logits[:, ::-1] for name, logits in model.output.items()}
        write(keras.Model(model.input, swapped), description, folder)

    return write_swapped


def leave_out_weights(write):
    """A writer whose networks return what is not a number."""

    def write_empty(model, description, folder):
        empty = {name: logits * float("nan") for name, logits in model.output.items()}
        write(keras.Model(model.input, empty), description, folder)

    return write_empty


def break_writer(monkeypatch, name, broken):
    path = FORMATS[name].write.replace(":", ".")
    writer = broken(pkgutil.resolve_name(FORMATS[name].write))
    monkeypatch.setattr(path, writer)


def fail_with(error):
    def fail(*_args):
        raise error

    return lambda _write: fail


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        (
            "litert_int8",
            swap_classes,
            "significantly less than --export_agreement=0.99",
        ),
        ("litert", swap_classes, "in a probability, which rounding does not explain"),
        ("litert_int8", leave_out_weights, "differs from the Keras model by nan"),
        (
            "onnx",
            fail_with(ValueError("No Op registered for Conv5D\nand more")),
            "ValueError: No Op registered for Conv5D",
        ),
        ("openvino", fail_with(OSError("libx.so")), "can't be made: OSError: libx.so"),
        ("saved_model", fail_with(KeyError("x")), "can't be made: KeyError: 'x'"),
    ],
)
def test_what_does_not_pass_is_deleted_and_the_others_are_written(
    copied_run, finished_run, monkeypatch, capsys, name, broken, message
):
    break_writer(monkeypatch, name, broken)
    assert export(copied_run, name, "litert_float16") == 1
    shown = capsys.readouterr()
    assert message in shown.err.splitlines()[-1]
    assert "deleted" in shown.out
    exports = read_exports(copied_run)
    assert message in exports[name]["error"]
    assert exports[name]["path"] is None
    json.dumps(exports, allow_nan=False)
    assert len(list((copied_run / "export" / name).glob("*"))) == (
        name == "saved_model"
    )
    assert not list((copied_run / "export").glob(".partial-*"))
    assert exports["litert_float16"]["path"] == "export/litert_float16/1"

    # The command of the run says it again, as long as it asks for the format.
    made_by = f"--flagfile={copied_run / 'flags.cfg'}"
    again = ["", made_by, f"--workdir={copied_run}"]
    assert cli.main(again) == (name == "saved_model")
    assert cli.main([*again, f"--export_formats={name}"]) == 1
    assert message in capsys.readouterr().err
    monkeypatch.undo()
    assert export(copied_run, name) == 0
    assert cli.main([*again, f"--export_formats={name}"]) == 0


def test_a_full_disk_is_no_matter_of_a_format(copied_run, monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device")
    break_writer(monkeypatch, "onnx", fail_with(full))
    assert export(copied_run, "onnx") == 1
    assert "Received: [Errno 28] No space left" in capsys.readouterr().err
    assert "onnx" not in read_exports(copied_run)


def test_the_bound_of_the_agreement_is_a_flag(copied_run, monkeypatch):
    break_writer(monkeypatch, "litert_int8", swap_classes)
    flags = ["--export_formats=litert_int8", "--export_agreement=0"]
    assert cli.main(["", "--mode=export", f"--workdir={copied_run}", *flags]) == 0
    assert 0 < read_exports(copied_run)["litert_int8"]["agreement"] < 0.99
