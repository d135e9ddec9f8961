"""What the files of a network of KerasHub say, before TensorFlow is imported."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from hub_helpers import PRETRAINED_CFG, resnet_tensors, write_json

pytest.importorskip("keras_hub", reason="needs the extra hub")

from keras_ft.config.recipe import resolve
from keras_ft.config.settings import Config
from keras_ft.errors import UserError
from keras_ft.extras.hub import presets

KERAS_HUB = {"class_name": "ViTBackbone", "config": {"num_layers": 3}}
CLIP = {"model_type": "clip", "vision_config": {"num_hidden_layers": 2}}


@pytest.mark.parametrize(
    ("config", "origin", "last_stage", "image_size"),
    [
        ({"class_name": "ResNetBackbone", "config": {}}, "keras_hub", "stage5", 224),
        (KERAS_HUB, "keras_hub", "block3", 224),
        (
            {"architecture": "resnet50", "pretrained_cfg": PRETRAINED_CFG},
            *("timm", "stage5", 64),
        ),
        (
            {"model_type": "dinov2", "num_hidden_layers": 4, "image_size": 98},
            *("hugging_face", "block4", 98),
        ),
        (CLIP, "hugging_face", "block2", 224),
        (
            {"model_type": "swin", "depths": [1, 2, 3], "num_hidden_layers": 0},
            *("hugging_face", "stage3", 224),
        ),
    ],
)
def test_stages_and_image_size_are_read(
    tmp_path, config, origin, last_stage, image_size
):
    write_json(tmp_path / "config.json", config)
    preset = presets.read_preset(str(tmp_path))
    assert preset.origin == origin
    assert preset.stages[-1] == last_stage
    assert preset.image_size == image_size


def test_image_size_of_the_converter_comes_first(tmp_path):
    write_json(tmp_path / "config.json", KERAS_HUB)
    converter = {"config": {"image_size": [40, 40]}}
    write_json(tmp_path / "image_converter.json", converter)
    assert presets.read_preset(str(tmp_path)).image_size == 40


def test_another_normalisation_is_another_network(tmp_path):
    digests = set()
    for name in ("a", "b"):
        write_json(tmp_path / name / "config.json", KERAS_HUB)
        write_json(tmp_path / name / "image_converter.json", {"name": name})
        digests.add(presets.read_preset(str(tmp_path / name)).digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"class_name": "BertBackbone", "config": {}}, "BertBackbone"),
        ({"architecture": "mobilenetv5_300m"}, "mobilenetv5_300m"),
        ({"model_type": "convnext"}, "convnext"),
        (None, "must contain config.json"),
    ],
)
def test_other_networks_are_refused(tmp_path, config, reason):
    if config:
        write_json(tmp_path / "config.json", config)
    with pytest.raises(UserError, match=reason):
        presets.read_preset(str(tmp_path))


@pytest.mark.parametrize("inside", [False, True])
def test_pickled_weights_are_refused_with_the_code_that_converts_them(tmp_path, inside):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        presets.read_preset(str(tmp_path if inside else file))
    _, *code = str(caught.value).splitlines()
    assert len(code) == 2
    compile("\n".join(line.strip() for line in code), "code", "exec")
    assert "weights_only=True" in code[1] and str(file) in code[1]


def test_a_safetensors_file_of_a_resnet_is_recognised(tmp_path):
    from safetensors.numpy import save_file

    file = tmp_path / "weights.safetensors"
    save_file(resnet_tensors(), file)
    preset = presets.read_preset(str(file))
    assert preset.config["architecture"] == "resnet18"
    tensors = resnet_tensors() | {"layer1.0.se.fc1.weight": np.zeros(1, "float32")}
    save_file(tensors, tmp_path / "se.safetensors")
    with pytest.raises(UserError, match="resnet18 to resnet152"):
        presets.read_preset(str(tmp_path / "se.safetensors"))
    (tmp_path / "no.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(UserError, match="must be a .safetensors file"):
        presets.read_preset(str(tmp_path / "no.safetensors"))


def test_keras_hub_is_named_if_it_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'keras_ft\[hub\]'"):
        presets.read_preset(str(tmp_path))


# --- flags ---------------------------------------------------------------------------


def flags(folder, **others):
    return {"data": "x", "workdir": "y", "backbone": f"hub:{folder}"} | others


@pytest.fixture
def folder(tmp_path):
    write_json(tmp_path / "config.json", KERAS_HUB)
    return tmp_path


def test_weights_of_the_preset_are_the_default(folder):
    assert resolve(Config(**flags(folder))).model.weights == ("preset",)
    config = Config(**flags(folder, weights="none", head_epochs=0))
    assert config.model.from_scratch


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"weights": "imagenet"}, "must be preset, none or a file"),
        ({"weights": ("imagenet", "starter")}, "must be preset, none or a file"),
        ({"unfreeze": "from:conv5"}, "embedding, block1, block2, block3"),
        ({"backbone": "resnet50", "weights": "preset"}, "must be imagenet, starter"),
        ({"backbone": "hub:"}, "must be one of"),
        ({"backbone": "hub:/no/such/folder"}, "does not exist"),
        ({"backbone": "hub:resnet_18_imagenet"}, "--image_size must be given"),
    ],
)
def test_flags_that_do_not_fit_are_refused(folder, others, reason):
    with pytest.raises(UserError, match=reason):
        Config(**flags(folder, **others))


def test_stages_of_a_preset_to_download_are_checked_when_it_is_loaded():
    config = Config(**flags("resnet_18_imagenet", image_size=64, unfreeze="from:x"))
    assert resolve(config).make_phases(10)[-1].stages == ("x",)


def test_mistakes_are_found_without_tensorflow(folder):
    arguments = [f"--backbone=hub:{folder}", "--unfreeze=from:x", "--data=x"]
    code = (
        "import sys; sys.modules['tensorflow'] = None; from keras_ft import cli; "
        f"sys.exit(cli.main(['', '--workdir=y', *{json.dumps(arguments)}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "stage of hub:" in done.stderr
