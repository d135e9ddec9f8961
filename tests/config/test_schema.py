"""What the flags are, and what follows from them."""

import dataclasses
import os
import subprocess
import sys
from collections import Counter

import pytest

from keras_ft.config.phases import Phase
from keras_ft.config.settings import SECTIONS, Config

BASE = {"workdir": "w", "data": "d"}


def test_every_flag_has_a_name_of_its_own_and_help():
    fields = [field for field, _ in Config(**BASE).items()]
    assert Counter(field.name for field in fields).most_common(1)[0][1] == 1
    assert sum(len(dataclasses.fields(s)) for s in SECTIONS.values()) == len(fields)
    assert all(field.metadata["help"] for field in fields)


def test_defaults_keep_the_rules_and_stay_as_they_are():
    config = Config(**BASE)
    changed = {
        field.name: value for field, value in config.items() if value != field.default
    }
    filled = {"finetune_learning_rate": 3e-4, "weight_decay": 0.0, "warmup_epochs": 1}
    assert changed == {**BASE, **filled, "image_size": (224, 224)}


def test_phases_are_head_then_finetune():
    config = Config(**BASE, head_epochs=2, finetune_epochs=3, unfreeze="to:conv2")
    train = config.train
    assert config.make_phases(100) == (
        Phase("head", 2, train.head_learning_rate, ()),
        Phase("finetune", 3, train.finetune_learning_rate, ("conv1", "conv2")),
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"unfreeze": "none"}, ["head"]),
        ({"finetune_epochs": 0}, ["head"]),
        ({"head_epochs": 0}, ["finetune"]),
    ],
)
def test_phase_without_epochs_or_learning_stages_is_left_out(flags, expected):
    config = Config(**BASE, **flags)
    assert [phase.name for phase in config.make_phases(100)] == expected


@pytest.mark.parametrize(
    ("num_train", "head", "finetune"),
    [
        (1, 100, 30),
        (50, 100, 30),  # 2 steps per epoch
        (640, 25, 15),  # 20 steps
        (1600, 10, 7),
        (1601, 10, 7),  # 51 steps
        (3200, 5, 7),
        (1_000_000, 5, 7),
    ],
)
def test_auto_epochs_aim_at_a_number_of_steps(num_train, head, finetune):
    phases = Config(**BASE).make_phases(num_train)
    assert [phase.epochs for phase in phases] == [head, finetune]


def test_given_epochs_are_kept():
    phases = Config(**BASE, head_epochs=2, finetune_epochs=0).make_phases(50)
    assert [(phase.name, phase.epochs) for phase in phases] == [("head", 2)]


def test_short_epochs_make_auto_epochs_more():
    config = Config(**BASE, steps_per_epoch=20)
    # 500 and 300 steps, as with epochs of any length.
    assert [phase.epochs for phase in config.make_phases(3200)] == [25, 15]
    assert config.steps_per_epoch(3200) == 20
    assert config.steps_per_epoch(64) == 2


def test_auto_epochs_leave_out_the_head_without_weights():
    config = Config(**BASE, weights=("none",))
    # From scratch it takes 10,000 steps, and 30 to 100 epochs.
    phases = config.make_phases(3200)
    assert [(p.name, p.epochs) for p in phases] == [("finetune", 100)]
    assert config.make_phases(1) == phases
    assert [phase.epochs for phase in config.make_phases(10**6)] == [30]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, (3e-4, 0.0, 1)),
        ({"weights": ("none",)}, (1e-3, 0.05, 5)),
        ({"weights": ("none",), "optimizer": "sgd"}, (0.0125, 1e-3, 5)),
        ({"weights": ("none",), "weight_decay": 0.0}, (1e-3, 0.0, 5)),
        ({"finetune_learning_rate": 0.5, "warmup_epochs": 0}, (0.5, 0.0, 0)),
    ],
)
def test_random_weights_get_the_recipe_that_they_need(flags, expected):
    train = Config(**BASE, **flags).train
    found = train.finetune_learning_rate, train.weight_decay, train.warmup_epochs
    assert found == expected


def test_replace_resolves_auto_again():
    config = Config(**BASE)
    assert config.train.finetune_learning_rate == 3e-4
    changed = config.replace(weights=("none",))
    assert changed == Config(**BASE, weights=("none",))
    assert changed.train.finetune_learning_rate == 1e-3
    assert changed.replace(weights=("starter",)).train.finetune_learning_rate == 3e-4
    kept = Config(**BASE, finetune_learning_rate=0.5).replace(weights=("none",))
    assert kept.train.finetune_learning_rate == 0.5


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"weights": ("none",), "head_epochs": 0}, "train"),
        ({"weights": ("none",), "head_epochs": 0, "batch_norm": "fixed"}, "fixed"),
        ({"weights": ("starter",)}, "fixed"),
        ({"weights": ("starter",), "batch_norm": "train"}, "train"),
    ],
)
def test_batch_norm_auto_trains_only_random_networks(flags, expected):
    assert Config(**BASE, **flags).model.resolved_batch_norm == expected


def test_flags_of_speed_that_change_the_result_say_so():
    # A finished run is refused with another value of these (see workdir.py).
    affecting = {
        field.name
        for field in dataclasses.fields(SECTIONS["speed"])
        if field.metadata["affects_result"]
    }
    assert affecting == {"feature_views", "fold_batch_norm", "precision", "jit"}


@pytest.mark.parametrize(
    ("xdg", "expected"), [("/x", "/x/keras_ft"), ("", "~/.cache/keras_ft")]
)
def test_cache_dir_defaults_to_the_users_cache(xdg, expected):
    code = (
        "from keras_ft.config.schema import DataConfig; print(DataConfig().cache_dir)"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", code],
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": xdg},
    )
    assert output.strip() == expected
