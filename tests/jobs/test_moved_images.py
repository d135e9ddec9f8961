"""Runs whose images have been moved or have changed."""

import os
import shutil
from pathlib import Path

import pytest
from helpers import read_table

from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.jobs.train import train


def test_an_unfinished_run_resumes_with_moved_images_only(
    fake_training, two_phase_flags, image_folder, tmp_path, monkeypatch
):
    fake_training.error["finetune"] = OSError(28, "No space left on device")
    with pytest.raises(UserError, match="no room"):
        train(Config(**two_phase_flags))
    image_folder.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    flags = two_phase_flags | {"data": "./moved", "workdir": "run"}
    first = tmp_path / "moved" / "red" / "0.png"
    first.rename(tmp_path / "0.png")
    with pytest.raises(UserError, match=r"have changed since .* began: 1 gone\. Rest"):
        train(Config(**flags))
    (tmp_path / "0.png").rename(first)
    train(Config(**flags))
    assert fake_training.phases == ["head", "finetune", "finetune"]
    places = {
        (r["relative_to"], Path(r["path"]).parts[0])
        for r in read_table("run/splits.csv")
    }
    assert places == {(str(tmp_path), "moved")}


def test_a_finished_run_is_not_taken_for_one_with_other_images(finished_run, tmp_path):
    workdir = shutil.copytree(finished_run.run.workdir, tmp_path / "run")
    images = shutil.copytree(finished_run.data.data, tmp_path / "images")
    config = finished_run.replace(workdir=str(workdir), data=f"{images}/")
    before = train(config)
    shutil.copy(images / "red" / "0.png", images / "red" / "new.png")
    os.remove(images / "blue" / "1.png")
    message = (
        "have changed since the run in .* began: 1 new, 1 gone. Give another --workdir "
        "to train on them, there with --weights=.*run to go on"
    )
    with pytest.raises(UserError, match=message):
        train(config)
    shutil.rmtree(images)  # that of a finished run may be gone
    assert train(config) == before
