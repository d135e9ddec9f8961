import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import run_metrics
from PIL import Image

from keras_ft.catalog.backbones import Weights
from keras_ft.comparison import processes
from keras_ft.comparison.summary import summarize
from keras_ft.config import flags
from keras_ft.config.settings import Config
from keras_ft.data import dataset
from keras_ft.data.tables import read_table
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.jobs import train
from keras_ft.jobs.compare import compare
from keras_ft.runs.lock import locked
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord, write_record


@pytest.fixture
def calls(monkeypatch):
    """Replaces training: `--dropout` decides the result. A list of the runs begun."""
    names = []

    def train_in_process(config, log_file):
        paths, dropout = RunPaths(Path(config.run.workdir)), config.model.dropout
        assert log_file == paths.folder.with_name(f"{paths.folder.name}.log")
        names.append(paths.folder.name)
        if dropout == 0.9:
            return "too much dropout."
        if dropout == 0.7:
            raise KeyboardInterrupt
        paths.folder.mkdir(parents=True)
        paths.flags.write_text(flags.to_flagfile(config))
        files.write_json(paths.metrics, run_metrics(dropout + 0.001 * config.run.seed))
        record = RunRecord(weights=Weights("none"), precision="float32")
        write_record(paths, record, "finished")
        return "keras_ft: below --assert_accuracy_at_least."

    monkeypatch.setattr(processes, "train_in_process", train_in_process)
    monkeypatch.setitem(sys.modules, "ray", None)  # only --cluster needs it
    return names


@pytest.fixture
def run(image_folder, tmp_path):
    """Compares in the folder `w`, with one seed by default."""

    def call(sweep, **others):
        given = {"data": str(image_folder), "workdir": str(tmp_path / "w"), "seeds": 1}
        return compare(Config(mode="compare", sweep=sweep, **(given | others)))

    return call


def read(folder):
    return json.loads((folder / "compare.json").read_text())


def test_every_setting_is_run_with_every_seed(calls, run, tmp_path):
    comparison = run("dropout=0.1|0.2", seeds=2)
    order = [f"dropout={d},seed={seed}" for seed in (0, 1) for d in (0.1, 0.2)]
    assert calls == order
    content = read(tmp_path / "w")
    assert [run["name"] for run in content["runs"]] == order
    assert {run["state"] for run in content["runs"]} == {"finished"}
    # They have finished, whatever their exit status.
    assert {run["error"] for run in content["runs"]} == {None}
    assert [one["flags"]["dropout"] for one in content["settings"]] == ["0.1", "0.2"]
    assert content["settings"][0]["val"] == {"mean": 0.1005, "low": 0.1, "high": 0.101}
    assert content["recommended"]["flags"] == {"dropout": "0.1"}
    last = summarize(comparison).splitlines()[-1]
    assert last.startswith(
        "Recommended     dropout=0.1. Its val_calibrated_loss, 0.1005, is "
    )
    # Test is shown for one setting only, after the choice.
    assert all("test" not in run for run in content["runs"])
    assert content["recommended"]["test_accuracy"]["mean"] == pytest.approx(0.8995)


def test_a_run_that_fails_does_not_end_the_others(calls, run, tmp_path):
    comparison = run("dropout=0.9|0.1")
    assert len(calls) == 2
    failed, finished = read(tmp_path / "w")["runs"]
    assert (failed["state"], failed["error"]) == ("failed", "too much dropout.")
    assert (finished["state"], finished["error"]) == ("finished", None)
    assert "dropout=0.9,seed=0: too much dropout." in summarize(comparison)


def test_it_is_a_user_error_if_no_run_has_finished(calls, run, tmp_path):
    log = tmp_path / "w" / "runs" / "dropout=0.9,unfreeze=all,seed=0.log"
    with pytest.raises(UserError, match="No run has finished.*too much dropout") as e:
        run("dropout=0.9;unfreeze=all|none")
    assert f"({log})" in str(e.value)
    assert len(calls) == 2
    assert read(tmp_path / "w")["recommended"] is None


def test_a_larger_sweep_repeats_no_finished_run(calls, run, tmp_path):
    run("dropout=0.1|0.9")
    splits = (tmp_path / "w" / "splits.csv").read_bytes()
    calls.clear()

    # Failed runs are repeated; more values, seeds and flags are new runs.
    run("dropout=0.9|0.1|0.3;unfreeze=none|all")
    assert calls == [
        "dropout=0.9,unfreeze=none,seed=0",
        "dropout=0.9,unfreeze=all,seed=0",
        "dropout=0.1,unfreeze=none,seed=0",
        # Not dropout=0.1 with unfreeze=all, which is the default.
        "dropout=0.3,unfreeze=none,seed=0",
        "dropout=0.3,unfreeze=all,seed=0",
    ]
    calls.clear()
    run("dropout=0.10", seeds=2)
    assert calls == ["dropout=0.10,seed=1"]
    assert read(tmp_path / "w")["settings"][0]["seeds"] == [0, 1]
    assert (tmp_path / "w" / "splits.csv").read_bytes() == splits

    # Other flags are refused, and no file is changed.
    calls.clear()
    with pytest.raises(UserError, match="--batch_size was 32, now 4"):
        run("dropout=0.1", batch_size=4)
    with pytest.raises(UserError, match="--seed was 0, now 3"):
        run("dropout=0.1", seed=3)
    assert calls == []


def test_overwrite_starts_again(calls, run, tmp_path):
    run("dropout=0.1|0.2")
    run("dropout=0.1|0.2", overwrite=True, seed=5)
    assert len(calls) == 4
    assert sorted(path.name for path in (tmp_path / "w" / "runs").glob("*/")) == [
        "dropout=0.1,seed=5",
        "dropout=0.2,seed=5",
    ]
    assert not (tmp_path / "w" / "previous").exists()


def test_overwrite_keeps_the_old_comparison_until_a_run_has_finished(
    calls, run, tmp_path
):
    run("dropout=0.1")
    with pytest.raises(UserError, match="No run has finished"):
        run("dropout=0.9", overwrite=True)
    old = tmp_path / "w" / "previous" / "runs" / "dropout=0.1,seed=0"
    assert old.exists()
    run("dropout=0.2")
    assert not old.exists()


@pytest.mark.parametrize("name", ["run.json", "runs", "splits.csv", "model.keras"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_with_other_files_is_left_alone(calls, run, tmp_path, name, overwrite):
    folder = tmp_path / "w"
    folder.mkdir()
    (folder / name).write_text("precious")
    with pytest.raises(UserError, match=f"w with {name}"):
        run("dropout=0.1", overwrite=overwrite)
    assert (folder / name).read_text() == "precious"
    assert calls == []


def test_training_refuses_the_folder_of_a_comparison(calls, run, image_folder):
    comparison = run("dropout=0.1")
    folder = comparison.config.run.workdir
    with pytest.raises(UserError, match="--workdir must be new or contain a run"):
        train.train(Config(workdir=folder, data=str(image_folder)))


def test_a_mistake_in_the_data_leaves_nothing_behind(calls, run, tmp_path):
    with pytest.raises(UserError, match="/nowhere"):
        run("dropout=0.1", data="/nowhere")
    assert not (tmp_path / "w").exists()


def test_the_paths_of_splits_are_valid_in_any_folder(
    calls, run, image_folder, tmp_path, monkeypatch
):
    # They are the user's, not those of the converted file.
    with Image.open(image_folder / "red" / "0.png") as image:
        image.save(image_folder / "red" / "0.tif")
    rows = [["path", "label"]]
    for path in sorted(image_folder.glob("*/*")):
        rows.append([str(path.relative_to(tmp_path)), path.parent.name])
    with open(tmp_path / "table.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for data in ("../table.csv", "../images"):
        folder = Path(f"w{len(data)}")
        # The splits contain all images; each run draws those that it trains on.
        run("dropout=0.1", data=data, workdir=folder, examples_per_class=1)
        table = [row for _, row in read_table(str(folder / "splits.csv"))]
        files = (os.path.join(row.relative_to, row.path) for row in table)
        assert sorted(map(os.path.realpath, files)) == sorted(
            str(path) for path in image_folder.glob("*/*")
        )
        assert {row.split for row in table} == {"train", "val", "test"}


def test_near_duplicates_are_in_one_split_of_all_runs(calls, run, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        for name, size in (("ant", 64), ("bee", 80)):
            (tmp_path / "pairs" / name).mkdir(parents=True, exist_ok=True)
            image.resize((size, size)).save(tmp_path / "pairs" / name / f"{i}.png")
    run("dropout=0.1", data=tmp_path / "pairs", cache_dir=tmp_path / "cache")
    splits = {}
    for _, row in read_table(str(tmp_path / "w" / "splits.csv")):
        splits.setdefault(os.path.basename(row.path), set()).add(row.split)
    assert {len(of_pair) for of_pair in splits.values()} == {1}


@pytest.mark.parametrize("requested", ["0,1", None])
def test_gpus_are_left_to_the_runs(calls, run, monkeypatch, requested):
    name, seen = "CUDA_VISIBLE_DEVICES", []
    monkeypatch.delenv(name, raising=False)
    if requested:
        monkeypatch.setenv(name, requested)

    def load_dataset(config):
        seen.append(os.environ[name])
        return dataset.load_dataset(config)

    monkeypatch.setattr("keras_ft.jobs.compare.load_dataset", load_dataset)
    run("dropout=0.1")
    assert seen == ["-1"]
    assert os.environ.get(name) == requested


def test_a_stopped_comparison_can_be_read_and_resumed(calls, run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run("dropout=0.1|0.7|0.2")
    states = [run["state"] for run in read(tmp_path / "w")["runs"]]
    assert states == ["finished", "to do", "to do"]
    assert (tmp_path / "w" / "compare.html").exists()
    run("dropout=0.1|0.2")
    assert calls == [f"dropout={d},seed=0" for d in (0.1, 0.7, 0.2)]


def test_images_may_move_but_not_change(calls, run, image_folder, tmp_path):
    run("dropout=0.1")
    moved = image_folder.rename(tmp_path / "moved")
    run("dropout=0.1|0.2", data=f"{moved}/")
    assert calls == ["dropout=0.1,seed=0", "dropout=0.2,seed=0"]
    rows = [row for _, row in read_table(str(tmp_path / "w" / "splits.csv"))]
    assert all(map(os.path.isfile, (row.path for row in rows)))
    os.remove(moved / "red" / "0.png")
    with pytest.raises(
        UserError, match="images have changed since .*: 1 gone. Restore"
    ):
        run("dropout=0.1|0.2", data=str(moved))


def test_a_second_comparison_in_the_same_folder_is_refused(calls, run, tmp_path):
    with (
        locked(tmp_path / "w"),
        pytest.raises(UserError, match="Another process works in"),
    ):
        run("dropout=0.1")
    assert calls == []
