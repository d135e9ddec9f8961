"""The weights that Keras publishes: its cache, downloads, no network."""

import email.message
import hashlib
import inspect
import io
import os
import pkgutil
import re
import threading
import time
import types
import urllib.error
import urllib.request
import urllib.response

import keras
import pytest
from helpers import reason_not_used
from model_helpers import bits, randomise

from keras_ft.catalog.backbones import BACKBONES
from keras_ft.errors import UserError
from keras_ft.models import published, weights
from keras_ft.models.classifier import make_backbone

RESNET50_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
RESNET50_HASH = "4d473c1dd8becc155b73f8504c6f6626"
FILE = "tiny_notop.weights.h5"
URL = f"https://server/{FILE}"
FROM_KERAS = [name for name in BACKBONES if name != "tiny"]
# Backbones and image sizes; builders of large networks are slow.
QUICK = [("mobilenet_v2", 96), ("mobilenet_v2", 100), ("mobilenet_v3_small", 71)]
SLOW = [(name, 71) for name in FROM_KERAS if name != "mobilenet_v3_small"]
SLOW += [("mobilenet_v2", size) for size in (128, 160, 192, 224)]


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of Keras's cache for weights, empty, in a home of its own."""
    home = tmp_path / "keras_home"
    monkeypatch.setenv("KERAS_HOME", str(home))
    (home / "models").mkdir(parents=True)
    return home / "models"


@pytest.fixture
def server(monkeypatch):
    """The network: sends `body`, announces `length` or raises `error`; lists URLs."""
    state = types.SimpleNamespace(
        error=None, body=b"", length=None, requested=[], before_answer=lambda: None
    )

    def urlopen(url, data=None, timeout=None):
        state.requested.append(url)
        state.before_answer()
        if state.error:
            raise state.error
        headers = email.message.Message()
        headers["Content-Length"] = str(state.length or len(state.body))
        return urllib.response.addinfourl(io.BytesIO(state.body), headers, url)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return state


@pytest.fixture
def offline(server):
    """No network; returns the list of the URLs that were requested."""
    server.error = urllib.error.URLError("Name or service not known")
    return server.requested


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny backbone and the bytes of its weights file."""
    backbone = randomise(make_backbone("tiny", (32, 32)))
    file = tmp_path_factory.mktemp("tiny") / FILE
    backbone.save_weights(file)
    return backbone, file.read_bytes()


@pytest.fixture
def body(monkeypatch, server, cache, tiny):
    """Publishes the weights of `tiny` on `server`; returns them as bytes."""
    _, server.body = tiny
    found = URL, hashlib.md5(server.body).hexdigest()
    monkeypatch.setattr(published, "find_url", lambda name, image_size: found)
    return server.body


# --- the table -----------------------------------------------------------------------


@pytest.mark.parametrize("name", FROM_KERAS)
def test_hash_is_one_that_keras_has(name):
    url, file_hash = published.find_url(name, (224, 224))
    builder = pkgutil.resolve_name(BACKBONES[name].builder)
    source = inspect.getsource(pkgutil.resolve_name(builder.__module__))
    # ResNetV2's are in the module of ResNet.
    source += inspect.getsource(inspect.getmodule(keras.applications.ResNet50))
    assert (file_hash in source) if file_hash else name == "mobilenet_v2"
    assert re.search("no_?top", url)


@pytest.mark.parametrize(
    "name, size", [*QUICK, *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW)]
)
def test_url_and_hash_are_those_that_the_builder_requests(name, size, monkeypatch):
    requested = []

    def get_file(fname, origin, cache_subdir, file_hash=""):
        assert (fname, cache_subdir) == (os.path.basename(origin), "models")
        requested.append((origin, file_hash))
        raise FileNotFoundError

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    builder = pkgutil.resolve_name(BACKBONES[name].builder)
    with pytest.raises(FileNotFoundError):
        builder(include_top=False, weights="imagenet", input_shape=(size, size, 3))
    assert requested == [published.find_url(name, (size, size))]


def test_network_without_published_weights_is_one_short_reason(cache, offline):
    assert reason_not_used("imagenet") == "Keras publishes none for tiny"
    assert not offline


# --- the cache -----------------------------------------------------------------------


@pytest.mark.parametrize("writable", [True, False])
def test_cached_file_is_used_offline(body, cache, offline, monkeypatch, writable):
    (cache / FILE).write_bytes(body)
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    _, found = weights.load_backbone("tiny", (32, 32), ["imagenet", "none"])
    assert found.used == "imagenet"
    assert found.file == str(cache / FILE)
    assert found.sha256 == hashlib.sha256(body).hexdigest()
    assert not offline


def test_file_of_keras_applications_is_loaded(cache, offline):
    source = make_backbone("mobilenet_v2", (32, 32))
    file = cache / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    source.save(file)
    backbone, found = weights.load_backbone("mobilenet_v2", (32, 32), ["imagenet"])
    assert (found.used, found.file) == ("imagenet", str(file))
    assert bits(backbone) == bits(source)
    file.write_bytes(file.read_bytes()[:10000])
    assert reason_not_used("imagenet", "mobilenet_v2").startswith(
        f"{file} cannot be read: "
    )
    assert file.stat().st_size == 10000
    assert not offline


def test_cached_file_with_a_wrong_hash_is_named_and_left_as_it_is(cache, offline):
    file = cache / RESNET50_FILE
    file.write_bytes(b"made by hand")
    before = file.stat()
    with pytest.raises(UserError, match="left untouched") as raised:
        weights.load_backbone("resnet50", (32, 32), ["imagenet"])
    assert str(file) in str(raised.value) and RESNET50_HASH in str(raised.value)
    assert file.read_bytes() == b"made by hand"
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert list(cache.iterdir()) == [file]
    assert not offline


def test_cached_file_that_cannot_be_read_is_one_short_reason(body, cache, offline):
    (cache / FILE).mkdir()
    assert reason_not_used("imagenet").startswith(f"{cache / FILE} cannot be read: ")
    assert not offline


# --- downloads -----------------------------------------------------------------------


def test_absent_file_is_downloaded_once(body, server, cache, tiny, caplog):
    with caplog.at_level("INFO", "keras_ft"):
        backbone, found = weights.load_backbone("tiny", (32, 32), ["imagenet"])
    assert bits(backbone) == bits(tiny[0])
    assert found.file == str(cache / FILE)
    assert (cache / FILE).read_bytes() == body
    assert list(cache.iterdir()) == [cache / FILE]
    assert f"downloading {URL} ({len(body) / 1e6:.1f} MB)" in caplog.text
    weights.load_backbone("tiny", (32, 32), ["imagenet"])
    assert server.requested == [URL, URL]  # the probe and the download


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"body": b"a login page"}, "hash does not match"),
        ({"length": 10**6}, "got only"),
        ({"error": urllib.error.HTTPError(URL, 404, "Not found", None, None)}, "404"),
    ],
)
def test_failed_download_is_one_short_reason_and_leaves_nothing(
    body, server, cache, answer, reason
):
    vars(server).update(answer)
    assert reason in reason_not_used("imagenet")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("same", [True, False])
def test_file_that_appears_during_a_download_stays(body, server, cache, same):
    rival = body if same else b"put there by another program"
    server.before_answer = lambda: (cache / FILE).write_bytes(rival)
    if same:
        _, found = weights.load_backbone("tiny", (32, 32), ["imagenet"])
        assert found.file == str(cache / FILE)
    else:
        assert "is not the published file" in reason_not_used("imagenet")
    assert (cache / FILE).read_bytes() == rival
    assert list(cache.iterdir()) == [cache / FILE]


# --- no network ----------------------------------------------------------------------


def test_offline_the_reason_says_where_to_put_which_file(cache, offline):
    with pytest.raises(UserError) as raised:
        weights.load_backbone("resnet50", (32, 32), ["imagenet"])
    message = str(raised.value)
    assert "could not be downloaded: Name or service not known" in message
    assert f"{RESNET50_FILE} is not in {cache}" in message
    assert f"resnet/{RESNET50_FILE} into {cache}" in message
    assert [url.rpartition("/")[2] for url in offline] == [RESNET50_FILE]


def test_a_user_without_a_home_is_told_of_a_folder_that_can_be_written(
    cache, offline, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: path != cache.parent)
    with pytest.raises(UserError, match=f"{RESNET50_FILE} into /tmp/.keras/models to"):
        weights.load_backbone("resnet50", (32, 32), ["imagenet"])


def test_hanging_network_is_given_up_in_time(body, server, monkeypatch):
    assert published.PROBE_SECONDS < 5
    monkeypatch.setattr(published, "PROBE_SECONDS", 0.2)
    release = threading.Event()
    server.before_answer = lambda: release.wait(20)
    start = time.monotonic()
    with pytest.raises(published.UnusableWeights, match="no answer within 0.2 seconds"):
        published.load_published("tiny", (32, 32))
    assert time.monotonic() - start < 1
    release.set()
