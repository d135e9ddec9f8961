"""A comparison of real runs; in `test_compare.py` their training is replaced."""

import json
from pathlib import Path

from keras_ft import cli
from keras_ft.comparison import processes
from keras_ft.data.tables import read_table
from keras_ft.errors import UserError
from keras_ft.jobs import train


def test_real_runs_share_splits_and_differ_in_training(
    tiny_flags, fake_training, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "w"
    tiny_flags |= {"examples_per_class": 4, "workdir": str(folder)}
    # Too little training for this accuracy, so that no time goes into an export.
    tiny_flags |= {"finetune_epochs": 1, "finetune_learning_rate": 1e-9}
    tiny_flags |= {"assert_accuracy_at_least": 1}
    del tiny_flags["weights"]
    args = ["--mode=compare", *(f"--{k}={v}" for k, v in tiny_flags.items())]
    assert cli.main(["keras_ft", *args, "--sweep=weights=none", "--seeds=1"]) == 0
    assert "Recommended     weights=none." in capfd.readouterr().out
    [run] = json.loads((folder / "compare.json").read_text())["runs"]
    assert run["state"] == "finished"
    model = (Path(run["workdir"]) / "model.keras").stat()

    # The others train here, where TensorFlow has been imported.
    monkeypatch.setattr(processes, "train_in_process", train_here)
    fake_training.of_label["finetune"] = 0.5
    # Only the run itself can find out that weights are missing.
    sweep = "--sweep=weights=none|missing.h5"
    assert cli.main(["keras_ft", *args, sweep, "--seeds=2"]) == 0
    content = json.loads((folder / "compare.json").read_text())
    first, failed, second, _ = content["runs"]
    assert [run["state"] for run in content["runs"]] == 2 * ["finished", "failed"]
    assert "missing.h5" in failed["error"]
    assert (Path(first["workdir"]) / "model.keras").stat() == model
    tables = [
        [row for _, row in read_table(f"{run['workdir']}/splits.csv")]
        for run in (first, second)
    ]
    for split in ("val", "test"):
        a, b = ({r.path for r in table if r.split == split} for table in tables)
        assert a == b
        assert a
    # The seed draws other images to train on.
    assert set(tables[0]) != set(tables[1])
    assert content["recommended"]["flags"] == {"weights": "none"}


def train_here(config, log_file):
    try:
        train.train(config)
    except UserError as error:
        return str(error)
