"""The cache of features: failures, other processes, room."""

import contextlib
import errno
import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from feature_helpers import (
    VIEWS,
    compute,
    entries,
    load,
    load_one,
    make_request,
)
from helpers import ROOT

from keras_ft.training import feature_pass

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

    monkeypatch.setattr(feature_pass, "open", open_on_full_disk, raising=False)
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
import feature_helpers as t

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


@pytest.mark.parametrize("length", [50, 5000])
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


def test_requested_entries_are_not_removed(filled, cache):
    requests, paths, new, size = filled
    read = requests[0].reader.reads
    load(requests[0], new, cache=cache, limit_gb=2.1 * size / 1e9)
    assert [path.exists() for path in paths] == [True, False, False]
    assert requests[0].reader.reads == read


def test_what_is_there_counts_toward_the_limit_of_a_request(filled, cache):
    """The limit is never passed: not by half of the requested features."""
    requests, _, new, size = filled
    with pytest.raises(OSError, match="cache_limit_gb"):
        load(requests[0], new, cache=cache, limit_gb=1.5 * size / 1e9)
    assert new.reader.reads == 0
