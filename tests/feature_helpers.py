"""What tests of cached features share: requests, and a look into the cache."""

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf
from helpers import COLOURS, make_examples, make_task

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images import pipeline
from keras_ft.models import classifier as model
from keras_ft.training import features

VIEWS, COUNT, SHAPE = 2, 30, (8, 8, 16)


def list_split(folder):
    files = [str(f) for name in COLOURS for f in sorted((folder / name).iterdir())]
    return make_examples(
        np.array(files, object), np.array(files, object), np.zeros(30, int)
    )


@functools.cache
def make_frozen(seed=0):
    keras.utils.set_random_seed(seed)
    backbone = model.make_backbone("tiny", (16, 16))
    for layer in backbone.layers:  # random statistics, or BatchNorm would do nothing
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.random.uniform(-1, 1, layer.moving_mean.shape))
    model.set_trainable(backbone, ("conv2", "conv3"), "fixed")
    tasks = [make_task(3)]
    classifier = model.make_classifier(backbone, tasks, dropout=0.0)
    return model.split(classifier, tasks, ("conv2", "conv3"), fold=True).frozen


class SpyReader(pipeline.ImageReader):
    """Counts how often it reads, and calls `when_read`."""

    reads = 0

    def read(self, examples, view):
        self.reads += 1
        self.when_read(view)
        return super().read(examples, view)

    def when_read(self, view):
        pass


def make_request(split, seed_of_weights=0, views=VIEWS, dtype="float32", **reader):
    options = {
        "preprocessing": Preprocessing(16, 16),
        "batch_size": 8,
        "augment": "none",
        "seed": 1,
    }
    return features.Request(
        name="train",
        frozen=make_frozen(seed_of_weights),
        precision="float32",
        reader=SpyReader(split, **(options | reader)),
        views=views,
        dtype=dtype,
        origin={"backbone": "tiny", "frozen before": "from:conv2", "jit": "auto"},
    )


def load(*requests, cache, limit_gb=1.0):
    if len(requests) > 1:
        names = ("train", "val", "test")
        pairs = zip(names, requests, strict=False)
        requests = [dataclasses.replace(request, name=name) for name, request in pairs]
    found = features.FeatureCache(requests, cache, limit_gb, jit=False)
    return [found.load(request.name) for request in requests]


def load_one(request, cache, **options):
    [array] = load(request, cache=cache, **options)
    return array


def entries(cache):
    return sorted((cache / "features").iterdir())


def compute(request):
    """What should be kept, from the reader and the frozen part alone."""
    plain = pipeline.ImageReader(
        **{
            name: getattr(request.reader, name)
            for name in (
                "split",
                "preprocessing",
                "batch_size",
                "augment",
                "mirror",
                "seed",
            )
        }
    )
    examples = tf.data.Dataset.range(len(plain.split))
    return np.stack(
        [
            request.frozen.predict(plain.read(examples, view), verbose=0)
            for view in range(request.views)
        ]
    )
