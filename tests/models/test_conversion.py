"""Checkpoints of PyTorch that KerasHub converts."""

import dataclasses
import logging

import numpy as np
import pytest
from hub_helpers import (
    PRETRAINED_CFG,
    make_preset,
    resnet_tensors,
    write_json,
)
from model_helpers import make_pixels

pytest.importorskip("keras_hub", reason="needs the extra hub")

from safetensors.numpy import save_file

from keras_ft.catalog import presets
from keras_ft.errors import UserError
from keras_ft.models import hub
from keras_ft.models.conversion import check_conversion, compute_resnet


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A .safetensors file of a ResNet18."""
    file = tmp_path_factory.mktemp("checkpoint") / "resnet18.safetensors"
    save_file(resnet_tensors(), file)
    return file


@pytest.fixture
def converted(checkpoint):
    """The converted network and its preset."""
    backbone = hub.make_network(f"hub:{checkpoint}", (32, 32), load_weights=True)
    return backbone, presets.read_preset(str(checkpoint))


def test_a_converted_resnet_computes_what_its_tensors_say(converted, caplog):
    backbone, _ = converted
    pixels = make_pixels(32)
    config = PRETRAINED_CFG
    images = (pixels / 255 - np.array(config["mean"])) / np.array(config["std"])
    expected = compute_resnet(resnet_tensors(), images.astype("float32"))
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(backbone(pixels), expected, rtol=0, atol=tolerance)


def test_the_check_is_logged(checkpoint, caplog):
    with caplog.at_level(logging.INFO):
        hub.make_network(f"hub:{checkpoint}", (32, 32), load_weights=True)
    assert "was checked on a photograph" in caplog.text


def test_a_wrong_normalisation_is_refused(converted, checkpoint):
    backbone, preset = converted
    config = {"pretrained_cfg": PRETRAINED_CFG | {"mean": [0.0, 0.0, 0.0]}}
    preset = dataclasses.replace(preset, config=config)
    with pytest.raises(UserError, match="on a photograph, features differ"):
        check_conversion(backbone, preset, checkpoint)


def test_values_that_are_not_in_the_checkpoint_are_refused(converted, checkpoint):
    backbone, preset = converted
    gamma = backbone.get_layer("conv1_bn").gamma
    gamma.assign(gamma * 2)
    with pytest.raises(UserError, match=r"1 of 100 variables .* conv1_bn/gamma"):
        check_conversion(backbone, preset, checkpoint)


def test_exchanged_values_are_refused(converted, checkpoint):
    backbone, preset = converted
    first, second = (backbone.get_layer(f"stack0_block0_{i}_conv") for i in (1, 2))
    values = first.get_weights(), second.get_weights()
    first.set_weights(values[1])
    second.set_weights(values[0])
    with pytest.raises(UserError, match="on a photograph, features differ"):
        check_conversion(backbone, preset, checkpoint)


def test_padding_unlike_pytorch_is_refused(tmp_path, checkpoint):
    # DenseNet of KerasHub 0.32: features of converted weights are wrong by 12 %.
    folder = make_preset(tmp_path, "densenet")
    backbone = hub.make_network(f"hub:{folder}", (32, 32), load_weights=True)
    preset = dataclasses.replace(presets.read_preset(str(folder)), origin="timm")
    with pytest.raises(UserError, match="layer conv1_conv pads its input unlike"):
        check_conversion(backbone, preset, checkpoint)


def test_a_network_that_cant_be_checked_is_said_to_be_unchecked(tmp_path, caplog):
    folder = make_preset(tmp_path, "vgg")
    backbone = hub.make_network(f"hub:{folder}", (32, 32), load_weights=True)
    tensors = {v.path.replace("/", "."): v.numpy() for v in backbone.variables}
    save_file(tensors, tmp_path / "vgg.safetensors")
    preset = presets.read_preset(str(folder))
    check_conversion(backbone, preset, tmp_path / "vgg.safetensors")
    assert "was not checked on an image" in caplog.text


@pytest.mark.slow
def test_resnet50_of_timm_equals_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = resnet_tensors((3, 4, 6, 3), bottleneck=True)
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"architecture": "resnet50", "pretrained_cfg": PRETRAINED_CFG}
    write_json(tmp_path / "config.json", config)
    backbone = hub.make_network(f"hub:{tmp_path}", (64, 64), load_weights=True)
    pixels = make_pixels(64, batch=2)
    mean, std = np.array(PRETRAINED_CFG["mean"]), np.array(PRETRAINED_CFG["std"])
    images = ((pixels / 255 - mean) / std).astype("float32").transpose(0, 3, 1, 2)
    weights = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    expected = _run_torch(torch, weights, torch.from_numpy(images.copy()))
    expected = expected.permute(0, 2, 3, 1).numpy()
    tolerance = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(backbone(pixels), expected, rtol=0, atol=tolerance)


def _run_torch(torch, weights, x):
    """ResNet50 as torchvision defines it, in functions of PyTorch."""
    functional = torch.nn.functional

    def convolve(x, conv, norm, stride=1):
        kernel = weights[f"{conv}.weight"]
        x = functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(weights[f"{norm}.{name}"] for name in names))

    x = functional.relu(convolve(x, "conv1", "bn1", 2))
    x = functional.max_pool2d(x, 3, 2, padding=1)
    for i, count in enumerate((3, 4, 6, 3), 1):
        for j in range(count):
            name, stride = f"layer{i}.{j}", 2 if i > 1 and j == 0 else 1
            y = functional.relu(convolve(x, f"{name}.conv1", f"{name}.bn1"))
            y = functional.relu(convolve(y, f"{name}.conv2", f"{name}.bn2", stride))
            y = convolve(y, f"{name}.conv3", f"{name}.bn3")
            if j == 0:
                shortcut = f"{name}.downsample"
                x = convolve(x, f"{shortcut}.0", f"{shortcut}.1", stride)
            x = functional.relu(x + y)
    return x
