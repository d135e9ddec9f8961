import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import ROOT

from keras_ft import cli
from keras_ft.data import dataset as data
from keras_ft.data.tables import read_table
from keras_ft.runs.lock import locked

PYTHON = sys.executable

# Stands in for training: says what it was asked for, and fails where told to.
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
flags = dict(arg[2:].split("=", 1) for arg in sys.argv[4:])
folder = pathlib.Path(flags.pop("workdir"))
with open("{calls}", "a") as stream:
    print(folder.name, file=stream)
print("starts")
if flags["dropout"] == "0.9":
    sys.exit("keras_ft: too much dropout.")
if flags["dropout"] == "0.8":
    os.kill(os.getpid(), 9)
if flags["dropout"] == "0.7":
    pathlib.Path("{calls}.asleep").touch()
    time.sleep(60)
folder.mkdir(parents=True)
lines = [f"--{{name}}={{value}}\\n" for name, value in flags.items()]
(folder / "flags.cfg").write_text("".join(lines))
loss = float(flags["dropout"]) + 0.001 * int(flags["seed"])
split = {{"loss": loss, "accuracy": 1 - loss}}
metrics = {{"val": split, "test": split, "seconds": {{"total": 3.0}}}}
metrics |= {{"num_examples": {{"train": 18}}, "model_bytes": 7}}
metrics["inference_images_per_second"] = 5.0
(folder / "metrics.json").write_text(json.dumps(metrics))
record = {{"state": "finished", "weights": {{"used": "none", "attempts": []}}}}
record |= {{"epochs": {{}}, "precision": "float32", "devices": [], "packages": {{}}}}
(folder / "run.json").write_text(json.dumps(record))
if flags["dropout"] == "0.3":
    sys.exit("keras_ft: finished, but worse than asked for.")
"""


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Replaces training; a file that lists the runs that were started."""
    script, listed = tmp_path / "program", tmp_path / "calls"
    script.write_text(PROGRAM.format(python=PYTHON, calls=listed))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return lambda: listed.read_text().split() if listed.exists() else []


def compare(folder, images, sweep, *args):
    given = [f"--workdir={folder}", f"--data={images}", f"--sweep={sweep}"]
    return cli.main(["keras_ft", "--mode=compare", *given, *args])


def result(folder):
    return json.loads((folder / "compare.json").read_text())


def test_every_setting_is_run_with_every_seed(calls, image_folder, tmp_path, capsys):
    folder = tmp_path / "w"
    assert compare(folder, image_folder, "dropout=0.1|0.2", "--seeds=2") == 0
    order = [f"dropout={d},seed={seed}" for seed in (0, 1) for d in (0.1, 0.2)]
    assert calls() == order
    told = result(folder)
    assert [run["name"] for run in told["runs"]] == order
    assert {run["state"] for run in told["runs"]} == {"finished"}
    assert [one["flags"]["dropout"] for one in told["settings"]] == ["0.1", "0.2"]
    assert told["settings"][0]["val"] == {"mean": 0.1005, "low": 0.1, "high": 0.101}
    assert told["recommended"]["flags"] == {"dropout": "0.1"}
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert last.startswith("Recommended     dropout=0.1. Its val_loss, 0.1005, is ")
    # Test is told of one setting only, and after the choice.
    assert all("test" not in run for run in told["runs"])
    assert told["recommended"]["test_accuracy"]["mean"] == pytest.approx(0.8995)


def test_a_run_that_fails_or_is_killed_does_not_end_the_others(
    calls, image_folder, tmp_path, capsys
):
    folder = tmp_path / "w"
    assert compare(folder, image_folder, "dropout=0.9|0.8|0.1", "--seeds=1") == 0
    assert len(calls()) == 3
    told = {run["flags"]["dropout"]: run for run in result(folder)["runs"]}
    assert told["0.9"]["error"] == "too much dropout."
    assert told["0.8"]["error"] == "ended by SIGKILL, perhaps for want of memory"
    assert [told[d]["state"] for d in ("0.9", "0.1")] == ["failed", "finished"]
    out = capsys.readouterr().out
    assert "dropout=0.9,seed=0: too much dropout." in out
    log = folder / "runs" / "dropout=0.9,seed=0.log"
    assert log.read_text() == "starts\nkeras_ft: too much dropout.\n"


def test_a_finished_run_counts_whatever_it_says_of_itself(
    calls, image_folder, tmp_path
):
    assert compare(tmp_path / "w", image_folder, "dropout=0.3", "--seeds=1") == 0
    [run] = result(tmp_path / "w")["runs"]
    assert (run["state"], run["error"]) == ("finished", None)


def test_that_no_run_finished_is_a_mistake(calls, image_folder, tmp_path, capsys):
    assert compare(tmp_path / "w", image_folder, "dropout=0.9|0.8", "--seeds=1") == 1
    assert len(calls()) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "No run of the comparison finished" in last
    assert "too much dropout" in last
    assert result(tmp_path / "w")["recommended"] is None


def test_a_comparison_grows_and_repeats_nothing(calls, image_folder, tmp_path, capsys):
    folder = tmp_path / "w"
    assert compare(folder, image_folder, "dropout=0.1|0.9", "--seeds=1") == 0
    splits = (folder / "splits.csv").read_bytes()
    before = calls()

    # Failed runs are tried again; more values, seeds and flags are new runs.
    sweep = "dropout=0.9|0.1|0.3;unfreeze=none|all"
    assert compare(folder, image_folder, sweep, "--seeds=1") == 0
    assert calls()[len(before) :] == [
        "dropout=0.9,unfreeze=none,seed=0",
        "dropout=0.9,unfreeze=all,seed=0",
        "dropout=0.1,unfreeze=none,seed=0",
        # Not dropout=0.1 with unfreeze=all, which is the default.
        "dropout=0.3,unfreeze=none,seed=0",
        "dropout=0.3,unfreeze=all,seed=0",
    ]
    assert compare(folder, image_folder, "dropout=0.10", "--seeds=2") == 0
    assert calls()[len(before) + 5 :] == ["dropout=0.10,seed=1"]
    assert result(folder)["settings"][0]["seeds"] == [0, 1]
    assert (folder / "splits.csv").read_bytes() == splits

    # Other flags are refused, and nothing is touched.
    count = len(calls())
    assert compare(folder, image_folder, "dropout=0.1", "--batch_size=4") == 1
    assert "--batch_size was 32, now 4" in capsys.readouterr().err
    assert compare(folder, image_folder, "dropout=0.1", "--seed=3") == 1
    assert "--seed was 0, now 3" in capsys.readouterr().err
    assert len(calls()) == count


def test_overwrite_starts_anew(calls, image_folder, tmp_path):
    folder = tmp_path / "w"
    args = ["dropout=0.1|0.2", "--seeds=1"]
    assert compare(folder, image_folder, *args) == 0
    assert compare(folder, image_folder, *args, "--overwrite", "--seed=5") == 0
    assert len(calls()) == 4
    assert sorted(path.name for path in (folder / "runs").glob("*/")) == [
        "dropout=0.1,seed=5",
        "dropout=0.2,seed=5",
    ]
    assert not (folder / "previous").exists()


def test_overwrite_keeps_the_old_comparison_until_a_run_is_finished(
    calls, image_folder, tmp_path
):
    folder = tmp_path / "w"
    assert compare(folder, image_folder, "dropout=0.1", "--seeds=1") == 0
    args = ["--seeds=1", "--overwrite"]
    assert compare(folder, image_folder, "dropout=0.9", *args) == 1
    assert (folder / "previous" / "runs" / "dropout=0.1,seed=0").exists()


@pytest.mark.parametrize("name", ["run.json", "runs", "splits.csv", "model.keras"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_other_things_is_left_alone(
    calls, image_folder, tmp_path, capsys, name, overwrite
):
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / name).write_text("precious")
    args = ["--overwrite"] if overwrite else []
    assert compare(folder, image_folder, "dropout=0.1", *args) == 1
    assert f"w with {name}" in capsys.readouterr().err
    assert (folder / name).read_text() == "precious"
    assert calls() == []


def test_training_refuses_the_folder_of_a_comparison(
    calls, image_folder, tmp_path, capsys
):
    folder = tmp_path / "w"
    assert compare(folder, image_folder, "dropout=0.1", "--seeds=1") == 0
    train = ["keras_ft", f"--workdir={folder}", f"--data={image_folder}"]
    assert cli.main(train) == 1
    assert "--workdir must be new or contain a run" in capsys.readouterr().err


def test_a_mistake_in_the_data_leaves_nothing_behind(calls, tmp_path, capsys):
    assert compare(tmp_path / "w", "/nowhere", "dropout=0.1") == 1
    assert "/nowhere" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_splits_have_paths_that_can_be_read_from_their_new_place(
    calls, image_folder, tmp_path, monkeypatch
):
    rows = [["path", "label"]]
    for path in sorted(image_folder.glob("*/*")):
        rows.append([str(path.relative_to(tmp_path)), path.parent.name])
    with open(tmp_path / "table.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for images in ("../table.csv", "../images"):
        folder = Path(f"w{len(images)}")
        # All images are in the splits of all; each run draws those it trains on.
        args = ["--seeds=1", "--examples_per_class=1"]
        assert compare(folder, images, "dropout=0.1", *args) == 0
        table = [row for _, row in read_table(str(folder / "splits.csv"))]
        assert sorted(os.path.realpath(path) for path, *_ in table) == sorted(
            str(path) for path in image_folder.glob("*/*")
        )
        assert {split for _, _, split, _ in table} == {"train", "val", "test"}


@pytest.mark.parametrize("asked", ["0,1", None])
def test_gpus_are_left_to_the_runs(calls, image_folder, tmp_path, monkeypatch, asked):
    name, seen = "CUDA_VISIBLE_DEVICES", []
    monkeypatch.delenv(name, raising=False)
    if asked:
        monkeypatch.setenv(name, asked)

    def load_splits(*args):
        seen.append(os.environ[name])
        return data.load_splits(*args)

    monkeypatch.setattr("keras_ft.comparison.compare.load_splits", load_splits)
    assert compare(tmp_path / "w", image_folder, "dropout=0.1", "--seeds=1") == 0
    assert seen == ["-1"]
    assert os.environ.get(name) == asked


def test_a_signal_ends_the_run_too_and_the_same_command_goes_on(
    calls, image_folder, tmp_path
):
    folder = tmp_path / "w"
    script = (
        "import sys; from keras_ft import cli; "
        f"sys.executable = {sys.executable!r}; sys.exit(cli.main())"
    )
    arguments = [f"--workdir={folder}", f"--data={image_folder}", "--seeds=1"]
    command = [PYTHON, "-c", script, "--mode=compare", *arguments]
    asleep = tmp_path / "calls.asleep"
    process = subprocess.Popen(
        [*command, "--sweep=dropout=0.1|0.7|0.2"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not asleep.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "The same command goes on" in err
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True)
    assert f"{folder}/runs/dropout=0.7" not in running.stdout
    # What there is so far can be read.
    states = [run["state"] for run in result(folder)["runs"]]
    assert states == ["finished", "to do", "to do"]
    assert compare(folder, image_folder, "dropout=0.1|0.2", "--seeds=1") == 0
    assert calls()[-1] == "dropout=0.2,seed=0"
    assert len(calls()) == 3


def test_a_second_comparison_in_the_same_folder_is_refused(
    calls, image_folder, tmp_path, capsys
):
    with locked(tmp_path / "w"):
        assert compare(tmp_path / "w", image_folder, "dropout=0.1") == 1
    assert "Another process works in" in capsys.readouterr().err
    assert calls() == []


def test_real_runs_share_splits_and_differ_in_training(tiny_flags, tmp_path, capfd):
    folder = tmp_path / "w"
    tiny_flags |= {"examples_per_class": 4, "workdir": str(folder)}
    del tiny_flags["weights"]
    args = ["--mode=compare", *(f"--{k}={v}" for k, v in tiny_flags.items())]
    # Weights that are not there are found out by the run itself.
    sweep = "--sweep=weights=none|missing.h5"
    assert cli.main(["keras_ft", *args, sweep, "--seeds=1"]) == 0
    runs = result(folder)["runs"]
    assert [run["state"] for run in runs] == ["finished", "failed"]
    assert "missing.h5" in runs[1]["error"]
    model = (Path(runs[0]["workdir"]) / "model.keras").stat()

    assert cli.main(["keras_ft", *args, "--sweep=weights=none", "--seeds=2"]) == 0
    told = result(folder)
    first, second = (run["workdir"] for run in told["runs"])
    assert (Path(first) / "model.keras").stat() == model
    tables = [
        [row for _, row in read_table(f"{run}/splits.csv")] for run in (first, second)
    ]
    for split in ("val", "test"):
        a, b = ({path for path, _, s, _ in table if s == split} for table in tables)
        assert a == b
        assert a
    # The seed draws other images to train on.
    assert set(tables[0]) != set(tables[1])
    assert told["runs"][0]["val"] != told["runs"][1]["val"]
    assert told["recommended"]["flags"] == {"weights": "none"}
    assert "Recommended     weights=none." in capfd.readouterr().out
