import numpy as np
import pytest
import tensorflow as tf
from feature_helpers import list_split
from helpers import make_examples
from pipeline_helpers import image_reader, numbered, training_batches

from keras_ft.images import pipeline
from keras_ft.system import distribution
from keras_ft.system.team import Team
from keras_ft.system.workers import Workers


@pytest.fixture
def split(image_folder):
    files = list_split(image_folder).files
    return make_examples(files, files, np.zeros(30, int), ["a"])


def test_no_iterator_waits_for_tuning_when_it_ends(split):
    reader = image_reader(split)
    for dataset in (
        pipeline.make_inputs(reader, range(len(split))),
        pipeline.make_training_dataset(
            reader, split, seed=0, steps=1, epochs=1, view_of_epoch=lambda epoch: epoch
        ),
    ):
        assert not dataset.options().autotune.enabled


@pytest.fixture
def as_worker(monkeypatch):
    """Makes pipelines those of one of several workers, without other processes."""

    def become(index, count):
        team = Team(Workers(tuple(map(str, range(count))), index))
        monkeypatch.setattr(distribution, "current_team", lambda: team)
        monkeypatch.setattr(pipeline, "num_devices", lambda: count)
        monkeypatch.setattr(pipeline, "distribute", lambda batches: batches)

    return become


def test_workers_divide_each_training_batch(as_worker):
    reader, examples = numbered(count=10, batch_size=6)
    whole = [labels for _, labels in training_batches(reader, examples, epochs=3)]
    parts = []
    for index in range(2):
        as_worker(index, 2)
        batches = training_batches(reader, examples, steps=2, epochs=3)
        assert [len(labels) for _, labels in batches] == [3, 2] * 3
        for features, labels in batches:
            np.testing.assert_array_equal(features[:, 1], labels.argmax(1))
        parts.append([labels for _, labels in batches])
    for batch, *of_workers in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(batch, np.concatenate(of_workers))


def test_a_worker_reads_its_own_images_only(split, as_worker):
    split = split.take(np.arange(8))
    [(whole, _)] = training_batches(image_reader(split), split, epochs=1)
    [(features, _)] = training_batches(*numbered(count=8, batch_size=8), epochs=1)
    order = features[:, 1].astype(int)
    for index, own in ((0, slice(0, 4)), (1, slice(4, 8))):
        as_worker(index, 2)
        reader = image_reader(split)
        files = np.full(8, "missing", object)  # to read one would be an error
        files[order[own]] = split.files[order[own]]
        reader._files = tf.constant(list(files))
        [(part, _)] = training_batches(reader, split, epochs=1)
        np.testing.assert_array_equal(part, whole[own])
