"""The main job as a user runs it: in processes of its own, on the real ResNet50."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from keras_ft import cli


def run(*flags, home):
    """Runs run.py from the repository; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "run.py", *flags],
        cwd=ROOT,
        env=os.environ | {"HOME": str(home), "XDG_CACHE_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def main_job(tmp_path_factory):
    """The workdir of configs/binary.cfg with the starter weights, and its output.

    For time, 800 images to train on instead of 1,250, of 48 px instead of 64, and two
    epochs of phase finetune instead of three.
    """
    home = tmp_path_factory.mktemp("home")
    workdir = home / "run"
    flags = ("--flagfile=configs/binary.cfg", f"--workdir={workdir}")
    flags += ("--weights=starter", "--image_size=48", "--finetune_epochs=2")
    flags += ("--examples_per_class=400",)
    return workdir, run(*flags, home=home)


def test_main_job_ends_in_a_good_classifier(main_job):
    workdir, output = main_job
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["weights_used"] == "starter"
    assert metrics["num_examples"] == {
        "train": 800,
        "val": 130,
        "test": 124,
        "skipped": 0,
        "unused": 450,
    }
    head, finetune = metrics["phases"].values()
    assert metrics["best_phase"] == "finetune"
    accuracy = metrics["test"]["accuracy"]
    assert accuracy == finetune["test"]["accuracy"] > head["test"]["accuracy"] + 0.02
    assert accuracy >= 0.75  # the larger class has 0.58 of the images
    assert output.rstrip().endswith(f"\nTest accuracy: {100 * accuracy:.1f} %")
    assert metrics["exports"]["saved_model"]["difference"] <= 1e-4
    assert sorted(path.name for path in workdir.iterdir()) == [
        ".lock",
        "audit.csv",
        "export",
        "flags.cfg",
        "history.csv",
        "metrics.json",
        "model.keras",
        "model_card.md",
        "report.html",
        "run.json",
        "splits.csv",
    ]


def test_main_jobs_export_names_images(main_job, tmp_path):
    workdir, _ = main_job
    with open(workdir / "splits.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "test"]
    unpacked = workdir.parent / "keras_ft" / "builtin" / "clothes"
    for row in rows:
        number = row["path"].rpartition("/")[2]
        shutil.copy(unpacked / number, tmp_path / f"{row['label']}-{number}.png")
    saved_model = workdir / "export" / "saved_model"
    flags = (f"--model={saved_model}", f"--data={tmp_path}", "--mode=predict")
    answers = list(csv.DictReader(io.StringIO(run(*flags, home=workdir.parent))))
    assert len(answers) == 124
    right = [Path(a["path"]).name.startswith(a["class_name"] + "-") for a in answers]
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert sum(right) / 124 == pytest.approx(metrics["test"]["accuracy"])


@pytest.mark.parametrize(
    ("name", "phases", "moves"),
    [("head_only", ["head"], False), ("full_sgd", ["finetune"], True)],
)
def test_classic_configs(
    name, phases, moves, pretrained, no_export, tmp_path, capsys, monkeypatch
):
    """head_only.cfg and full_sgd.cfg on a small network, and few images and epochs."""
    from keras_ft.models.trained import load_trained
    from keras_ft.models.weights import load_backbone

    monkeypatch.chdir(ROOT)
    args = ["keras_ft", f"--flagfile=configs/{name}.cfg", "--backbone=tiny"]
    args += [f"--weights={pretrained}", "--image_size=32", "--examples_per_class=50"]
    args += ["--head_epochs=1", "--finetune_epochs=1"]
    if name == "full_sgd":
        args += ["--head_epochs=0"]
    assert cli.main([*args, f"--workdir={tmp_path / 'run'}"]) == 0
    assert "\nTest accuracy: " in capsys.readouterr().out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(metrics["phases"]) == phases

    before, _ = load_backbone("tiny", (32, 32), [pretrained])
    after = load_trained(tmp_path / "run" / "model.keras")[0].get_layer("tiny")
    for old, new in zip(before.weights, after.weights, strict=True):
        same = (old.numpy() == new.numpy()).all()
        # Kernels, gammas and the moving statistics of BatchNorm.
        if old.path.endswith(("kernel", "gamma", "moving_mean", "moving_variance")):
            assert same != moves, old.path
