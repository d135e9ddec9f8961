import gc
import os
import weakref

import numpy as np
import pytest
import tensorflow as tf
from helpers import make_examples
from PIL import Image

from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.images import decoded, pipeline
from keras_ft.images.decoded import DecodedImages
from keras_ft.images.pipeline import ImageReader


def make_split(folder, sizes):
    """Images of smooth noise, of these sizes (height, width)."""
    rng, files = np.random.default_rng(0), []
    for i, (height, width) in enumerate(sizes):
        coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8))
        files.append(str(folder / f"{i}.png"))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return make_examples(files, None, np.zeros(len(files), int), ["a", "b"])


def read_views(reader, view):
    indices = tf.data.Dataset.range(len(reader.split))
    return np.concatenate(list(reader.read(indices, view).as_numpy_iterator()))


def make_readers(split, mode="stretch", augment="light"):
    fit = Preprocessing(16, 24, mode)
    options = {"augment": augment, "mirror": True, "seed": 3}
    kept = ImageReader(split, fit, 8, **options, decoded=DecodedImages(fit))
    return ImageReader(split, fit, 8, **options), kept


@pytest.mark.parametrize("mode", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("augment", ["none", "light", "strong"])
def test_views_of_kept_images_are_those_of_the_files(tmp_path, mode, augment):
    small, large = [(32, 48), (20, 31), (8, 8)], [(300, 400), (500, 90), (33, 300)]
    plain, kept = make_readers(make_split(tmp_path, small + large), mode, augment)
    for view in (1, 2):
        expected, found = read_views(plain, view), read_views(kept, view)
        # Those of twice the network's size or less are not shrunk.
        np.testing.assert_array_equal(found[:3], expected[:3])
        assert np.abs(found[3:] - expected[3:]).mean((1, 2, 3)).max() < 10
    np.testing.assert_array_equal(read_views(kept, 0), read_views(plain, 0))


@pytest.mark.parametrize("augment", ["none", "light"])
def test_files_are_read_once(tmp_path, augment):
    split = make_split(tmp_path, [(40, 50), (100, 200), (16, 24)])
    _, kept = make_readers(split, augment=augment)
    first = read_views(kept, 1)
    for file in split.files:
        os.remove(file)
    assert np.array_equal(read_views(kept, 2), first) == (augment == "none")
    np.testing.assert_array_equal(read_views(kept, 1), first)


def test_images_without_room_are_read_again_and_look_the_same(tmp_path, monkeypatch):
    split = make_split(tmp_path, [(100, 150), (90, 600), (16, 24)])
    _, kept = make_readers(split, "pad")
    expected = read_views(kept, 1)
    others = 3 * (32 * 48 + 16 * 24)  # that of extreme shape would need more
    monkeypatch.setattr(decoded, "memory_limit", lambda: 16 * others)
    _, limited = make_readers(split, "pad")
    np.testing.assert_array_equal(read_views(limited, 1), expected)
    os.remove(split.files[0])
    os.remove(split.files[2])
    np.testing.assert_array_equal(read_views(limited, 1), expected)
    os.remove(split.files[1])
    with pytest.raises(tf.errors.NotFoundError, match="1.png"):
        read_views(limited, 1)


def test_nothing_is_kept_longer_than_its_reader(tmp_path):
    _, kept = make_readers(make_split(tmp_path, [(40, 50)]))
    read_views(kept, 1)
    images = weakref.ref(kept.decoded)
    del kept
    gc.collect()
    assert images() is None


def test_evaluation_inputs_are_decoded_once_if_there_is_room(tmp_path, monkeypatch):
    split = make_split(tmp_path, [(40, 50), (100, 200)])
    reader, _ = make_readers(split)
    limit = 16 * 2 * 16 * 24 * 3 * 4
    for room in (limit, limit - 16):
        monkeypatch.setattr(decoded, "memory_limit", lambda room=room: room)
        kept = pipeline.make_inputs(reader, range(2), keep=True)
        [before] = kept.as_numpy_iterator()
        os.rename(split.files[0], tmp_path / "away")
        if room == limit:
            np.testing.assert_array_equal([*kept.as_numpy_iterator()], [before])
        else:
            with pytest.raises(tf.errors.NotFoundError, match="0.png"):
                list(kept)
        os.rename(tmp_path / "away", split.files[0])
