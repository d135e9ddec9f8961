import math

import pytest

from keras_ft.backbones import BACKBONES
from keras_ft.config import Phase, UserError
from keras_ft.rules import make_config

BASE = {"workdir": "w", "data": "d"}


def test_image_size_defaults_to_the_backbones_own():
    config = make_config(**BASE, backbone="efficientnet_v2_b1")
    assert config.data.image_size == BACKBONES["efficientnet_v2_b1"].image_size


def test_phases_are_head_then_finetune():
    config = make_config(**BASE, head_epochs=2, finetune_epochs=3, unfreeze="to:conv2")
    train = config.train
    assert config.phases == (
        Phase("head", 2, train.head_learning_rate, "none"),
        Phase("finetune", 3, train.finetune_learning_rate, "to:conv2"),
    )


def test_unfreeze_none_leaves_only_the_head_phase():
    config = make_config(**BASE, unfreeze="none")
    assert [phase.name for phase in config.phases] == ["head"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"weights": ("none",), "head_epochs": 0}, "train"),
        ({"weights": ("starter",)}, "fixed"),
        ({"weights": ("starter",), "batch_norm": "train"}, "train"),
    ],
)
def test_batch_norm_auto_trains_only_random_networks(flags, expected):
    assert make_config(**BASE, **flags).model.resolved_batch_norm == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"image_size": 31}, "at least 32 for resnet50. Received: 31"),
        ({"unfreeze": "from:conv6"}, "conv1, conv2, conv3, conv4, conv5.*from:conv6"),
        ({"unfreeze": "conv5"}, "--unfreeze must be all, none, from:STAGE"),
        ({"optimizer": "lion"}, "must be one of sgd, adam, adamw. Received: lion"),
        ({"monitor": "val_auc"}, "--monitor must be one of val_loss, val_accuracy"),
        ({"batch_size": 0}, "--batch_size must be at least 1. Received: 0"),
        ({"head_learning_rate": 0.0}, "must be above 0. Received: 0.0"),
        (
            {"head_learning_rate": math.nan},
            "--head_learning_rate must be .* Received: nan",
        ),
        ({"dropout": 1.0}, "--dropout must be below 1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "must leave images to train"),
        ({"weights": ("none",)}, "--weights=none needs --head_epochs=0"),
        ({"weights": ("imagenet", "none")}, "or none alone"),
        ({"weights": ()}, "--weights must be a list"),
        ({"head_epochs": 0, "unfreeze": "none"}, "nothing to train"),
        ({"workdir": ""}, "needs --workdir"),
        ({"data": ""}, "needs --data"),
        ({"mode": "predict", "workdir": ""}, "needs --model"),
    ],
)
def test_broken_rules_name_rule_and_value(flags, message):
    with pytest.raises(UserError, match=message) as error:
        make_config(**{**BASE, **flags})
    assert "\n" not in str(error.value)


def test_tensorboard_is_checked_before_training(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'keras_ft\[tensorboard\]'"):
        make_config(**BASE, tensorboard=True)


def test_unknown_name_is_a_type_error():
    with pytest.raises(TypeError, match="learning_rate"):
        make_config(**BASE, learning_rate=1.0)
