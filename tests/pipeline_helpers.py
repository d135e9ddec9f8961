"""What tests of pipelines share: readers, and batches as arrays."""

import numpy as np
from helpers import make_examples

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images import pipeline


def image_reader(split, **options):
    return pipeline.ImageReader(split, Preprocessing(16, 16), 8, **options)


def label(labels):
    """Makes examples of these labels."""
    names = [str(i) for i in range(max(labels) + 1)]
    return make_examples([str(i) for i in range(len(labels))], None, labels, names)


def numbered(views=1, count=10, dtype=np.float32, batch_size=4):
    """Makes features [V, N, 2] of view and example, and examples, each of its class.

    So features and labels show the order.
    """
    view, example = np.mgrid[:views, :count]
    features = np.stack([view, example], axis=-1).astype(dtype)
    return pipeline.FeatureReader(features, batch_size), label(range(count))


def as_pairs(dataset):
    """Inputs and labels of the only task of each batch."""
    return [(inputs, labels["label"]) for inputs, labels in dataset.as_numpy_iterator()]


def training_batches(reader, examples, **options):
    options = {
        "seed": 0,
        "steps": -(-len(examples) // reader.batch_size),
        "epochs": 3,
        "view_of_epoch": lambda epoch: epoch * 0,
        **options,
    }
    return as_pairs(pipeline.make_training_dataset(reader, examples, **options))
