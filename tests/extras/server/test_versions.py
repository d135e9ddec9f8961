import shutil
from pathlib import Path

import pytest

from keras_ft.errors import UserError
from keras_ft.extras.server.versions import find_version, find_versions
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record, write_record


@pytest.fixture
def runs(finished_run, tmp_path):
    """A folder with two finished runs and an unfinished one."""
    folder = tmp_path / "runs"
    for name in ("one", "two", "three"):
        shutil.copytree(finished_run.run.workdir, folder / name)
    set_state(folder / "three", "running")
    return folder


def set_state(workdir, state):
    paths = RunPaths(workdir)
    write_record(paths, load_record(paths), state)


def test_a_folder_of_runs_has_the_finished_ones(runs):
    assert list(find_versions(runs)) == ["one", "two"]


@pytest.mark.parametrize(
    "end", ["", "model.keras", "export/saved_model", "export/saved_model/1"]
)
def test_one_model_has_the_name_of_its_workdir(runs, end):
    path = runs / "one" / end
    assert find_versions(path) == {"one": find_version(path)}
    assert find_version(path).number == 1


def test_a_run_that_is_unfinished_or_without_an_export_is_refused(runs):
    shutil.rmtree(runs / "two" / "export")
    for name in ("two", "three"):
        with pytest.raises(UserError, match=f"with an export. Received: .*{name};"):
            find_versions(runs / name)
    assert list(find_versions(runs)) == ["one"]


@pytest.mark.parametrize("path", ["nowhere", "", "images"])
def test_no_model_is_one_line(tmp_path, path):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="--model must be a workdir"):
        find_versions(tmp_path / path)


def test_another_export_and_another_training_are_new_versions(runs):
    first = find_version(runs / "one")
    exports = Path(runs / "one" / "export" / "saved_model")
    shutil.copytree(exports / "1", exports / "2")
    second = find_version(runs / "one")
    assert (first.number, second.number) == (1, 2)
    (runs / "one" / "model.keras").touch()
    third = find_version(runs / "one")
    assert third.number == 2
    assert third != second


def test_an_export_in_another_format_is_a_model(runs):
    file = runs / "one" / "export" / "onnx" / "3" / "model.onnx"
    file.parent.mkdir(parents=True)
    file.touch()
    for path in (file, file.parent, file.parents[1]):
        [(name, version)] = find_versions(path).items()
        assert (name, version.number, version.model) == ("one", 3, file)
