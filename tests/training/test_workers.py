"""Several workers train as one process does: two processes on this machine."""

import json
import re
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import COLOURS, leave_out_export, make_flags, read_table, write_images
from worker_helpers import start_workers, wait_for_workers

from keras_ft.config.settings import Config
from keras_ft.jobs.train import train

HERE = Path(__file__).parent
# Two phases on cached features, with dropout; all stages with BatchNorm, on images.
RUNS = {
    "cached": {"head_epochs": 2, "unfreeze": "from:conv2", "dropout": 0.3},
    "scratch": {"head_epochs": 0, "unfreeze": "all", "weights": ("none",)},
}
# Its phase finetune diverges, at once.
DIVERGES = {"head_epochs": 1, "unfreeze": "all", "finetune_learning_rate": 100.0}
# By what is wrong with them: a flag with one value per worker.
REFUSED = {
    "seed": {"seed": [0, 1]},
    "workdir": {"workdir": ["refused-0", "refused-1"]},
    "data": {"data": ["images"]},  # below the working folder, another one each
}

REFUSALS = {
    "seed": "same flags. Received: others on worker 1 than on worker 0",
    "workdir": "share.*refused-., where worker 1 can't see the files of worker 0",
    "data": "same images, labels and splits. Received: others on worker 1",
}
# How `model.fit` fails if one of its two defects is mended.
DEFECTS = {"logs": "PerReplica", "build": "Invalid reduction dimension 0"}


def make_run(folder, name, pretrained):
    flags = make_flags(folder) | {"weights": (pretrained,), "precision": "float32"}
    flags |= {"optimizer": "sgd", "finetune_learning_rate": 0.03}
    return flags | {"workdir": str(folder / name)} | RUNS.get(name, DIVERGES)


def make_refused(folder, name, pretrained):
    """Flags of a run that is refused, a list of values each."""
    flags = make_run(folder, "cached", pretrained) | {"workdir": str(folder / name)}
    return {flag: [value] for flag, value in flags.items()} | REFUSED[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, pretrained):
    """Folders of the same runs by two workers and by one process."""
    two, one = (tmp_path_factory.mktemp(name) for name in ("two", "one"))
    for folder in (two, one):
        for name, colour in COLOURS.items():
            # Splits of 36, 9 and 9 images: the last batch of val has one.
            write_images(folder / "images" / name, colour, 18)
    for i in range(2):
        shutil.copytree(two / "images", two / f"worker-{i}" / "images")
    (two / "worker-1" / "images" / "red" / "0.png").unlink()
    runs = [
        {flag: [value] for flag, value in make_run(two, name, pretrained).items()}
        for name in (*RUNS, "diverges")
    ] + [make_refused(two, name, pretrained) for name in REFUSED]
    script = [sys.executable, str(HERE / "worker_script.py"), str(HERE.parent)]
    commands = [[*script, str(i), str(two), json.dumps(runs)] for i in range(2)]
    wait_for_workers(start_workers(commands, two), two)
    return two, one


@pytest.fixture(scope="module")
def trained_alone(folders, pretrained):
    """The folder of the runs by one process."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_export(patch.setattr)
        for name in RUNS:
            train(Config(**make_run(folders[1], name, pretrained)))
    return folders[1]


def flatten(node, path=""):
    """The numbers in a part of metrics.json that do not depend on the clock."""
    if isinstance(node, dict):
        for key, value in node.items():
            if "seconds" not in key and "per_second" not in key:
                yield from flatten(value, f"{path}/{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from flatten(value, f"{path}/{i}")
    elif isinstance(node, float | int):
        yield path, float(node)


def check_run_is_that_of_one_process(name, folders, trained_alone):
    two, one = folders[0] / name, trained_alone / name
    for a, b in zip(*(read_table(f / "history.csv") for f in (two, one)), strict=True):
        for column in set(a) - {"phase", "seconds"}:
            assert float(a[column]) == pytest.approx(float(b[column]), abs=1e-5)
    first, second = (
        dict(flatten(json.loads((f / "metrics.json").read_text()))) for f in (two, one)
    )
    del first["/model_bytes"], second["/model_bytes"]
    assert first == pytest.approx(second, abs=1e-5)
    weights = [
        keras.models.load_model(f / "model.keras").get_weights() for f in (two, one)
    ]
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def check_features_are_those_of_one_process(folders, trained_alone):
    entries = sorted(p.name for p in (trained_alone / "cache/features").iterdir())
    assert len(entries) == 6
    assert sorted(p.name for p in (folders[0] / "cache/features").iterdir()) == entries
    for entry in entries:
        two, one = (
            np.load(folder / "cache/features" / entry / "features.npy")
            for folder in folders
        )
        # The size of a batch decides which kernels some processors use. Where features
        # are rounded to 16 bits, the last of them may differ.
        rtol = 1e-5 if one.dtype == np.float32 else 1e-2
        two, one = (features.astype(np.float32) for features in (two, one))
        np.testing.assert_allclose(two, one, rtol=rtol, atol=1e-6)
    for i, share in ((0, 16), (1, 20)):
        log = (folders[0] / f"{i}.log").read_text()
        text = f"Features of train: 36 images, of which this worker computes {share}."
        assert text in log


def check_one_process_finds_the_features(folders, pretrained, caplog):
    flags = make_run(folders[0], "cached", pretrained)
    flags |= {"finetune_epochs": 0, "workdir": str(folders[0] / "again")}
    train(Config(**flags))
    assert caplog.text.count("from the cache") == 3


def check_workers_that_differ_are_refused_by_all(name, message, folders):
    num_good = len(RUNS) + 1
    index = num_good + list(REFUSED).index(name)
    for worker in range(2):
        errors = json.loads((folders[0] / f"errors-{worker}.json").read_text())
        assert errors[:num_good] == [""] * num_good
        assert re.search(message, errors[index]), errors[index]
    assert not (folders[0] / name).exists()
    assert not (folders[0] / "worker-0" / "refused-0").exists()


def check_divergence_is_seen_by_all(folders):
    message = "diverged: val_loss is nan in epoch 1 of phase finetune"
    metrics = json.loads((folders[0] / "diverges" / "metrics.json").read_text())
    assert metrics["best_phase"] == "head"
    assert any(message in warning for warning in metrics["warnings"])
    for worker in range(2):
        assert message in (folders[0] / f"{worker}.log").read_text()


def check_keras_alone_still_fails(mended, defect, folders):
    """If this fails, `make_model_to_fit` needs no model of its own for workers."""
    found = json.loads((folders[0] / "keras.json").read_text())
    assert defect in found[mended]


def test_two_workers(folders, trained_alone, pretrained, no_export, caplog, subtests):
    """One test: each process that runs some of them would train all of it."""
    for name in RUNS:
        with subtests.test(name):
            check_run_is_that_of_one_process(name, folders, trained_alone)
    with subtests.test("features"):
        check_features_are_those_of_one_process(folders, trained_alone)
        check_one_process_finds_the_features(folders, pretrained, caplog)
    with subtests.test("diverges"):
        check_divergence_is_seen_by_all(folders)
    for name, message in REFUSALS.items():
        with subtests.test(f"other {name}"):
            check_workers_that_differ_are_refused_by_all(name, message, folders)
    for mended, defect in DEFECTS.items():
        with subtests.test(defect):
            check_keras_alone_still_fails(mended, defect, folders)
