"""Workdirs and SavedModels of earlier versions of the program are still usable."""

import csv
import json
import shutil

import numpy as np
import pytest
from helpers import ROOT

from keras_ft import cli, load_classifier

FIXTURES = ROOT / "tests" / "fixtures" / "format_0"


@pytest.fixture
def copy(tmp_path):
    """Copies a workdir of an earlier version; returns its new place."""

    def make(name):
        shutil.copytree(FIXTURES / name, tmp_path / name)
        return tmp_path / name

    return make


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def run_again(folder, *flags):
    """Runs the command that the workdir was made by."""
    made_by = f"--flagfile={folder / 'flags.cfg'}"
    cache = f"--cache_dir={folder}-cache"
    return cli.main(["", made_by, cache, f"--workdir={folder}", *flags])


def test_a_finished_run_is_summarized_and_not_repeated(copy, capsys):
    folder = copy("finished")
    history = (folder / "history.csv").read_bytes()
    assert run_again(folder) == 0
    accuracy = json.loads((folder / "metrics.json").read_text())["test"]["accuracy"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Test accuracy: {100 * accuracy:.1f} %"
    assert (folder / "history.csv").read_bytes() == history


def test_an_interrupted_run_is_resumed_to_the_same_end(copy, no_export):
    folder = copy("unfinished")
    before = read(folder / "history.csv")
    assert run_again(folder) == 0
    rows, expected = (read(f / "history.csv") for f in (folder, FIXTURES / "finished"))
    # The columns that they lack are empty, those that are no longer written are gone.
    shared = rows[0].keys() & before[0].keys()
    assert before[0].keys() - shared == {"macro_f1", "balanced_accuracy"}
    for row, old in zip(rows[:2], before, strict=True):
        assert {name: row[name] for name in shared} == {n: old[n] for n in shared}
    assert {rows[0][name] for name in rows[0].keys() - before[0].keys()} == {""}
    assert len(rows) == len(expected) == 4
    for row, of_finished in zip(rows, expected, strict=True):
        # Processors of other kinds round differently.
        assert float(row["val_loss"]) == pytest.approx(
            float(of_finished["val_loss"]), rel=0.02
        )
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"


def test_models_and_saved_models_answer_alike(tmp_path):
    assert (
        cli.main(
            ["", "--mode=predict", f"--model={FIXTURES / 'finished'}"]
            + ["--data=builtin:faces", f"--output={tmp_path / 'answers.csv'}"]
            + [f"--cache_dir={tmp_path / 'cache'}"]
        )
        == 0
    )
    rows = read(tmp_path / "answers.csv")
    right = [
        row["class_name"] == ("face" if i < 100 else "other")
        for i, row in enumerate(rows)
    ]
    assert np.mean(right) > 0.95
    images = sorted((tmp_path / "cache" / "builtin" / "faces").glob("[0-9]*"))[:20]
    by_keras, by_saved_model = (
        load_classifier(FIXTURES / "finished" / name)
        for name in ("model.keras", "export/saved_model")
    )
    assert by_keras.class_names == by_saved_model.class_names == ("face", "other")
    np.testing.assert_allclose(
        by_keras.predict(images), by_saved_model.predict(images), atol=1e-5
    )


def test_evaluate_leaves_out_what_the_run_was_trained_on(tmp_path):
    output = tmp_path / "metrics.json"
    flags = [f"--model={FIXTURES / 'finished'}", "--data=builtin:faces"]
    flags += [f"--output={output}", f"--cache_dir={tmp_path / 'cache'}"]
    assert cli.main(["", "--mode=evaluate", *flags]) == 0
    metrics = json.loads(output.read_text())
    then = json.loads((FIXTURES / "finished" / "metrics.json").read_text())
    assert metrics["num_examples"] == then["num_examples"]["test"]
    assert metrics["confusion_matrix"] == then["test"]["confusion_matrix"]


def test_a_finished_run_is_exported_again(copy):
    folder = copy("finished")
    assert cli.main(["", "--mode=export", f"--workdir={folder}"]) == 0
    assert (folder / "export" / "saved_model" / "2" / "saved_model.pb").exists()


def test_a_run_of_a_later_format_is_refused(copy, capsys):
    folder = copy("finished")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "format_version": 99}))
    assert run_again(folder) == 1
    assert "format version of at most 1. Received: 99" in capsys.readouterr().err
