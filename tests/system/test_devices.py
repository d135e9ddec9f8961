"""Precision and devices."""

import keras
import pytest
import tensorflow as tf

from keras_ft.errors import UserError
from keras_ft.host import cpu, onednn
from keras_ft.jobs.train import train
from keras_ft.system import devices

GPU = "/physical_device:GPU:0"
PLAIN = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Conv2D(2, 3)])
DEPTHWISE = keras.Sequential(
    [keras.Input((4, 4, 3)), keras.Sequential([keras.layers.DepthwiseConv2D(3)])]
)


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: [])


@pytest.fixture
def with_gpu(monkeypatch):
    """Gives the machine a GPU with these details."""

    def give(details):
        experimental = tf.config.experimental
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [GPU])
        monkeypatch.setattr(experimental, "get_device_details", lambda gpu: details)

    return give


@pytest.mark.parametrize("requested", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("cpu_flags", [set(), {"amx_bf16"}])
def test_a_requested_precision_is_used(requested, cpu_flags, without_gpu, monkeypatch):
    monkeypatch.setattr(cpu, "flags", lambda: cpu_flags)
    assert devices.choose_precision(requested, PLAIN) == requested


@pytest.mark.parametrize(
    ("cpu_flags", "with_onednn", "expected"),
    [
        ({"GenuineIntel", "amx_bf16", "avx512_bf16"}, True, "mixed_bfloat16"),
        ({"GenuineIntel", "avx512_bf16"}, True, "float32"),
        ({"AuthenticAMD", "avx512_bf16"}, True, "mixed_bfloat16"),
        ({"AuthenticAMD", "avx512_bf16"}, False, "float32"),
        ({"AuthenticAMD", "avx2"}, True, "float32"),
        (set(), True, "float32"),
    ],
)
def test_auto_is_bfloat16_on_a_cpu_that_is_fast_at_it(
    cpu_flags, with_onednn, expected, without_gpu, monkeypatch, caplog
):
    monkeypatch.setattr(cpu, "flags", lambda: cpu_flags)
    monkeypatch.setattr(onednn, "is_on", lambda: with_onednn)
    with caplog.at_level("INFO"):
        assert devices.choose_precision("auto", PLAIN) == expected
    reason = "with" if expected == "mixed_bfloat16" else "without"
    assert caplog.messages == [f"Precision: {expected} (CPU {reason} fast bfloat16)."]


@pytest.mark.parametrize(
    ("cpu_flags", "expected"),
    [
        ({"AuthenticAMD", "avx512_bf16"}, "float32"),
        ({"GenuineIntel", "amx_bf16"}, "mixed_bfloat16"),
    ],
)
def test_auto_is_float32_for_depthwise_convolutions_on_amd(
    cpu_flags, expected, without_gpu, monkeypatch
):
    monkeypatch.setattr(cpu, "flags", lambda: cpu_flags)
    monkeypatch.setattr(onednn, "is_on", lambda: True)
    assert devices.choose_precision("auto", DEPTHWISE) == expected


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"compute_capability": (9, 0)}, "mixed_bfloat16"),
        ({"compute_capability": (8, 0)}, "mixed_bfloat16"),
        ({"compute_capability": (7, 5)}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_is_bfloat16_on_a_gpu_since_ampere(
    details, expected, with_gpu, monkeypatch
):
    with_gpu(details)
    cpu_flags = set() if expected == "mixed_bfloat16" else {"amx_bf16"}
    monkeypatch.setattr(cpu, "flags", lambda: cpu_flags)
    assert devices.choose_precision("auto", PLAIN) == expected


def test_float16_is_taken_on_a_gpu_and_refused_without(with_gpu, monkeypatch):
    with_gpu({"compute_capability": (7, 5)})
    assert devices.choose_precision("mixed_float16", PLAIN) == "mixed_float16"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(UserError, match="mixed_float16 needs a GPU.*--precision=auto"):
        devices.choose_precision("mixed_float16", PLAIN)


@pytest.fixture
def unused_gpu(without_gpu, monkeypatch, tmp_path):
    """A machine with a GPU that TensorFlow does not see; returns its /dev."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # without nvidia-smi
    monkeypatch.setattr(devices, "_DEVICE_FILES", tmp_path)
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "nvidia0").touch()
    return tmp_path


def make_nvidia_smi(folder, script):
    """Makes a stand-in for nvidia-smi."""
    (folder / "bin").mkdir()
    file = folder / "bin" / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("build", "installed", "reason"),
    [
        ({"is_cuda_build": False}, False, "it is a build for CPUs only."),
        ({"is_cuda_build": True}, False, "the CUDA libraries are not installed."),
        (
            {"is_cuda_build": True, "cuda_version": "12.5.1"},
            True,
            "the driver is too old for CUDA 12.5.1, or",
        ),
    ],
)
def test_an_unused_gpu_is_one_warning_with_the_likely_reason(
    unused_gpu, monkeypatch, caplog, build, installed, reason
):
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: build)
    monkeypatch.setattr(devices, "_is_installed", lambda package: installed)
    devices.warn_of_unused_gpu()
    [line] = caplog.messages
    begin = "TensorFlow does not see this machine's GPU. Probably "
    assert line.startswith(begin + reason)
    assert "pip install 'keras_ft[cuda]'" in line


def test_a_gpu_is_not_reported_where_there_is_none(unused_gpu, caplog):
    (unused_gpu / "nvidia0").unlink()  # nvidiactl remains
    devices.warn_of_unused_gpu()
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'GPU 0: NVIDIA A100 (UUID: GPU-1)'", True),
        ("echo 'No devices found.'", False),
        ("echo 'NVIDIA-SMI has failed'; exit 9", False),
    ],
)
def test_nvidia_smi_finds_a_gpu_without_a_device_file(
    unused_gpu, caplog, script, found
):
    (unused_gpu / "nvidia0").unlink()
    make_nvidia_smi(unused_gpu, script)
    devices.warn_of_unused_gpu()
    assert len(caplog.messages) == found


@pytest.mark.parametrize(
    ("visible", "hidden"),
    [
        *(("", True), ("-1", True), ("NoDevFiles", True)),
        *(("0", False), ("1,2", False), ("GPU-8932f937", False)),
    ],
)
def test_a_gpu_that_the_user_hides_is_not_reported(
    unused_gpu, monkeypatch, caplog, visible, hidden
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    devices.warn_of_unused_gpu()
    assert (caplog.messages == []) == hidden


def test_a_gpu_that_is_used_is_not_reported(unused_gpu, with_gpu, caplog):
    with_gpu({})
    devices.warn_of_unused_gpu()
    assert caplog.messages == []


def test_an_unused_gpu_is_reported_when_a_run_begins(
    unused_gpu, fake_training, tiny_config, caplog
):
    train(tiny_config)
    assert "does not see this machine's GPU" in caplog.text


def test_precision_holds_inside_its_block_only():
    keras.config.set_dtype_policy("float32")
    with devices.precision("mixed_bfloat16"):
        inside = keras.layers.Dense(1)
    assert inside.compute_dtype == "bfloat16"
    assert inside.variable_dtype == "float32"
    assert keras.layers.Dense(1).compute_dtype == "float32"


def test_precision_is_restored_also_after_an_error():
    with devices.precision("mixed_float16"):
        with pytest.raises(KeyError), devices.precision("mixed_bfloat16"):
            raise KeyError
        assert keras.config.dtype_policy().name == "mixed_float16"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize(
    ("requested", "num_gpus", "mirrored"),
    [
        ("auto", 0, None),
        ("auto", 1, None),
        ("auto", 2, "GPU"),
        ("none", 0, None),
        ("none", 2, None),
        ("mirrored", 0, "CPU"),
        ("mirrored", 1, "GPU"),
        ("mirrored", 2, "GPU"),
    ],
)
def test_auto_mirrors_over_several_gpus(requested, num_gpus, mirrored, monkeypatch):
    available = {
        kind: [tf.config.LogicalDevice(f"{kind}:{i}", kind) for i in range(count)]
        for kind, count in (("GPU", num_gpus), ("CPU", 2))
    }
    monkeypatch.setattr(tf.config, "list_logical_devices", available.get)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", list)
    strategy = devices.make_strategy(requested, batch_size=2)
    if not mirrored:
        assert strategy is tf.distribute.get_strategy()
        return
    assert strategy == [device.name for device in available[mirrored]]
    if len(strategy) == 2:
        message = "a multiple of the number of devices, 2. Received: 1"
        with pytest.raises(UserError, match=message):
            devices.make_strategy(requested, batch_size=1)
