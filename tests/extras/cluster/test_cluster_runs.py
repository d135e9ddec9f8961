import json
import threading
import time
from pathlib import Path

import pytest

from keras_ft.comparison import processes
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.extras.cluster import cluster_runs
from keras_ft.extras.cluster.connection import Share
from keras_ft.jobs.compare import compare
from keras_ft.jobs.train import train


@pytest.fixture
def make_config(cluster, optimized_graphs, tiny_flags):
    """Makes the config of a comparison on the cluster, or here."""

    def make(sweep, is_here=False, **flags):
        given = tiny_flags | {
            "mode": "compare",
            "sweep": sweep,
            "seeds": 1,
            "precision": "float32",
            "deterministic": True,
            # Too much for the tiny backbone, so that no time goes into an export.
            "finetune_learning_rate": 1e-9,
            "assert_accuracy_at_least": 1,
            "cluster": "" if is_here else f"ray:{cluster.address}",
        }
        return Config(**(given | flags))

    return make


def load_runs(config):
    """The runs of a comparison as compare.json lists them, without their folder."""
    folder = Path(config.run.workdir)
    listed = json.loads((folder / "compare.json").read_text())["runs"]
    for run in listed:
        run["workdir"] = str(Path(run["workdir"]).relative_to(folder))
        run.pop("seconds", None)
    return listed


def test_a_comparison_on_a_cluster_is_the_one_of_this_machine(
    make_config, monkeypatch, tmp_path
):
    # Only the run itself can find out that weights are missing.
    sweep = "weights=none|missing.h5"
    there = make_config(sweep, workdir=str(tmp_path / "there"))
    here = make_config(sweep, workdir=str(tmp_path / "here"), is_here=True)
    compare(there)

    def train_here(config, log):
        try:
            train(config)
        except UserError as error:
            return str(error)

    monkeypatch.setattr(processes, "train_in_process", train_here)
    compare(here)
    finished, failed = load_runs(there)
    assert (finished["state"], failed["state"]) == ("finished", "failed")
    assert "missing.h5" in failed["error"]
    expected, expected_failed = load_runs(here)
    assert failed == expected_failed
    loss, expected_loss = finished["val"].pop("loss"), expected["val"].pop("loss")
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert finished == expected


def test_a_node_that_does_not_share_the_workdir_is_one_line(
    make_config, monkeypatch, tmp_path
):
    monkeypatch.setattr(cluster_runs.os, "getcwd", lambda: "/nowhere")
    with pytest.raises(UserError, match="share the file system of.*without /nowhere$"):
        compare(make_config("dropout=0.1|0.2"))


def test_the_mark_of_the_workdir_is_looked_up_from_the_working_folder(tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    share = Share(1, 0, 1)
    with pytest.raises(UserError, match=f"without {tmp_path}/w/.partial-1"):
        cluster_runs._train(share, str(tmp_path), Path("w/.partial-1"), None)


@pytest.mark.slow
def test_runs_of_a_killed_node_go_on_elsewhere(
    make_config, other_node, tmp_path, caplog
):
    # Long enough to be killed in the middle.
    config = make_config("dropout=0.1|0.2|0.3", finetune_epochs=15, patience=15)
    folder = Path(config.run.workdir) / "runs"

    def kill():
        while len(list(folder.glob("*/checkpoints/*.npz"))) < 2:
            time.sleep(0.1)
        other_node()

    killer = threading.Thread(target=kill)
    killer.start()
    compare(config)
    killer.join()
    assert [run["state"] for run in load_runs(config)] == 3 * ["finished"]
    assert caplog.text.count(" goes on elsewhere: ") == 1
    logs = "".join(log.read_text() for log in folder.glob("*.log"))
    assert logs.count("Resumes the unfinished run") == 1
