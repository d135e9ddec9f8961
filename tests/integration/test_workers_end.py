"""A worker that is killed ends the other one, and the same commands resume the run."""

import json
import shutil
import signal
import sys
import time

import numpy as np
import pytest
from helpers import read_table
from worker_helpers import start_workers, wait_for_workers

from keras_ft.models.trained import load_trained

slow = pytest.mark.slow


def start(folder, name):
    logs = folder / f"{name}-logs"
    logs.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "run.py", "--data=builtin:faces", "--backbone=tiny"),
        *("--image_size=16", "--batch_size=8", "--precision=float32"),
        *("--head_epochs=10", "--finetune_epochs=10", "--finetune_learning_rate=0.01"),
        *("--optimizer=sgd", "--dropout=0.3", f"--weights={folder}/w.weights.h5"),
        *(f"--workdir={folder}/{name}", f"--cache_dir={folder}/cache"),
    ]
    return start_workers([command] * 2, logs), logs


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pretrained):
    folder = tmp_path_factory.mktemp("workers")
    shutil.copy(pretrained, folder / "w.weights.h5")
    return folder


def kill(folder, name, victim, place):
    """Kills a worker once a file is there; checks how the other one ends."""
    processes, logs = start(folder, name)
    while not list((folder / name).glob(place)):
        assert [p.poll() for p in processes] == [None, None]
        time.sleep(0.01)
    processes[victim].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    assert processes[1 - victim].wait(60) == 1
    assert time.monotonic() - begin < 30
    log = (logs / f"{1 - victim}.log").read_text()
    assert "Traceback" not in log
    assert log.splitlines()[-1].startswith("keras_ft: Another worker has ended, and a")
    assert log.count("Another worker has ended") == 1
    if "checkpoints" in place:  # a chief that exports may finish before it notices
        assert not (folder / name / "metrics.json").exists()


def test_a_killed_worker_ends_the_chief_with_one_line(folder):
    kill(folder, "one", 1, "checkpoints/head-*.npz")


@slow
@pytest.mark.parametrize(
    ("victim", "place"),
    [
        (0, "checkpoints/head-*.npz"),
        (1, "checkpoints/finetune-*.npz"),
        (0, "checkpoints/finetune-*.npz"),
        (0, "export/**/.partial-*"),
        (1, "export/**/.partial-*"),
    ],
)
def test_the_same_commands_resume_the_run(victim, place, folder):
    if not (folder / "whole").exists():
        wait_for_workers(*start(folder, "whole"))
    name = f"{victim}-{place.split('/')[1].split('-')[0].strip('*')}"
    kill(folder, name, victim, place)
    wait_for_workers(*start(folder, name))
    whole, resumed = (folder / run for run in ("whole", name))
    rows = [read_table(f / "history.csv") for f in (whole, resumed)]
    for a, b in zip(*rows, strict=True):
        for column in set(a) - {"phase", "seconds"}:
            assert float(a[column]) == pytest.approx(float(b[column]), abs=1e-6)
    losses = [
        json.loads((f / "metrics.json").read_text())["test"]["loss"]
        for f in (whole, resumed)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    weights = [
        load_trained(f / "model.keras")[0].get_weights() for f in (whole, resumed)
    ]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
