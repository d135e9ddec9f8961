import json
from pathlib import Path

import pytest

from keras_ft import cli, flags, sweep

SWEEP = "weights=none|gone.weights.h5;image_size=16|24|32"


@pytest.fixture
def arguments(image_folder, tmp_path):
    """A comparison of three networks, and of three whose weights are gone."""
    return [
        "--mode=compare",
        "--quick",
        f"--workdir={tmp_path / 'w'}",
        f"--data={image_folder}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--sweep={SWEEP}",
        "--backbone=tiny",
    ]


def call(*arguments):
    return cli.main(["keras_ft", *arguments])


def write_runs(arguments, accuracy_of):
    """Writes finished runs of the networks whose weights are there."""
    for run in sweep.plan_runs(flags.parse(["", *arguments])):
        if run.config.model.weights == ("none",):
            folder = Path(run.config.run.workdir)
            folder.mkdir(parents=True)
            (folder / "flags.cfg").write_text(flags.to_flagfile(run.config))
            (folder / "run.json").write_text('{"state": "finished"}')
            accuracy = accuracy_of(run.config)
            (folder / "metrics.json").write_text(
                json.dumps({"val": {"accuracy": accuracy}})
            )


def test_networks_are_ranked_and_nothing_is_trained(arguments, tmp_path, capsys):
    assert call(*arguments) == 0
    folder = tmp_path / "w"
    assert {path.name for path in folder.iterdir()} >= {"quick.json", "splits.csv"}
    assert not (folder / "runs").exists()
    told = json.loads((folder / "quick.json").read_text())
    scores = [row["log_me"] for row in told["networks"][:3]]
    assert scores == sorted(scores, reverse=True)
    assert {row["image_size"] for row in told["networks"][:3]} == {16, 24, 32}
    assert all("no such file" in row["error"] for row in told["networks"][3:])
    assert told["kendall_tau"] is None
    shown = capsys.readouterr().out
    assert shown.count("Left out        tiny, gone.weights.h5, ") == 3
    assert "Scored on       18 train images, nothing was trained" in shown
    best = told["networks"][0]
    [*_, last] = shown.splitlines()
    start = f"Best by LogME   tiny, weights none, {best['image_size']} px."
    assert last.startswith(start)


def test_the_order_is_compared_with_that_of_finished_runs(arguments, tmp_path, capsys):
    assert call(*arguments) == 0
    path = tmp_path / "w" / "quick.json"
    scores = {
        row["image_size"]: row["log_me"]
        for row in json.loads(path.read_text())["networks"][:3]
    }
    order = sorted(scores, key=scores.get)

    def accuracy_of(config):  # by rank, a little different for each seed
        rank = order.index(config.data.image_size)
        return (1 + rank) / 10 + config.run.seed / 100

    write_runs(arguments, accuracy_of)
    assert call(*arguments) == 0
    told = json.loads(path.read_text())
    assert told["kendall_tau"] == 1
    accuracies = [row["val_accuracy"] for row in told["networks"]]
    assert accuracies == [pytest.approx(a) for a in (0.31, 0.21, 0.11)] + [None] * 3
    assert "Kendall's tau 1.00 between LogME and the val" in capsys.readouterr().out


def test_unreadable_images_are_left_out_as_in_training(
    arguments, image_folder, tmp_path
):
    for i in range(6):
        path = image_folder / "red" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:-200])  # the head is whole
    assert call(*arguments) == 0
    told = json.loads((tmp_path / "w" / "quick.json").read_text())
    assert 12 < told["networks"][0]["num_examples"] < 18


def test_no_network_at_all_is_a_mistake(arguments, capsys):
    assert call(*arguments, "--sweep=weights=gone.h5|missing.h5") == 1
    assert "No network can be scored. The first one: --wei" in capsys.readouterr().err


def test_other_flags_and_modes_are_refused(arguments, tmp_path, capsys):
    assert call(*arguments, "--sweep=unfreeze=none|all") == 1
    assert "Received: unfreeze" in capsys.readouterr().err
    assert call(*arguments, "--mode=train", "--sweep=") == 1
    assert "--quick needs --mode=compare" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
