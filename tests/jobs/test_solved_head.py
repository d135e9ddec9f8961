"""A run whose head is solved."""

import keras
import numpy as np
import pytest
from helpers import read_table

from keras_ft.config.settings import Config
from keras_ft.jobs.train import train
from keras_ft.models.trained import load_trained
from keras_ft.runs.paths import RunPaths

pytestmark = pytest.mark.usefixtures("no_export")


class Watch(keras.callbacks.Callback):
    """Notes the heads at the beginning and the end of phases; may stop the run."""

    def __init__(self, stops=False):
        super().__init__()
        self.stops, self.begin, self.end = stops, {}, {}

    def on_train_begin(self, logs=None):
        if self.stops and self.params["phase"] == "finetune":
            raise RuntimeError("stopped")
        self.begin[self.params["phase"]] = self.read()

    def on_train_end(self, logs=None):
        self.end[self.params["phase"]] = self.read()

    def read(self):
        return self.model.get_weights()[-2:]


@pytest.fixture
def config(two_phase_flags):
    return Config(**two_phase_flags | {"solve_head": True, "deterministic": True})


def read_head(config):
    model, _ = load_trained(RunPaths(config.run.workdir).model)
    return model.get_weights()[-2:]


def assert_equal(weights, others):
    for a, b in zip(weights, others, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("rate", "share"),
    [(0.1, 0.1), (0.001, 1.0)],  # the latter can't regain it
)
def test_phase_finetune_begins_with_a_share_of_the_solved_head(
    config, tmp_path, rate, share
):
    watch = Watch()
    config = config.replace(finetune_learning_rate=rate, finetune_epochs=30)
    metrics = train(config, callbacks=[watch])
    head, finetune = metrics["phases"].values()
    assert head["solved"] and not finetune["solved"]
    rows = read_table(RunPaths(config.run.workdir).history)
    trained = min(float(r["val_calibrated_loss"]) for r in rows if r["phase"] == "head")
    assert head["monitored"] < 0.5 * trained  # three epochs are few
    alone = config.replace(unfreeze="none", workdir=str(tmp_path / "alone"))
    train(alone)
    solved = read_head(alone)
    assert np.abs(solved[0] - watch.end["head"][0]).max() > 0.1
    for array, begin in zip(solved, watch.begin["finetune"], strict=True):
        np.testing.assert_allclose(begin, share * array, rtol=1e-6)


def test_a_resumed_run_begins_with_it_too(config, tmp_path):
    whole = train(config)
    other = config.replace(workdir=str(tmp_path / "other"))
    with pytest.raises(RuntimeError, match="stopped"):
        train(other, callbacks=[Watch(stops=True)])
    watch = Watch()
    resumed = train(other, callbacks=[watch])
    assert list(watch.begin) == ["finetune"]
    for name, phase in whole["phases"].items():
        for split in ("val", "test"):
            assert resumed["phases"][name][split] == phase[split]
    assert_equal(read_head(other), read_head(config))


def test_without_solving_it_is_the_best_epoch(config):
    metrics = train(config.replace(solve_head=False, unfreeze="none"))
    assert not metrics["phases"]["head"]["solved"]
    assert metrics["phases"]["head"]["gain"] is None


def test_features_that_are_not_cached_give_the_same_head(config, tmp_path):
    config = config.replace(unfreeze="none", augment="light", feature_views=2)
    heads = []
    for cache in ("on", "off"):
        folder = str(tmp_path / cache)
        other = config.replace(cache_features=cache, workdir=folder)
        assert train(other)["phases"]["head"]["solved"]
        heads.append(read_head(other))
    for cached, computed in zip(*heads, strict=True):
        np.testing.assert_allclose(cached, computed, rtol=0.02, atol=0.05)
