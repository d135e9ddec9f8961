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


def test_two_devices_train_and_predict_as_one(flags, no_export, image_folder, tmp_path):
    # Classes of unequal size; splits of 36, 9 and 9 images: the last batch of val and
    # test has one, for two devices.
    shutil.rmtree(image_folder / "blue")
    write_images(image_folder / "blue", COLOURS["blue"], 34)
    flags |= {"unfreeze": "from:conv2", "schedule": "cosine", "dropout": 0.0}
    flags |= {"head_epochs": 1, "finetune_epochs": 2, "finetune_learning_rate": 0.3}
    flags |= {"imbalance": "class_weights"}
    run_on_two_devices(flags, tmp_path / "two")
    two = cached_features(tmp_path / "cache")
    _, splits = fine_tune(flags, tmp_path / "one", cache_dir=str(tmp_path / "cache 1"))
    sizes = [len(split) for split in (splits.train, splits.val, splits.test)]
    assert sizes == [36, 9, 9]
    assert_equal_runs(tmp_path / "one", tmp_path / "two", atol=1e-3)
    assert_every_image_of_test_is_predicted(tmp_path / "two", splits.test)
    one = cached_features(tmp_path / "cache 1")
    assert len(one) == 6
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def assert_every_image_of_test_is_predicted(workdir, test):
    metrics = json.loads((workdir / "metrics.json").read_text())
    rows = metrics["test"]["per_class"].values()
    assert sum(row["support"] for row in rows) == metrics["num_examples"]["test"] == 9
    loss = compute_loss(load(workdir), test)
    assert metrics["test"]["loss"] == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_two_devices_predict_every_one_of_an_odd_number_of_images(
    flags, no_export, tmp_path
):
    # Splits of 15, 6 and 9 images: one is too many for two devices.
    flags |= {"val_fraction": 0.2, "test_fraction": 0.3, "batch_size": 14}
    flags |= {"cache_features": "off"}
    run_on_two_devices(flags, tmp_path / "two")
    config = Config(**flags)
    test = data.load_splits(config.data, config.run.seed).test
    assert_every_image_of_test_is_predicted(tmp_path / "two", test)
