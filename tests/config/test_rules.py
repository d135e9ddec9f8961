"""What is refused, and that the message names the rule and the value."""

import math

import pytest

from keras_ft.config import flags
from keras_ft.config.recipe import resolve
from keras_ft.config.settings import Config
from keras_ft.errors import UserError

BASE = {"workdir": "w", "data": "d"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 31}, "at least 32 for resnet50. Received: 31"),
        ({"image_size": "64x31"}, "at least 32 for resnet50. Received: 64x31"),
        ({"image_size": 0}, "pixels, HEIGHTxWIDTH, or auto. Received: 0"),
        ({"image_size": "64x"}, "pixels, HEIGHTxWIDTH, or auto. Received: '64x'"),
        ({"image_size": 64.5}, "pixels, HEIGHTxWIDTH, or auto. Received: 64.5"),
        ({"resize": "squash"}, "--resize must be one of stretch, crop, pad"),
        ({"unfreeze": "from:conv6"}, "conv1, conv2, conv3, conv4, conv5.*from:conv6"),
        ({"unfreeze": "conv5"}, "--unfreeze must be all, none, from:STAGE"),
        ({"optimizer": "lion"}, "must be one of sgd, adam. Received: lion$"),
        ({"optimizer": "adamw"}, "Received: adamw; give adam, whose weight decay is"),
        (
            {"monitor": "val_auc"},
            "--monitor must be one of val_calibrated_loss, val_loss",
        ),
        ({"batch_size": 0}, "--batch_size must be at least 1. Received: 0"),
        ({"head_learning_rate": 0.0}, "must be above 0. Received: 0.0"),
        (
            {"head_learning_rate": math.nan},
            "--head_learning_rate must be .* Received: nan",
        ),
        ({"dropout": 1.0}, "--dropout must be below 1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "must leave images to train"),
        (
            {"weights": ("none",), "head_epochs": 3},
            "--weights=none needs --head_epochs=0",
        ),
        ({"weights": ("none",), "finetune_epochs": 0}, "nothing to train"),
        ({"weights": ("imagenet", "none")}, "or none alone"),
        ({"weights": ()}, "--weights must be a list"),
        ({"weights": ("starter", "./w")}, "must not be the run's own --workdir"),
        ({"weights": ("w/model.keras",)}, "must not be the run's own --workdir"),
        ({"head_epochs": 0, "unfreeze": "none"}, "nothing to train"),
        ({"workdir": ""}, "needs --workdir"),
        ({"data": "caf\udce9"}, r"--data must be valid UTF-8.* 'caf\\udce9'"),
        ({"weights": ("starter", "caf\udce9.h5")}, "--weights must be valid UTF-8"),
        ({"mode": "predict", "workdir": ""}, "needs --model"),
        # The speed.
        ({"cache_features": "true"}, "must be one of auto, on, off. Received: true"),
        ({"cache_limit_gb": 0.0}, "--cache_limit_gb must be above 0. Received: 0.0"),
        ({"cache_limit_gb": math.nan}, "--cache_limit_gb must be .* Received: nan"),
        ({"feature_views": 0}, "--feature_views must be at least 1. Received: 0"),
        (
            {"feature_views": 2, "augment": "none"},
            "needs --augment.*Received: --feature_views=2",
        ),
        ({"mix": "cutout"}, "--mix must be one of none, mixup, cutmix"),
        (
            {"mix": "cutmix", "imbalance": "class_weights"},
            "--mix and --imbalance=class_weights exclude.* Received: --mix=cutmix",
        ),
        ({"mirror": True, "augment": "none"}, "--mirror needs --augment=light"),
        ({"fold_batch_norm": "auto"}, "must be one of on, off. Received: auto"),
        (
            {"precision": "bfloat16"},
            "one of auto, float32, mixed_bfloat16, mixed_float16. Received: bfloat16",
        ),
        (
            {"export_formats": ("onnx", "h5")},
            "litert_int8, onnx, openvino. Received: on",
        ),
        ({"export_formats": (), "mode": "export"}, "--mode=export needs --export_form"),
        ({"export_agreement": 1.5}, "--export_agreement must be at most 1"),
        ({"jit": "xla"}, "--jit must be one of on, off. Received: xla"),
        ({"jit": "on", "deterministic": True}, "--jit=on and --deterministic exclude"),
        ({"strategy": "tpu"}, "--strategy must be one of auto, none, mirrored"),
    ],
)
def test_broken_rules_name_rule_and_value(values, message):
    with pytest.raises(UserError, match=message) as error:
        Config(**{**BASE, **values})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"feature_views": 1},
        {"feature_views": 2, "augment": "light"},
        {"fold_batch_norm": "on", "batch_norm": "train"},
        {"jit": "on"},
        {"jit": "off", "deterministic": True},
        {"cache_limit_gb": 0.001},
    ],
)
def test_speed_is_refused_only_where_its_rules_are_broken(values):
    config = Config(**BASE, **values)
    assert values.items() <= {f.name: value for f, value in config.items()}.items()


@pytest.mark.parametrize("mode", ["evaluate", "predict", "export"])
def test_rules_for_training_do_not_hold_for_other_modes(mode):
    config = Config(**BASE, mode=mode, feature_views=2)
    assert config.speed.feature_views == 2


def test_tensorboard_is_checked_before_training(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'keras_ft\[tensorboard\]'"):
        Config(**BASE, tensorboard=True)


@pytest.mark.parametrize(
    ("mode", "values", "needed"),
    [
        ("train", {"port": 9}, "serve"),
        ("train", {"top_k": 5}, "predict"),
        ("train", {"model": "x"}, "evaluate or predict or serve"),
        ("train", {"sweep": "dropout=0|0.1"}, "compare"),
        ("evaluate", {"heatmaps": "x"}, "predict"),
        ("export", {"cluster": "ray"}, "compare or predict"),
        ("serve", {"overwrite": True}, "train or check or .*"),
    ],
)
def test_flags_of_other_modes_are_refused(mode, values, needed):
    [(name, value)] = values.items()
    message = f"--{name} needs --mode={needed}. Received: --{name}={value} .*{mode};"
    with pytest.raises(UserError, match=message):
        Config(**BASE, mode=mode, **values)
    with pytest.raises(UserError, match=f"--{name} needs"):
        flags.parse(["", "--workdir=w", f"--mode={mode}", f"--{name}={value}"])


@pytest.mark.parametrize("mode", ["check", "evaluate", "predict", "export", "serve"])
def test_flags_of_a_run_are_accepted_in_every_mode(mode):
    run = Config(**BASE, batch_size=5, export_formats=("saved_model",) * 2)
    arguments = [*flags.to_arguments(run), "--workdir=w", f"--mode={mode}"]
    assert flags.parse(["", *arguments]).recorded() == run.recorded()


def test_unknown_flag_is_an_error():
    with pytest.raises(UserError, match="no flag --learning_rate"):
        Config(**BASE, learning_rate=1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "mine"}, "--loss must be one of auto, py:MODULE:NAME. "),
        ({"loss": print}, "--loss takes no object.*give py:MODULE:NAME"),
        ({"loss": "py:mine"}, "--loss must have the form py:MODULE:NAME"),
        ({"callbacks": ("py:mine:a", "b")}, "--callbacks must .*Received: b"),
        ({"augment": "py:mine"}, "--augment must have the form"),
        ({"backbone": "py:mine:"}, "--backbone must have the form"),
        ({"loss": "py:mine:f", "imbalance": "focal"}, "exclude each other"),
        ({"augment": "py:mine:f", "mirror": True}, "--mirror needs --augment=light"),
        ({"backbone": "py:mine:f"}, "--image_size must be given for a network of"),
        (
            {"backbone": "py:mine:f", "image_size": 16, "weights": ("imagenet",)},
            "--weights of py:mine:f must be preset, none or a file",
        ),
    ],
)
def test_rules_of_the_users_own_code(values, message):
    with pytest.raises(UserError, match=message):
        Config(data="photos", workdir="run", **values)


def test_a_network_of_the_users_starts_with_its_own_weights():
    config = Config(data="photos", workdir="run", backbone="py:mine:f", image_size=16)
    assert resolve(config).model.weights == ("preset",)


@pytest.mark.parametrize(
    ("mode", "good", "bad"),
    [
        ("predict", "x.csv", ["x.JSON"]),
        ("check", "x.csv", ["x.JSON", "x.html"]),
        ("evaluate", "x.json", ["x.csv", "x.html"]),
    ],
)
def test_the_ending_of_the_output_is_that_of_what_is_written(mode, good, bad):
    flags = {"mode": mode, "data": "d", "workdir": "w"}
    Config(**flags, output=good)
    for output in bad:
        ending = output[1:].lower()
        with pytest.raises(UserError, match=f"not end in {ending}.*ceived: {output}"):
            Config(**flags, output=output)
