"""Which features are computed, and found again."""

import dataclasses
import importlib.metadata
import json
import shutil

import keras
import numpy as np
import pytest
from feature_helpers import (
    COUNT,
    SHAPE,
    VIEWS,
    compute,
    entries,
    load,
    load_one,
    make_frozen,
    make_request,
)

from keras_ft.catalog.backbones import BACKBONES
from keras_ft.catalog.preprocessing import Preprocessing
from keras_ft.host import onednn
from keras_ft.images import pipeline
from keras_ft.training import features

# --- what is kept ------------------------------------------------------------


def test_features_are_the_output_of_the_frozen_part_for_each_view(split, cache):
    request = make_request(split, augment="light")
    array = load_one(request, cache)
    assert array.dtype == np.float32
    assert array.shape == request.shape == (VIEWS, COUNT, *SHAPE)
    assert request.num_bytes == array.nbytes
    np.testing.assert_array_equal(array, compute(request))
    assert not np.allclose(array[0], array[1])


def test_half_precision_rounds_and_never_overflows(split, cache):
    request = make_request(split, views=1, dtype="float16")
    array = load_one(request, cache)
    assert array.dtype == np.float16
    np.testing.assert_array_equal(array, compute(request).astype(np.float16))

    loud = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Rescaling(-1e4)])
    array = load_one(dataclasses.replace(request, frozen=loud), cache)
    assert array.min() == -65504
    assert np.isfinite(array).all()


def test_features_are_mapped_from_the_disk_and_read_only(request_, cache):
    for _ in ("computed", "found"):
        array = load_one(request_, cache)
        assert isinstance(array, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_several_requests_are_answered_in_their_order(split, cache):
    requests = [
        make_request(split.take(np.arange(n)), views=views)
        for n, views in ((9, 2), (5, 1), (3, 1))
    ]
    load_one(requests[1], cache)
    arrays = load(*requests, cache=cache)
    for request, array in zip(requests, arrays, strict=True):
        np.testing.assert_array_equal(array, compute(request))
    assert requests[1].reader.reads == 1


def test_equal_requests_share_an_entry(split, cache):
    one, two = load(make_request(split), make_request(split), cache=cache)
    np.testing.assert_array_equal(one, two)
    assert len(entries(cache)) == 1


def test_an_entry_says_what_it_was_made_from(request_, cache):
    load_one(request_, cache)
    [entry] = entries(cache)
    assert json.loads((entry / "key.json").read_text()) == features.describe(request_)


# --- finding it again --------------------------------------------------------


def test_the_second_time_nothing_is_read_or_computed(request_, split, cache, caplog):
    once = load_one(request_, cache)
    assert request_.reader.reads == VIEWS
    assert "Features of train: 30 images in 2 views" in caplog.text
    caplog.clear()
    again = make_request(split, batch_size=5)
    np.testing.assert_array_equal(load_one(again, cache), once)
    assert again.reader.reads == 0
    assert "Features of train: from the cache" in caplog.text


def test_another_frozen_part_has_features_of_its_own(request_, split, cache):
    once = np.array(load_one(request_, cache))
    other = make_request(split, seed_of_weights=5)
    np.testing.assert_array_equal(load_one(other, cache), compute(other))
    np.testing.assert_array_equal(load_one(request_, cache), once)
    assert len(entries(cache)) == 2


def test_another_cache_is_not_mixed(request_, cache, tmp_path):
    load_one(request_, cache)
    load_one(request_, tmp_path / "other")
    assert request_.reader.reads == 2 * VIEWS
    names = [[e.name for e in entries(c)] for c in (cache, tmp_path / "other")]
    assert names[0] == names[1]


def test_neither_batches_nor_names_of_files_change_the_key(split, tmp_path):
    before = features.describe(make_request(split))
    assert features.describe(make_request(split, batch_size=3)) == before
    named = dataclasses.replace(make_request(split), name="val")
    assert features.describe(named) == before
    files = [str(tmp_path / f"copy{i}") for i in range(COUNT)]
    for old, new in zip(split.files, files, strict=True):
        shutil.copy(old, new)
    copies = dataclasses.replace(split, files=np.array(files, object))
    assert features.describe(make_request(copies)) == before


def test_seed_and_augment_do_not_matter_to_the_plain_view(split):
    before = features.describe(make_request(split, views=1))
    for options in ({"seed": 2}, {"augment": "light"}):
        other = make_request(split, views=1, **options)
        assert features.describe(other) == before


def _change_content(request):
    files = request.reader.split.files
    shutil.copy(files[4], files[3])
    return request


def _replace_reader(request, **options):
    names = ("split", "preprocessing", "batch_size", "augment", "mirror", "seed")
    old = {name: getattr(request.reader, name) for name in names}
    reader = pipeline.ImageReader(**(old | options))
    return dataclasses.replace(request, reader=reader)


def _take(which):
    return lambda r: _replace_reader(r, split=r.reader.split.take(np.array(which)))


def _origin(**changes):
    return lambda r: dataclasses.replace(r, origin=r.origin | changes)


def _change_a_weight(request):
    frozen = make_frozen.__wrapped__()
    value = frozen.weights[0].numpy()
    value.flat[0] = np.nextafter(value.flat[0], 9)
    frozen.weights[0].assign(value)
    return dataclasses.replace(request, frozen=frozen)


CHANGES = {
    "content of a file": _change_content,
    "order of the files": _take([1, 0, *range(2, COUNT)]),
    "one file less": _take(range(COUNT - 1)),
    "last bit of a weight": _change_a_weight,
    "weights": lambda r: dataclasses.replace(r, frozen=make_frozen(5)),
    "image size": lambda r: _replace_reader(r, preprocessing=Preprocessing(24, 24)),
    "image width": lambda r: _replace_reader(r, preprocessing=Preprocessing(16, 24)),
    "resize": lambda r: _replace_reader(r, preprocessing=Preprocessing(16, 16, "pad")),
    "augment": lambda r: _replace_reader(r, augment="light"),
    "mirror": lambda r: _replace_reader(r, mirror=True),
    "seed": lambda r: _replace_reader(r, seed=2),
    "views": lambda r: dataclasses.replace(r, views=3),
    "plain view only": lambda r: dataclasses.replace(r, views=1),
    "dtype": lambda r: dataclasses.replace(r, dtype="float16"),
    "precision": lambda r: dataclasses.replace(r, precision="mixed_bfloat16"),
    "backbone": _origin(backbone="vgg16"),
    "stages": _origin(**{"trained stages": ["conv3"]}),
    "jit": _origin(jit="on"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_features_depend_on_changes_the_key(request_, change):
    before = features.describe(request_)
    assert features.describe(request_) == before
    assert features.describe(CHANGES[change](request_)) != before


def test_onednn_changes_the_key(request_, monkeypatch):
    before = features.describe(request_)
    assert before["onednn"] == onednn.is_on()
    monkeypatch.setattr(onednn, "is_on", lambda: not before["onednn"])
    assert features.describe(request_) != before


@pytest.mark.parametrize("package", ["tensorflow", "keras"])
def test_another_version_of_a_package_changes_the_key(request_, monkeypatch, package):
    before = features.describe(request_)
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "9.9" if name == package else version(name),
    )
    assert features.describe(request_) != before


def test_another_version_of_features_changes_the_key(request_, monkeypatch):
    before = features.describe(request_)
    monkeypatch.setattr(features, "FEATURES_VERSION", features.FEATURES_VERSION + 1)
    assert features.describe(request_) != before


def test_a_normalisation_that_changes_changes_the_key(request_, monkeypatch):
    before = features.describe(request_)
    row = dataclasses.replace(BACKBONES["tiny"], normalisation="torch")
    monkeypatch.setitem(BACKBONES, "tiny", row)
    assert features.describe(request_) != before
