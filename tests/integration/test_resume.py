"""Runs that were killed end as those that were not: in processes of their own."""

import contextlib
import csv
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import ROOT


def command(folder, name):
    return [
        *(sys.executable, "run.py", "--data=builtin:faces", "--backbone=tiny"),
        *("--image_size=32", "--deterministic", "--augment=light", "--mix=cutmix"),
        *("--batch_size=8", "--head_epochs=5", "--finetune_epochs=5"),
        *("--finetune_learning_rate=0.001", f"--weights={folder}/w.weights.h5"),
        *(f"--workdir={folder}/{name}", f"--cache_dir={folder}/{name}-cache"),
    ]


def start(folder, name):
    return subprocess.Popen(
        command(folder, name),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def was_written(folder, patterns, since):
    """Whether there is a file that is no older than `since`, in Unix time."""
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime >= since:
                return True
    return False


def results(workdir):
    """Weights, history and metrics, without what each run has of its own."""
    import keras

    def without_own(node):
        if not isinstance(node, dict):
            return node
        own = re.compile("seconds$|_per_second$|^path$|^bytes$")
        return {k: without_own(v) for k, v in node.items() if not own.search(k)}

    with open(workdir / "history.csv", newline="") as stream:
        history = [dict(row, seconds=0) for row in csv.DictReader(stream)]
    metrics = json.loads((workdir / "metrics.json").read_text())
    weights = keras.models.load_model(workdir / "model.keras").get_weights()
    exported = sorted(p.name for p in (workdir / "export" / "saved_model").iterdir())
    return weights, history, without_own(metrics), exported


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with weights for the tiny backbone and `whole`, a run not killed."""
    import keras

    from keras_ft.models.classifier import make_backbone

    folder = tmp_path_factory.mktemp("resume")
    keras.utils.set_random_seed(1)
    make_backbone("tiny", (32, 32)).save_weights(folder / "w.weights.h5")
    done = start(folder, "whole")
    errors = done.communicate()[1]
    assert done.returncode == 0, errors
    return folder


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT

# When a run is stopped, by the file that it writes, and by which signal. Where it was
# ahead of its signal, the next file will do.
STOPS = [
    (["-cache/features/.partial-*/features.npy"], KILL),
    (["/checkpoints/head*"], TERM),
    (["/checkpoints/head*"], KILL),
    (["/checkpoints/head.npz", "/checkpoints/finetune*"], KILL),
    (["/checkpoints/finetune*"], INT),
    (["/checkpoints/finetune*"], KILL),
]


def stop(folder, name, places, number):
    """Starts a run and stops it at a place; returns its standard error."""
    begin = time.time()
    process = start(folder, name)
    patterns = [f"{name}{place}" for place in places]
    while not was_written(folder, patterns, begin):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    begin = time.monotonic()
    _, errors = process.communicate()
    assert time.monotonic() - begin < 10
    assert "Traceback" not in errors
    assert not (folder / name / "metrics.json").exists()
    if number == KILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert errors.splitlines()[-1] == (
            f"keras_ft: stopped by {number.name}. The same command resumes from here."
        )
        assert list(folder.glob(f"{name}*/**/*partial-*")) == []
    return errors


def test_a_stopped_run_resumes_and_ends_like_an_uninterrupted_one(folder):
    for i, (places, number) in enumerate(STOPS):
        errors = stop(folder, "stopped", places, number)
        assert ("Resumes the unfinished run" in errors) == (i > 0)
    process = start(folder, "stopped")
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    assert "Resumes the unfinished run" in errors
    weights, *rest = results(folder / "stopped")
    expected, *expected_rest = results(folder / "whole")
    for found, whole in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(found, whole)
    assert rest == expected_rest
