import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import COLOURS, ROOT, TWO_CPUS, write_images
from phase_helpers import assert_equal_runs, compute_loss, fine_tune, load

from keras_ft.config.settings import Config
from keras_ft.data import dataset as data

slow = pytest.mark.slow

TWO_DEVICES = (
    TWO_CPUS
    + """import helpers, phase_helpers
helpers.leave_out_export(setattr)
flags = json.loads(sys.argv[2])
flags["weights"] = tuple(flags["weights"])
phase_helpers.fine_tune(flags, sys.argv[3], strategy="mirrored")
"""
)


def cached_features(cache):
    arrays = [np.load(path) for path in cache.glob("features/*/features.npy")]
    return sorted(arrays, key=lambda a: (a.shape, float(a[0, 0].sum())))


def run_on_two_devices(flags, workdir):
    # In another process: devices are fixed when TensorFlow starts, and a process can
    # have only one MirroredStrategy.
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(here), json.dumps(flags), str(workdir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Strategy: mirrored over /device:CPU:0, /device:CPU:1" in done.stderr


def test_two_devices_train_as_one(flags, no_export, image_folder, tmp_path):
    # Classes of unequal size; splits of 28, 8 and 8 images.
    shutil.rmtree(image_folder / "blue")
    write_images(image_folder / "blue", COLOURS["blue"], 24)
    flags |= {"unfreeze": "from:conv2", "schedule": "cosine", "dropout": 0.0}
    flags |= {"head_epochs": 1, "finetune_epochs": 2, "finetune_learning_rate": 0.3}
    flags |= {"imbalance": "class_weights"}
    run_on_two_devices(flags, tmp_path / "two")
    two = cached_features(tmp_path / "cache")
    _, splits = fine_tune(flags, tmp_path / "one", cache_dir=str(tmp_path / "cache 1"))
    sizes = [len(split) for split in (splits.train, splits.val, splits.test)]
    assert sizes == [28, 8, 8]
    assert_equal_runs(tmp_path / "one", tmp_path / "two", atol=1e-3)
    one = cached_features(tmp_path / "cache 1")
    assert len(one) == 6
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("cache_features", ["on", pytest.param("off", marks=slow)])
def test_two_devices_predict_every_one_of_an_odd_number(
    flags, no_export, tmp_path, cache_features
):
    # Splits of 15, 6 and 9 images: one is too many for two devices.
    flags |= {"val_fraction": 0.2, "test_fraction": 0.3, "batch_size": 14}
    flags |= {"cache_features": cache_features}
    run_on_two_devices(flags, tmp_path / "two")
    metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
    rows = metrics["test"]["per_class"].values()
    assert sum(row["support"] for row in rows) == metrics["num_examples"]["test"] == 9
    config = Config(**flags)
    test = data.load_splits(config.data, config.run.seed).test
    loss = compute_loss(load(tmp_path / "two"), test)
    assert metrics["test"]["loss"] == pytest.approx(loss, rel=1e-4)
