import csv
import json

import numpy as np
import pytest

from keras_ft import workdir
from keras_ft.config import UserError
from keras_ft.data import Split, Splits
from keras_ft.rules import make_config


@pytest.fixture
def config(tmp_path):
    return make_config(workdir=str(tmp_path / "run"), data="d")


def make_splits():
    def split(*names):
        paths = np.array(names, object)
        return Split(paths, paths, np.arange(len(names)) % 2)

    names = ('ham, "raw"\n', "spam")
    return Splits(split("a,b", "c"), split("d\udce9"), split("builtin:x/1"), names)


def run(config, metrics=None):
    folder = workdir.start(config, make_splits(), {"weights": "w"})
    if metrics is not None:
        workdir.finish(folder, metrics)
    return folder


def test_a_new_workdir_may_be_used(config):
    assert workdir.load_finished(config) is None


def test_start_records_flags_state_and_splits(config):
    folder = run(config)
    assert json.loads((folder / "run.json").read_text()) == {
        "state": "running",
        "weights": "w",
    }
    assert workdir.load_config(folder) == config
    splits = workdir.read_splits(folder / "splits.csv")
    assert splits == {
        "a,b": "train",
        "c": "train",
        "d\udce9": "val",
        "builtin:x/1": "test",
    }
    with open(folder / "splits.csv", newline="", errors="surrogateescape") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["path", "label", "split", "group"]
    assert rows[1] == ["a,b", 'ham, "raw"\n', "train", ""]


def test_the_same_finished_run_gives_its_metrics(config):
    run(config, {"accuracy": 1})
    assert workdir.load_finished(config) == {"accuracy": 1}


def test_a_finished_run_with_other_flags_is_refused_by_name(config):
    folder = run(config, {})
    other = make_config(workdir=str(folder), data="d", seed=3, cache_dir="elsewhere")
    with pytest.raises(UserError, match="other flags: --seed was 0, now 3. Give"):
        workdir.load_finished(other)


def test_an_unfinished_run_is_refused(config):
    run(config)
    with pytest.raises(UserError, match="did not finish, and can't be resumed yet"):
        workdir.load_finished(config)


def test_files_of_others_are_not_overwritten(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").write_text("precious")
    with pytest.raises(UserError, match="with model.keras but no run.json"):
        workdir.load_finished(config)
    other = make_config(workdir=str(tmp_path / "run"), data="d", overwrite=True)
    with pytest.raises(UserError, match="no run.json"):
        workdir.load_finished(other)


def test_workdir_that_is_a_file(config, tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(UserError, match="must be a folder"):
        workdir.load_finished(config)


def test_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    config = make_config(workdir=str(tmp_path / "file" / "run"), data="d")
    with pytest.raises(UserError, match="can be written"):
        run(config)


def test_overwrite_keeps_the_old_run_until_there_is_a_model(config):
    folder = run(config, {"accuracy": 1})
    (folder / "model.keras").write_text("old")
    (folder / "notes.txt").write_text("the user's")
    again = make_config(workdir=str(folder), data="d", overwrite=True)
    assert workdir.load_finished(again) is None

    run(again)  # breaks off before it has a model
    assert not (folder / "model.keras").exists()
    assert (folder / "previous" / "model.keras").read_text() == "old"

    run(again)  # and again: the old run is still there
    assert (folder / "previous" / "model.keras").read_text() == "old"

    workdir.forget_previous(folder)
    assert not (folder / "previous").exists()
    assert (folder / "notes.txt").read_text() == "the user's"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    workdir.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        workdir.write_json(path, {"a": object()})
    assert workdir.read_json(path) == {"a": 1}

    def broken_rows():
        yield ["a"]
        raise OSError

    workdir.write_csv(tmp_path / "x.csv", [["whole"]])
    with pytest.raises(OSError):
        workdir.write_csv(tmp_path / "x.csv", broken_rows())
    assert (tmp_path / "x.csv").read_text().strip() == "whole"
