import hashlib
import os
import pathlib

import keras
import numpy as np
import pytest
import skimage.data
from helpers import ROOT, reason_not_used
from model_helpers import bits, randomise

from keras_ft.catalog.preference import find_image_size
from keras_ft.catalog.preprocessing import ImageSize
from keras_ft.errors import UserError
from keras_ft.models import weights
from keras_ft.models.classifier import make_backbone
from keras_ft.models.published import UnusableWeights

FLOAT_FILE = ROOT / "shared/weights/resnet50_tiny_imagenet.weights.h5"


def values_of(backbone):
    return {variable.path: variable.numpy() for variable in backbone.weights}


def save(network, file):
    """Writes a file of any of the kinds that `--weights` accepts."""
    (network.save_weights if "weights" in file.name else network.save)(file)
    return str(file)


@pytest.fixture
def tiny():
    """A tiny backbone in which no two variables, BatchNorm's included, are equal."""
    return randomise(make_backbone("tiny", (32, 32)))


each_kind = pytest.mark.parametrize("extension", [".weights.h5", ".h5", ".keras"])


# The preference list.


def test_first_usable_item_is_used_and_those_before_are_recorded(
    tiny, tmp_path, caplog
):
    file = tmp_path / "a.weights.h5"
    save(tiny, file)
    absent = str(tmp_path / "absent.h5")
    with caplog.at_level("INFO", "keras_ft"):
        backbone, found = weights.load_backbone(
            "tiny", (32, 32), [absent, "starter", str(file), "none"]
        )
    assert bits(backbone) == bits(tiny)
    assert found.used == found.file == str(file)
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [attempt["weights"] for attempt in found.attempts] == [absent, "starter"]
    assert "resnet50 only" in found.attempts[1]["error"]
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 3 and not any("\n" in line for line in logged)
    assert all(attempt["error"] in "".join(logged) for attempt in found.attempts)
    assert found.sha256 in logged[-1]


def test_a_file_of_weights_says_where_they_began(tiny, tmp_path):
    weights.save_backbone(tiny, tmp_path / "a.weights.h5", "starter")
    save(tiny, tmp_path / "b.weights.h5")
    save(tiny, tmp_path / "c.keras")
    for name, origin in (
        ("a.weights.h5", "starter"),
        ("b.weights.h5", ""),
        ("c.keras", ""),
    ):
        item = str(tmp_path / name)
        backbone, found = weights.load_backbone("tiny", (32, 32), [item])
        assert bits(backbone) == bits(tiny)
        assert found.origin == origin
    assert weights.load_backbone("tiny", (32, 32), ["none"])[1].origin == "none"


def test_a_file_of_weights_says_their_image_size(tmp_path):
    network = make_backbone("tiny", (16, 24))
    weights.save_backbone(network, tmp_path / "a.weights.h5", "none")
    save(network, tmp_path / "b.weights.h5")
    for name, size in (("a.weights.h5", (16, 24)), ("b.weights.h5", (32, 32))):
        assert find_image_size("tiny", str(tmp_path / name)) == size


def test_none_is_random_and_has_no_file(tmp_path):
    first, found = weights.load_backbone("tiny", (32, 32), ["none"])
    second, _ = weights.load_backbone("tiny", (32, 32), ["none"])
    assert found == weights.Weights("none", None, None, (), "none")
    kernels = [values_of(net)["conv1_conv/kernel"] for net in (first, second)]
    assert not np.array_equal(*kernels)


def test_exhausted_list_names_every_attempt_and_what_to_do(monkeypatch):
    def load_published(name, image_size):
        raise UnusableWeights("it is not there", "Put it there.")

    monkeypatch.setattr(weights, "load_published", load_published)
    with pytest.raises(UserError) as raised:
        weights.load_backbone("resnet50", (32, 32), ["imagenet", "absent.h5"])
    # One line, which a comparison shows as the reason why a run failed.
    assert str(raised.value) == (
        "--weights=imagenet,absent.h5: none of them can be used for resnet50: "
        "imagenet: it is not there; absent.h5: there is no such file. Put it there. "
        "Otherwise give starter, a workdir or a .weights.h5, .h5 or .keras file of "
        "this backbone, or none with --head_epochs=0."
    )


# Files the user names.


@each_kind
def test_path_gives_bitwise_equal_variables(tiny, tmp_path, monkeypatch, extension):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / f"tiny{extension}"
    save(tiny, file)
    backbone, found = weights.load_backbone("tiny", (32, 32), [f"~/{file.name}"])
    assert bits(backbone) == bits(tiny)
    assert (found.used, found.file) == (f"~/{file.name}", str(file))


def test_weights_of_keras_applications_are_loaded(tmp_path):
    network = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3)
    )
    file = save(network, tmp_path / "a.weights.h5")
    backbone, _ = weights.load_backbone("mobilenet_v2", (32, 32), [file])
    assert bits(backbone) == bits(network)


@each_kind
def test_damaged_file_is_one_short_reason(tiny, tmp_path, extension):
    garbage = tmp_path / f"garbage{extension}"
    garbage.write_bytes(b"no weights" * 100)
    assert reason_not_used(str(garbage)).startswith("cannot be read")
    whole = tmp_path / f"whole{extension}"
    save(tiny, whole)
    truncated = tmp_path / f"truncated{extension}"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert reason_not_used(str(truncated)).startswith("cannot be read")


@each_kind
def test_other_network_is_one_short_reason(tmp_path, extension):
    inputs = x = keras.Input((32, 32, 3))
    for _ in range(40):  # enough for a list of hundreds of characters
        x = keras.layers.Conv2D(4, 1)(x)
    other = keras.Model(inputs, x)
    file = save(other, tmp_path / f"other{extension}")
    assert reason_not_used(file).startswith("does not fit tiny: ")


def test_absent_file_folder_and_other_extension_are_one_short_reason(tmp_path):
    assert reason_not_used(str(tmp_path / "absent.h5")) == "there is no such file"
    (tmp_path / "folder.keras").mkdir()
    assert reason_not_used(str(tmp_path / "folder.keras")).startswith(
        "there is no model.keras"
    )
    (tmp_path / "weights.npz").write_bytes(b"")
    assert "must end in" in reason_not_used(str(tmp_path / "weights.npz"))


def test_code_in_a_keras_file_does_not_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marker, file = tmp_path / "it_ran", tmp_path / "model.keras"
    touch = keras.layers.Lambda(lambda x: (open("it_ran", "w").close(), x)[1])
    keras.Model(tiny.input, touch(tiny.output)).save(file)
    marker.unlink()
    backbone, found = weights.load_backbone("tiny", (32, 32), [str(file)])
    assert not marker.exists()
    assert found.used == str(file)
    assert bits(backbone) == bits(tiny)
    keras.models.load_model(file, safe_mode=False)
    assert marker.exists()  # so this test would have noticed


# The starter.


@pytest.fixture(scope="module")
def starter():
    return weights.load_backbone("resnet50", (48, 48), ["starter"])


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


def test_starter_log_states_its_licence(caplog, monkeypatch, tiny):
    monkeypatch.setattr(weights, "make_backbone", lambda name, image_size: tiny)
    monkeypatch.setattr(weights, "read_starter", lambda file: values_of(tiny))
    with caplog.at_level("INFO", "keras_ft"):
        weights.load_backbone("resnet50", (32, 32), ["starter"])
    assert "Tiny-ImageNet" in caplog.text and "PROVENANCE.txt" in caplog.text


@pytest.mark.parametrize(
    ("image_size", "is_large"),
    [(None, 0), (ImageSize(64, 64), 0), (ImageSize(64, 96), 1)],
)
def test_starter_log_suggests_smaller_images(
    caplog, monkeypatch, tiny, image_size, is_large
):
    monkeypatch.setattr(weights, "make_backbone", lambda name, image_size: tiny)
    monkeypatch.setattr(weights, "read_starter", lambda file: values_of(tiny))
    with caplog.at_level("INFO", "keras_ft"):
        weights.load_backbone("resnet50", image_size, ["starter"])
    assert caplog.text.count("--image_size=48 or 64") == is_large
    assert ("than 64x96" in caplog.text) == is_large


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
    before = bits(tiny)
    values = {path: value + 1 for path, value in values_of(tiny).items()}
    change(values)
    with pytest.raises(ValueError, match="1 that do not, the first (extra|conv2_bn)"):
        weights.assign_variables(tiny, values)
    assert bits(tiny) == before


@pytest.mark.skipif(not FLOAT_FILE.exists(), reason="the float checkpoint is absent")
def test_starter_has_the_features_of_the_float_network(starter):
    float_network, _ = weights.load_backbone("resnet50", (48, 48), [str(FLOAT_FILE)])
    photographs = skimage.data.lfw_subset()[..., None].repeat(3, axis=-1) * 255
    images = keras.ops.image.resize(photographs, (48, 48)) - [103.939, 116.779, 123.68]
    features = []
    for network in (starter[0], float_network):
        pooled = network.predict(images, batch_size=50, verbose=0).mean(axis=(1, 2))
        features.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
    assert np.sum(features[0] * features[1], axis=1).mean() >= 0.999
