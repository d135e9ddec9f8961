import contextlib
import dataclasses
import errno
import fcntl
import functools
import importlib.metadata
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import COLOURS, ROOT

from keras_ft.data.examples import make_examples
from keras_ft.images import pipeline
from keras_ft.models import classifier as model
from keras_ft.system import devices
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
    backbone = model.make_backbone("tiny", 16)
    for layer in backbone.layers:  # random statistics, or BatchNorm would do nothing
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(np.random.uniform(-1, 1, layer.moving_mean.shape))
    model.set_trainable(backbone, ("conv2", "conv3"), "fixed")
    classifier = model.make_classifier(backbone, 3, dropout=0.0)
    return model.split(classifier, ("conv2", "conv3"), fold=True).frozen


class SpyReader(pipeline.ImageReader):
    """Counts how often it is asked to read, and tells others."""

    reads = 0

    def read(self, examples, view):
        self.reads += 1
        self.when_read(view)
        return super().read(examples, view)

    def when_read(self, view):
        pass


def make_request(split, seed_of_weights=0, views=VIEWS, dtype="float32", **reader):
    options = {"image_size": 16, "batch_size": 8, "augment": "none", "seed": 1}
    return features.Request(
        name="train",
        frozen=make_frozen(seed_of_weights),
        reader=SpyReader(split, **(options | reader)),
        views=views,
        dtype=dtype,
        origin={"backbone": "tiny", "frozen before": "from:conv2", "jit": "auto"},
    )


@pytest.fixture
def split(image_folder):
    return list_split(image_folder)


@pytest.fixture
def request_(split):
    return make_request(split)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def load(*requests, cache, limit_gb=1.0):
    return features.load_features(requests, cache, limit_gb, jit=False)


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
            for name in ("split", "image_size", "batch_size", "augment", "seed")
        }
    )
    examples = tf.data.Dataset.range(len(plain.split))
    return np.stack(
        [
            request.frozen.predict(plain.read(examples, view), verbose=0)
            for view in range(request.views)
        ]
    )


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
    names = ("split", "image_size", "batch_size", "augment", "seed")
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
    "image size": lambda r: _replace_reader(r, image_size=24),
    "augment": lambda r: _replace_reader(r, augment="light"),
    "seed": lambda r: _replace_reader(r, seed=2),
    "views": lambda r: dataclasses.replace(r, views=3),
    "plain view only": lambda r: dataclasses.replace(r, views=1),
    "dtype": lambda r: dataclasses.replace(r, dtype="float16"),
    "backbone": _origin(backbone="vgg16"),
    "stages": _origin(**{"trained stages": ["conv3"]}),
    "jit": _origin(jit="on"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_features_depend_on_changes_the_key(request_, change):
    before = features.describe(request_)
    assert features.describe(request_) == before
    assert features.describe(CHANGES[change](request_)) != before


def test_precision_changes_the_key(request_):
    before = features.describe(request_)
    with devices.precision("mixed_bfloat16"):
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
    row = dataclasses.replace(features.BACKBONES["tiny"], normalisation="torch")
    monkeypatch.setitem(features.BACKBONES, "tiny", row)
    assert features.describe(request_) != before


# --- failures ----------------------------------------------------------------


class FullDisk(io.FileIO):
    """A file on a disk that is full after 10,000 bytes."""

    def write(self, content):
        if self.tell() + len(content) > 10_000:
            super().write(content[: 10_000 - self.tell()])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_a_disk_that_fills_up_leaves_nothing(request_, cache, monkeypatch):
    def open_on_full_disk(path, mode="r", **options):
        is_written = "w" in mode and Path(path).is_relative_to(cache)
        return FullDisk(path, "w") if is_written else open(path, mode, **options)

    monkeypatch.setattr(features, "open", open_on_full_disk, raising=False)
    with pytest.raises(OSError, match="No space left"):
        load_one(request_, cache)
    assert request_.reader.reads == 1  # it had begun
    assert entries(cache) == []
    monkeypatch.undo()
    np.testing.assert_array_equal(load_one(request_, cache), compute(request_))


def test_an_unreadable_image_leaves_nothing(request_, cache):
    Path(request_.reader.split.files[20]).write_bytes(b"no image")
    with pytest.raises(tf.errors.InvalidArgumentError):
        load_one(request_, cache)
    assert entries(cache) == []


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
import test_features as t

class KilledReader(t.SpyReader):
    def when_read(self, view):
        if view == 1:
            os.kill(os.getpid(), signal.SIGKILL)

t.SpyReader = KilledReader
t.load_one(t.make_request(t.list_split(Path(sys.argv[2]))), Path(sys.argv[3]))
"""


def test_what_a_killed_process_leaves_is_removed_and_never_used(
    request_, image_folder, cache
):
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, here, str(image_folder), str(cache)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    [partial] = entries(cache)
    assert (partial / "features.npy").exists()
    np.testing.assert_array_equal(load_one(request_, cache), compute(request_))
    assert request_.reader.reads == VIEWS
    [entry] = entries(cache)
    assert entry != partial


@contextlib.contextmanager
def another_writer(cache):
    """The folder of a process that still writes; after the block it is dead."""
    folder = cache / "features" / ".partial-abc"
    folder.mkdir(parents=True)
    with open(folder / "features.npy", "wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(bytes(10_000))
        stream.flush()
        yield folder


def test_what_another_process_writes_is_kept_until_it_dies(request_, cache):
    with another_writer(cache) as folder:
        load_one(request_, cache)
        assert (folder / "features.npy").read_bytes() == bytes(10_000)
    load_one(request_, cache)
    assert not folder.exists()


def test_what_another_process_writes_makes_no_room(request_, cache):
    with another_writer(cache) as folder:
        load_one(request_, cache, limit_gb=(request_.num_bytes + 5_000) / 1e9)
        assert (folder / "features.npy").exists()


def test_a_process_that_was_faster_is_no_error(split, cache):
    request = make_request(split)
    other = make_request(split)

    def when_read(view):
        if view == 1:
            load_one(other, cache)

    request.reader.when_read = when_read
    np.testing.assert_array_equal(load_one(request, cache), compute(request))
    assert other.reader.reads == VIEWS
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("length", [0, 50, 5000, -1])
def test_truncated_features_are_computed_again(request_, split, cache, length):
    once = np.array(load_one(request_, cache))
    path = entries(cache)[0] / "features.npy"
    path.write_bytes(path.read_bytes()[:length])
    again = make_request(split)
    np.testing.assert_array_equal(load_one(again, cache), once)
    assert again.reader.reads == VIEWS


# --- room --------------------------------------------------------------------


def test_what_is_too_large_is_not_begun(request_, cache):
    with pytest.raises(OSError, match="--cache_limit_gb=0.0001"):
        load_one(request_, cache, limit_gb=1e-4)
    assert request_.reader.reads == 0
    assert entries(cache) == []


def test_what_the_disk_has_no_room_for_is_not_begun(request_, cache, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: usage._replace(free=request_.num_bytes - 1)
    )
    with pytest.raises(OSError, match="free in"):
        load_one(request_, cache)
    assert request_.reader.reads == 0
    assert entries(cache) == []


def test_a_limit_does_not_bind_what_is_there(request_, split, cache):
    once = load_one(request_, cache)
    again = make_request(split)
    np.testing.assert_array_equal(load_one(again, cache, limit_gb=1e-9), once)
    assert again.reader.reads == 0


@pytest.fixture
def filled(split, cache):
    """Entries of one size, written in the order of their seeds."""
    requests, paths = [], []
    for seed in range(3):
        request = make_request(split.take(np.arange(5)), seed=seed)
        requests.append(request)
        load_one(request, cache)
        [path] = set(entries(cache)) - set(paths)
        os.utime(path, (1000 + seed, 1000 + seed))
        paths.append(path)
    new = make_request(split.take(np.arange(5)), seed=9)
    size = sum(file.stat().st_size for file in paths[0].iterdir())
    return requests, paths, new, size


def test_what_was_not_used_for_longest_makes_room(filled, cache):
    requests, paths, new, size = filled
    load_one(requests[0], cache)  # used just now
    load_one(new, cache, limit_gb=3.1 * size / 1e9)
    assert [path.exists() for path in paths] == [True, False, True]
    assert len(entries(cache)) == 3


def test_only_as_much_room_is_made_as_is_needed(filled, cache):
    _, paths, new, size = filled
    load_one(new, cache, limit_gb=4.1 * size / 1e9)
    assert all(path.exists() for path in paths)
    assert len(entries(cache)) == 4


def test_what_is_asked_for_makes_no_room(filled, cache):
    requests, paths, new, size = filled
    read = requests[0].reader.reads
    load(requests[0], new, cache=cache, limit_gb=2.1 * size / 1e9)
    assert [path.exists() for path in paths] == [True, False, False]
    assert requests[0].reader.reads == read


def test_what_is_there_counts_toward_the_limit_of_a_request(filled, cache):
    """The limit is never passed: not by half of what is asked for, either."""
    requests, _, new, size = filled
    with pytest.raises(OSError, match="cache_limit_gb"):
        load(requests[0], new, cache=cache, limit_gb=1.5 * size / 1e9)
    assert new.reader.reads == 0
