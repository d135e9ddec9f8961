import hashlib
import http.server
import os
import pathlib
import re
import socket
import threading
import time
import types
import urllib.error
import urllib.request

import keras
import numpy as np
import pytest
import skimage.data
from helpers import ROOT
from keras.src.utils import file_utils

from keras_ft.errors import UserError
from keras_ft.models import classifier as model
from keras_ft.models import weights

FLOAT_FILE = ROOT / "shared/weights/resnet50_tiny_imagenet.weights.h5"
RESNET50_FILE = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
RESNET50_HASH = "4d473c1dd8becc155b73f8504c6f6626"
PUBLISHED_FILE = "tiny_notop.weights.h5"


def values_of(backbone):
    return {
        variable.path: keras.ops.convert_to_numpy(variable)
        for variable in backbone.weights
    }


def assert_same_values(backbone, values):
    received = values_of(backbone)
    assert received.keys() == values.keys()
    for path, value in values.items():
        np.testing.assert_array_equal(received[path], value, err_msg=path)


def reason_of(item, name="tiny"):
    """The one line that says why an item of the preference list was not used."""
    _, found = weights.load_backbone(name, 32, [item, "none"])
    assert found.used == "none"
    (attempt,) = found.attempts
    assert attempt["weights"] == item
    assert "\n" not in attempt["error"]
    assert len(re.sub(r"/\S+/", "", attempt["error"])) <= 200  # but for its folders
    return attempt["error"]


@pytest.fixture
def tiny():
    """A tiny backbone in which no two variables, BatchNorm's included, are alike."""
    backbone = model.make_backbone("tiny", 32)
    generator = np.random.default_rng(0)
    for variable in backbone.weights:
        variable.assign(generator.uniform(0.5, 1.5, variable.shape))
    return backbone


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of Keras's cache for weights, empty, in a home of its own."""
    home = tmp_path / "keras_home"
    # Keras reads KERAS_HOME once, when it is imported.
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(home))
    (home / "models").mkdir(parents=True)
    return home / "models"


@pytest.fixture
def offline(monkeypatch):
    """No network; returns the list of the URLs that were asked for."""
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


@pytest.fixture
def server(monkeypatch):
    """A server on this machine: gives `body`, announces `length`, counts requests."""
    state = types.SimpleNamespace(
        status=200, body=b"", length=None, requests=0, before_answer=lambda: None
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests += 1
            state.before_answer()
            self.send_response(state.status)
            self.send_header("Content-Length", str(state.length or len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *args):
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{httpd.server_port}/{PUBLISHED_FILE}"
        yield state
        httpd.shutdown()


@pytest.fixture
def published(monkeypatch, server, cache, tiny, tmp_path):
    """Makes Keras publish the weights of `tiny`, on `server`; returns them as bytes."""
    tiny.save_weights(tmp_path / PUBLISHED_FILE)
    server.body = (tmp_path / PUBLISHED_FILE).read_bytes()
    file_hash = hashlib.md5(server.body).hexdigest()

    def make_backbone(name, image_size, weights=None):
        backbone = model.make_backbone(name, image_size)
        if weights == "imagenet":  # as the builders of keras.applications do
            file = file_utils.get_file(
                PUBLISHED_FILE, server.url, cache_subdir="models", file_hash=file_hash
            )
            backbone.load_weights(file)
        return backbone

    monkeypatch.setattr(weights, "make_backbone", make_backbone)
    return server.body


# The preference list.


def test_first_usable_item_is_used_and_those_before_are_recorded(
    tiny, tmp_path, caplog
):
    file = tmp_path / "a.weights.h5"
    tiny.save_weights(file)
    absent = str(tmp_path / "absent.h5")
    with caplog.at_level("INFO", "keras_ft"):
        backbone, found = weights.load_backbone(
            "tiny", 32, [absent, "starter", str(file), "none"]
        )
    assert_same_values(backbone, values_of(tiny))
    assert found.used == found.file == str(file)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [attempt["weights"] for attempt in found.attempts] == [absent, "starter"]
    assert "resnet50 only" in found.attempts[1]["error"]
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 3 and not any("\n" in line for line in logged)
    assert all(attempt["error"] in "".join(logged) for attempt in found.attempts)
    assert found.sha256 in logged[-1]


def test_none_is_random_and_names_no_file(tmp_path):
    first, found = weights.load_backbone("tiny", 32, ["none"])
    second, _ = weights.load_backbone("tiny", 32, ["none"])
    assert found == weights.Weights("none", None, None, ())
    kernels = [values_of(net)["conv1_conv/kernel"] for net in (first, second)]
    assert not np.array_equal(*kernels)


def test_exhausted_list_names_every_attempt_and_what_to_do(cache, offline):
    with pytest.raises(UserError) as raised:
        weights.load_backbone("resnet50", 32, ["imagenet", "absent.h5"])
    message = str(raised.value)
    assert "absent.h5: there is no such file" in message
    assert "Name or service not known" in message
    assert f"{RESNET50_FILE} is not in {cache}" in message
    assert f"resnet/{RESNET50_FILE} into {cache}" in message
    for remedy in ("imagenet,starter", "PATH", "none with --head_epochs=0"):
        assert f"--weights={remedy}" in message
    assert len(message.splitlines()) <= 10
    assert [url.rpartition("/")[2] for url in offline] == [RESNET50_FILE]


# Files the user names.


@pytest.mark.parametrize("extension", [".weights.h5", ".h5", ".keras"])
def test_path_gives_bitwise_equal_variables(tiny, tmp_path, monkeypatch, extension):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / f"tiny{extension}"
    (tiny.save_weights if "weights" in extension else tiny.save)(file)
    backbone, found = weights.load_backbone("tiny", 32, [f"~/{file.name}"])
    assert_same_values(backbone, values_of(tiny))
    assert (found.used, found.file) == (f"~/{file.name}", str(file))


@pytest.mark.parametrize("extension", [".weights.h5", ".h5", ".keras"])
def test_damaged_file_is_one_short_reason(tiny, tmp_path, extension):
    garbage = tmp_path / f"garbage{extension}"
    garbage.write_bytes(b"no weights" * 100)
    assert reason_of(str(garbage)).startswith("cannot be read")
    whole = tmp_path / f"whole{extension}"
    (tiny.save_weights if "weights" in extension else tiny.save)(whole)
    truncated = tmp_path / f"truncated{extension}"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert reason_of(str(truncated)).startswith("cannot be read")


@pytest.mark.parametrize("extension", [".weights.h5", ".h5", ".keras"])
def test_other_network_is_one_short_reason(tmp_path, extension):
    inputs = x = keras.Input((32, 32, 3))
    for _ in range(40):  # enough for a list of hundreds of characters
        x = keras.layers.Conv2D(4, 1)(x)
    other = keras.Model(inputs, x)
    file = tmp_path / f"other{extension}"
    (other.save_weights if "weights" in extension else other.save)(file)
    assert reason_of(str(file)).startswith("does not fit tiny: ")


def test_absent_file_folder_and_other_extension_are_one_short_reason(tmp_path):
    assert reason_of(str(tmp_path / "absent.h5")) == "there is no such file"
    (tmp_path / "folder.keras").mkdir()
    assert reason_of(str(tmp_path / "folder.keras")) == "there is no such file"
    (tmp_path / "weights.npz").write_bytes(b"")
    assert "must end in" in reason_of(str(tmp_path / "weights.npz"))


def test_code_in_a_keras_file_does_not_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marker, file = tmp_path / "it_ran", tmp_path / "model.keras"
    touch = keras.layers.Lambda(lambda x: (open("it_ran", "w").close(), x)[1])
    keras.Model(tiny.input, touch(tiny.output)).save(file)
    marker.unlink()
    backbone, found = weights.load_backbone("tiny", 32, [str(file)])
    assert not marker.exists()
    assert found.used == str(file)
    assert_same_values(backbone, values_of(tiny))
    keras.models.load_model(file, safe_mode=False)
    assert marker.exists()  # so this test would have noticed


# Keras's published files.


def test_cached_file_is_used_offline(published, cache, offline):
    (cache / PUBLISHED_FILE).write_bytes(published)
    backbone, found = weights.load_backbone("tiny", 32, ["imagenet", "none"])
    assert found.used == "imagenet"
    assert found.file == str(cache / PUBLISHED_FILE)
    assert found.sha256 == hashlib.sha256(published).hexdigest()
    assert not offline


def test_cached_file_is_used_from_a_read_only_cache(
    published, cache, offline, monkeypatch
):
    (cache / PUBLISHED_FILE).write_bytes(published)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    _, found = weights.load_backbone("tiny", 32, ["imagenet"])
    assert found.file == str(cache / PUBLISHED_FILE)


def test_real_builder_loads_its_cached_file(cache, offline):
    source = model.make_backbone("mobilenet_v2", 32)
    file = cache / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    source.save(file)
    backbone, found = weights.load_backbone("mobilenet_v2", 32, ["imagenet"])
    assert (found.used, found.file) == ("imagenet", str(file))
    assert_same_values(backbone, values_of(source))
    file.write_bytes(file.read_bytes()[:10000])
    reason = reason_of("imagenet", "mobilenet_v2")
    assert reason.startswith(f"{file} cannot be read")
    assert file.stat().st_size == 10000
    assert not offline


def test_cached_file_with_a_wrong_hash_is_named_and_left_as_it_is(cache, offline):
    file = cache / RESNET50_FILE
    file.write_bytes(b"made by hand")
    before = file.stat()
    with pytest.raises(UserError, match="left untouched") as raised:
        weights.load_backbone("resnet50", 32, ["imagenet"])
    assert str(file) in str(raised.value) and RESNET50_HASH in str(raised.value)
    assert file.read_bytes() == b"made by hand"
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert list(cache.iterdir()) == [file]
    assert not offline


def test_absent_file_is_downloaded_once(published, server, cache, tiny, caplog):
    with caplog.at_level("INFO", "keras_ft"):
        backbone, found = weights.load_backbone("tiny", 32, ["imagenet"])
    assert_same_values(backbone, values_of(tiny))
    assert found.file == str(cache / PUBLISHED_FILE)
    assert (cache / PUBLISHED_FILE).read_bytes() == published
    assert list(cache.iterdir()) == [cache / PUBLISHED_FILE]
    assert f"downloading {server.url} ({len(published) / 1e6:.1f} MB)" in caplog.text
    weights.load_backbone("tiny", 32, ["imagenet"])
    assert server.requests == 1


def test_download_works_without_hard_links(published, cache, monkeypatch):
    def link(source, target):
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    weights.load_backbone("tiny", 32, ["imagenet"])
    assert (cache / PUBLISHED_FILE).read_bytes() == published
    assert list(cache.iterdir()) == [cache / PUBLISHED_FILE]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"body": b"a login page"}, "does not have the hash"),
        ({"length": 10**6}, "broke off after"),
        ({"status": 404}, "404"),
    ],
)
def test_failed_download_is_one_short_reason_and_leaves_nothing(
    published, server, cache, answer, reason
):
    vars(server).update(answer)
    assert reason in reason_of("imagenet")
    assert not list(cache.iterdir())


@pytest.mark.parametrize("same", [True, False])
def test_file_that_appears_during_a_download_stays(published, server, cache, same):
    rival = published if same else b"put there by another program"
    server.before_answer = lambda: (cache / PUBLISHED_FILE).write_bytes(rival)
    if same:
        _, found = weights.load_backbone("tiny", 32, ["imagenet"])
        assert found.file == str(cache / PUBLISHED_FILE)
    else:
        assert "another file" in reason_of("imagenet")
    assert (cache / PUBLISHED_FILE).read_bytes() == rival
    assert list(cache.iterdir()) == [cache / PUBLISHED_FILE]


@pytest.mark.parametrize("hangs", ["resolver", "server"])
def test_hanging_network_ends_within_five_seconds(
    published, server, monkeypatch, hangs
):
    release = threading.Event()
    if hangs == "server":
        server.before_answer = lambda: release.wait(20)
    else:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(20))
    start = time.monotonic()
    reason = reason_of("imagenet")
    assert time.monotonic() - start < 5
    assert "no answer within 4 seconds" in reason
    release.set()


def test_network_without_published_weights_is_one_short_reason(cache, offline):
    assert reason_of("imagenet").startswith("Keras gives none")


# The starter.


@pytest.fixture(scope="module")
def starter():
    return weights.load_backbone("resnet50", 48, ["starter"])


def test_starter_fills_every_variable_with_the_dequantised_value(starter):
    backbone, found = starter
    assert (found.used, found.file) == ("starter", str(weights.starter_path()))
    with np.load(found.file, allow_pickle=False) as stored:
        for path, value in values_of(backbone).items():
            expected = stored[path].astype(np.float32)
            if path.endswith("/kernel"):
                assert stored[path].dtype == np.int8
                expected = expected * stored[f"{path}_scale"]
            np.testing.assert_array_equal(value, expected, err_msg=path)


def test_starter_file_is_small_and_its_provenance_names_it(starter):
    _, found = starter
    assert os.path.getsize(found.file) <= 25e6
    provenance = pathlib.Path(found.file).with_name("PROVENANCE.txt").read_text()
    assert found.sha256 in provenance
    assert "research" in provenance and "21 %" in provenance


def test_starter_log_tells_its_terms(caplog, monkeypatch, tiny):
    monkeypatch.setattr(weights, "make_backbone", lambda name, image_size: tiny)
    monkeypatch.setattr(weights, "read_starter", lambda file: values_of(tiny))
    with caplog.at_level("INFO", "keras_ft"):
        weights.load_backbone("resnet50", 32, ["starter"])
    assert "Tiny-ImageNet" in caplog.text and "PROVENANCE.txt" in caplog.text


def test_starter_never_unpickles(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "it_ran",))

    array = np.array([Harmful()], dtype=object)
    np.savez(tmp_path / "a.npz", kernel=array)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        weights.read_starter(tmp_path / "a.npz")
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("conv2_bn/gamma"),
        lambda values: values.update(extra=np.zeros(1)),
        lambda values: values.update({"conv2_bn/gamma": np.zeros(1)}),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_values_that_do_not_match_every_variable_raise(tiny, change):
    before = values_of(tiny)
    values = {path: value + 1 for path, value in before.items()}
    change(values)
    with pytest.raises(ValueError, match="1 that do not, the first (extra|conv2_bn)"):
        weights.assign_variables(tiny, values)
    assert_same_values(tiny, before)


@pytest.mark.skipif(not FLOAT_FILE.exists(), reason="the float checkpoint is absent")
def test_starter_has_the_features_of_the_float_network(starter):
    float_network, _ = weights.load_backbone("resnet50", 48, [str(FLOAT_FILE)])
    photographs = skimage.data.lfw_subset()[..., None].repeat(3, axis=-1) * 255
    images = keras.ops.image.resize(photographs, (48, 48)) - [103.939, 116.779, 123.68]
    features = []
    for network in (starter[0], float_network):
        pooled = network.predict(images, batch_size=50, verbose=0).mean(axis=(1, 2))
        features.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
    assert np.sum(features[0] * features[1], axis=1).mean() >= 0.999
