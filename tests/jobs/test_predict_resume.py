"""A prediction that is killed and goes on."""

import functools
import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import read_table

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs import predict as job
from keras_ft.jobs.predict import predict
from keras_ft.serving import trained_classifier

_load_once = functools.cache(trained_classifier.load_classifier)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of eight images; a model is loaded once, which takes most of the time."""
    monkeypatch.setattr(job, "_BATCHES_PER_PART", 2)
    monkeypatch.setattr(trained_classifier, "load_classifier", _load_once)


@pytest.fixture
def call(finished_run, image_folder, tmp_path):
    """Predicts images; files to write are in `tmp_path`."""

    def call(data=image_folder, **flags):
        for name in {"output", "features", "heatmaps"} & flags.keys():
            flags[name] = str(tmp_path / flags[name])
        flags = {"model": finished_run.run.workdir, "batch_size": 4} | flags
        predict(Config(mode="predict", data=data, **flags))

    return call


class Killed(BaseException):
    pass


def kill_at(count, call, **flags):
    """Ends `call` when it renames a file for the `count`th time, heatmaps apart."""
    rename, numbers = os.replace, itertools.count()

    def rename_some(source, target):
        if Path(target).suffix != ".jpg" and next(numbers) == count:
            raise Killed
        rename(source, target)

    threads = {*threading.enumerate()}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed) as held:
        patch.setattr(os, "replace", rename_some)
        call(**flags)
    # What has failed reads no further, even while its traceback is kept.
    assert {*threading.enumerate()} <= threads, held


EXTRAS = {"features": "{}.npy", "heatmaps": "{}.maps"}


# The names: of made_by.json, of each of four parts, of the joined features if there are
# any, of the joined rows.
@pytest.mark.parametrize(
    ("ending", "extras", "count", "num_done"),
    [
        *[("csv", EXTRAS, *case) for case in ((0, 0), (1, 0), (2, 8), (6, 30))],
        *[("jsonl", {}, *case) for case in ((1, 0), (3, 16), (5, 30))],
    ],
)
def test_a_killed_prediction_resumes_to_the_same_bytes(
    call, image_folder, tmp_path, monkeypatch, caplog, ending, extras, count, num_done
):
    # Rows of CSV can have several lines.
    (image_folder / "red" / "0.png").rename(image_folder / "red" / 'line,\r\n"2".png')
    (image_folder / "red" / "1.png").write_bytes(b"no image")
    whole, flags = (
        {"output": f"{name}.{ending}"} | {k: v.format(name) for k, v in extras.items()}
        for name in ("whole", "x")
    )
    call(**whole)

    kill_at(count, call, **flags)
    assert not (tmp_path / f"x.{ending}").exists()
    parts = tmp_path / f"x.{ending}.parts"
    (parts / ".partial-000000025-abc.zip").touch()  # as SIGKILL leaves it
    files = count_files_read(monkeypatch)
    call(**flags)
    assert len(files) == 30 - num_done
    assert "29 predictions" in caplog.messages[-1]
    assert caplog.messages[-1].endswith("; 1 file could not be read.")
    assert not parts.exists()
    assert contents(tmp_path, "x.") == contents(tmp_path, "whole.")


def contents(folder, prefix):
    """The contents of all files and subfolders of this name, by the rest of it."""
    return {
        str(file.relative_to(folder)).removeprefix(prefix): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and str(file.relative_to(folder)).startswith(prefix)
    }


def count_files_read(monkeypatch):
    """A list that grows by each file that predict reads."""
    read, files = trained_classifier.read_image, []

    def count(file):
        files.append(file)
        return read(file)

    monkeypatch.setattr(trained_classifier, "read_image", count)
    return files


def test_parts_of_other_images_or_flags_are_not_resumed(call, image_folder, tmp_path):
    kill_at(4, call, output="out.csv")
    parts = tmp_path / "out.csv.parts"
    before = contents(parts, "")
    for data, flags, error in [
        (image_folder, {"top_k": 1}, "same model and flags"),
        (image_folder, {"batch_size": 8}, "same model and flags"),
        (image_folder, {"features": "x.npy"}, "same model and flags"),
        (image_folder / "red", {}, "same images in the same order"),
        (image_folder / "blue" / "0.png", {}, "same images in the same order"),
    ]:
        with pytest.raises(UserError, match=error):
            call(data, output="out.csv", **flags)
        assert contents(parts, "") == before
    call(image_folder / "red", output="out.csv", overwrite=True)
    assert len(read_table(tmp_path / "out.csv")) == 10
    assert not parts.exists()


def remove(file):
    file.unlink()


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def change(file):
    content = file.read_bytes()
    file.write_bytes(content.replace(b"png", b"xyz", 1))


@pytest.mark.parametrize("damage", [remove, cut, change])
@pytest.mark.parametrize(("number", "num_done"), [(0, 0), (1, 8), (3, 24)])
def test_what_is_not_whole_is_predicted_again(
    call, tmp_path, monkeypatch, damage, number, num_done
):
    call(output="whole.csv", features="whole.npy")
    kill_at(6, call, output="x.csv", features="x.npy")
    damage(sorted((tmp_path / "x.csv.parts").glob("0*"))[number])
    files = count_files_read(monkeypatch)
    call(output="x.csv", features="x.npy")
    assert len(files) == 30 - num_done
    assert contents(tmp_path, "x.") == contents(tmp_path, "whole.")


@pytest.mark.parametrize("damage", [remove, cut])
def test_parts_that_may_be_of_anything_are_not_resumed(call, tmp_path, damage):
    kill_at(4, call, output="out.csv")
    parts = tmp_path / "out.csv.parts"
    damage(parts / "made_by.json")
    before = contents(parts, "")
    with pytest.raises(UserError, match=r"made_by\.json must .*--overwrite"):
        call(output="out.csv")
    assert contents(parts, "") == before
    call(output="out.csv", overwrite=True)
    assert len(read_table(tmp_path / "out.csv")) == 30


def test_two_processes_do_not_write_the_same_file(call, tmp_path):
    with job.open_parts(tmp_path / "out.csv", 8, {}, restart=False) as parts:
        with pytest.raises(UserError, match="Another process writes"):
            call(output="out.csv", overwrite=True)
        assert parts.folder.exists()
    assert os.listdir(tmp_path) == ["images"]


def test_features_can_be_written_beside_standard_output(call, tmp_path, capsys):
    call(features="x.npy")
    assert len(capsys.readouterr().out.splitlines()) == 31
    assert np.load(tmp_path / "x.npy").shape == (30, 32)
    assert not list(tmp_path.glob("*.parts"))
