"""What tests of phases share: short runs, and what they wrote."""

import numpy as np
from helpers import read_table

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.config.config import Config
from keras_ft.data import dataset as data
from keras_ft.images import pipeline
from keras_ft.jobs import train
from keras_ft.models.heads import predict_probabilities
from keras_ft.models.trained import load_trained


def only_finetune(unfreeze):
    return {"head_epochs": 0, "finetune_epochs": 2, "unfreeze": unfreeze}


def fine_tune(flags, workdir, **changes):
    config = Config(**(flags | {"workdir": str(workdir)} | changes))
    metrics = train.train(config)
    return metrics, data.load_splits(config.data, config.run.seed)


def history(workdir):
    """Rows of numbers: all columns but the phase and what depends on the clock."""
    rows = read_table(workdir / "history.csv")
    names = [name for name in rows[0] if name not in ("phase", "seconds")]
    return np.array([[float(row[name]) for name in names] for row in rows])


def losses(workdir):
    return [float(row["loss"]) for row in read_table(workdir / "history.csv")]


def compute_loss(model, split):
    """The cross-entropy of a model."""
    inputs = pipeline.make_inputs(
        pipeline.ImageReader(split, Preprocessing(16, 16), 8), len(split)
    )
    predicted = predict_probabilities(model, split.tasks, inputs, len(split))
    return -np.log(predicted["label"][np.arange(len(split)), split.labels]).mean()


def load(workdir):
    return load_trained(workdir / "model.keras")[0]


def assert_equal_runs(one, two, atol):
    np.testing.assert_allclose(history(one), history(two), atol=atol)
    for a, b in zip(load(one).weights, load(two).weights, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)
