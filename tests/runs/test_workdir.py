import csv
import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import make_dataset, run_metrics, start_run, write_run

from keras_ft.config.recipe import resolve
from keras_ft.config.settings import Config
from keras_ft.data.examples import Examples, Finding
from keras_ft.data.tables import read_table
from keras_ft.errors import UserError
from keras_ft.kinds.task import Task
from keras_ft.runs import workdir
from keras_ft.runs.lock import locked
from keras_ft.runs.overwrite import remove_previous
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord
from keras_ft.runs.run_metrics import load_metrics
from keras_ft.system.devices import Compute
from keras_ft.system.team import Team
from keras_ft.system.workers import Workers


@pytest.fixture
def config(tmp_path):
    flags = {"workdir": str(tmp_path / "run"), "data": "d", "weights": ("a,b.h5",)}
    return resolve(Config(**flags)).config


def column(*values):
    return np.array(values, object)


def make_splits():
    paths = column("a,b", "c", "builtin:x/1", "d\udce9", "e")
    splits = column("train", "train", "test", "val", "skipped")
    groups = column("", "g", "", "", "")
    tasks = (Task(class_names=('ham, "raw"\n!', "spam")),)
    targets = (np.array([0, 1, 0, 0, 1]),)
    return Examples(paths, paths, tasks, targets, splits, groups)


def run(config, metrics=None):
    findings = [Finding("e", "unreadable", "can't, be decoded")]
    begun = write_run(config, make_splits(), findings)
    if metrics is not None:
        workdir.finish(begun, metrics)
    return begun.paths.folder


def open_run(config):
    return workdir.open_run(config, Team())


def finished_metrics(config):
    """The metrics of the finished run in the workdir."""
    assert open_run(config).state == "finished"
    return load_metrics(RunPaths(config.run.workdir))


def test_a_new_workdir_may_be_used(config):
    assert open_run(config) == RunRecord()
    assert load_metrics(RunPaths(config.run.workdir)) is None


def test_start_records_flags_state_and_splits(config):
    folder = run(config)
    assert json.loads((folder / "run.json").read_text()) == {
        "state": "running",
        "weights": {
            **{"used": "none", "file": None, "sha256": None, "attempts": []},
            "origin": "",
        },
        "image_size": "",
        "epochs": {},
        "precision": "float32",
        "devices": [],
        "packages": {},
        "onednn": "auto",
        "sources": {},
        "early_exports": {},
        "format_version": 1,
    }
    assert workdir.load_config(folder) == config
    with open(folder / "splits.csv", newline="", errors="surrogateescape") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["path", "label", "split", "group", "relative_to", "sha256"],
        ["a,b", 'ham, "raw"\n!', "train", "", os.getcwd(), ""],
        ["c", "spam", "train", "g", os.getcwd(), ""],
        ["d\udce9", 'ham, "raw"\n!', "val", "", os.getcwd(), ""],
        ["builtin:x/1", 'ham, "raw"\n!', "test", "", "", ""],
        ["e", "spam", "skipped", "", os.getcwd(), ""],
    ]
    # What one run writes, another can read.
    table = read_table(str(folder / "splits.csv"), ["label"])
    read = [(row.path, *row.labels, *row[3:]) for _, row in table]
    assert read == [tuple(row) for row in rows[1:]]
    with open(folder / "audit.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["path", "finding", "detail"],
            ["e", "unreadable", "can't, be decoded"],
        ]


def test_a_run_of_an_earlier_version_has_its_image_size_in_its_flags(config):
    """It wrote there what `auto` was."""
    assert config.data.image_size is None
    run(config.replace(image_size=96))
    assert open_run(config).image_size == "96"
    assert open_run(config.replace(image_size=96)).image_size == "96"
    with pytest.raises(UserError, match="--image_size was 96, now 64"):
        open_run(config.replace(image_size=64))


def test_the_same_finished_run_gives_its_metrics(config):
    run(config, run_metrics(0.25))
    assert finished_metrics(config) == run_metrics(0.25)


def test_a_finished_run_with_other_flags_is_refused_by_name(config):
    run(config, {})
    assert open_run(config.replace(cache_dir="elsewhere")).state == "finished"
    other = config.replace(finetune_epochs=99, cache_dir="elsewhere")
    message = "other flags: --finetune_epochs was .+, now 99. Give"
    with pytest.raises(UserError, match=message):
        open_run(other)


def test_an_unfinished_run_resumes_with_the_same_flags(config):
    folder = run(config)
    record = open_run(config)
    assert record.state == "running"
    before = (folder / "splits.csv").stat().st_mtime_ns
    resumed = write_run(config, make_splits(), record=record)
    assert (folder / "splits.csv").stat().st_mtime_ns == before
    assert open_run(config) == record
    workdir.finish(resumed, run_metrics(0.25))
    assert finished_metrics(config) == run_metrics(0.25)


def test_an_unfinished_run_with_other_flags_is_refused(config):
    run(config)
    other = config.replace(seed=7)
    with pytest.raises(UserError, match="an unfinished run.*--seed was 0, now 7"):
        open_run(other)


def test_an_unfinished_run_whose_images_have_changed_is_refused(config):
    folder = run(config)
    examples = make_splits()
    changed = examples.take(examples.paths != "c")
    with pytest.raises(UserError, match="have changed since .*: 1 gone, by .*Restore"):
        write_run(config, changed, record=open_run(config))
    assert (folder / "run.json").exists()


def test_a_damaged_run_json_is_one_line(config):
    folder = run(config)
    for content in ("", "{", "[]", "{}"):
        (folder / "run.json").write_text(content)
        with pytest.raises(UserError, match="run.json is damaged.*--overwrite"):
            open_run(config)


def test_moving_aside_that_was_interrupted_is_undone(config, monkeypatch):
    folder = run(config, run_metrics(0.25))
    (folder / "model.keras").write_text("old")
    again = config.replace(overwrite=True)
    moved = []
    replace = os.replace

    def break_off(old, new):
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(new)
        replace(old, new)

    monkeypatch.setattr(os, "replace", break_off)
    with pytest.raises(KeyboardInterrupt):
        run(again)
    monkeypatch.undo()
    assert not (folder / "flags.cfg").exists()
    assert finished_metrics(config) == run_metrics(0.25)
    assert (folder / "model.keras").read_text() == "old"
    assert workdir.load_config(folder) == config


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from keras_ft.runs.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"locked\n"
    with (
        pytest.raises(UserError, match="Another process works in"),
        locked(tmp_path),
    ):
        pass
    other.kill()  # no chance to clean up
    other.wait()
    other.stdout.close()
    with locked(tmp_path):
        pass


def test_files_of_others_are_not_overwritten(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").write_text("precious")
    with pytest.raises(UserError, match="with model.keras but no run.json"):
        open_run(config)
    other = config.replace(overwrite=True)
    with pytest.raises(UserError, match="no run.json"):
        open_run(other)


def test_each_worker_needs_an_image_of_each_split(config):
    dataset = make_dataset(make_splits())
    alone = start_run(config, dataset)
    two = Compute(None, "float32", Team(Workers(("a:1", "b:1"))))
    with pytest.raises(UserError, match="worker. Received: 1 images, 2 workers"):
        workdir.begin_or_resume(dataclasses.replace(alone, compute=two), dataset)
    assert not alone.paths.folder.exists()


def test_workdir_that_is_a_file(config, tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(UserError, match="must be a folder"):
        open_run(config)


def test_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    config = Config(workdir=str(tmp_path / "file" / "run"), data="d")
    with pytest.raises(UserError, match="can be written"):
        run(config)


def test_overwrite_keeps_the_old_run_until_there_is_a_model(config):
    folder = run(config, {"accuracy": 1})
    (folder / "model.keras").write_text("old")
    (folder / "notes.txt").write_text("the user's")
    again = config.replace(overwrite=True)
    assert open_run(again).state == "new"

    run(again)  # breaks off before it has a model
    assert not (folder / "model.keras").exists()
    assert (folder / "previous" / "model.keras").read_text() == "old"

    run(again)  # and again: the old run is still there
    assert (folder / "previous" / "model.keras").read_text() == "old"

    remove_previous(folder)
    assert not (folder / "previous").exists()
    assert (folder / "notes.txt").read_text() == "the user's"


def test_what_an_interrupted_run_exported_is_removed(config):
    run(config)
    paths = RunPaths(config.run.workdir)
    workdir.remove_exports(paths, {})  # there is nothing yet
    (paths.export / "saved_model" / "1").mkdir(parents=True)
    (paths.export / ".partial-x").mkdir()
    (paths.export / ".DS_Store").write_text("of a file manager")
    workdir.remove_exports(paths, {})
    assert [path.name for path in paths.export.iterdir()] == [".DS_Store"]


def test_metrics_of_before_there_were_formats_have_no_exports(config):
    metrics = run_metrics(0.25) | {"export_difference": 2e-7}
    del metrics["exports"]
    run(config, metrics)
    assert finished_metrics(config)["exports"] == {}
