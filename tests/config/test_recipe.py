"""What follows from flags that are `auto`."""

import pytest

from keras_ft.catalog.preprocessing import ImageSize, Preprocessing
from keras_ft.config import flags
from keras_ft.config.recipe import Phase, resolve
from keras_ft.config.settings import Config

BASE = {"workdir": "w", "data": "d"}


def make_recipe(**values):
    return resolve(Config(**BASE, **values))


def test_the_image_size_is_known_when_the_weights_are_found():
    recipe = make_recipe(resize="pad")
    with pytest.raises(ValueError, match="must be known"):
        recipe.data.preprocessing  # noqa: B018
    sized = recipe.with_image_size(ImageSize(64, 96))
    assert sized.data.preprocessing == Preprocessing(64, 96, "pad")
    assert sized.config == recipe.config  # flags.cfg still has `auto`


def test_flags_are_recorded_with_what_other_flags_decide():
    recipe = make_recipe()
    text = flags.to_flagfile(recipe.config)
    for argument in (
        *("weights=imagenet,starter", "image_size=auto", "warmup_epochs=1"),
        *("finetune_learning_rate=0.0003", "weight_decay=0.0"),
        *("batch_norm=auto", "precision=auto"),
        *("head_epochs=auto", "finetune_epochs=auto", "patience=auto"),
    ):
        assert f"--{argument}\n" in text
    assert resolve(recipe.config) == recipe


def test_phases_are_head_then_finetune():
    recipe = make_recipe(head_epochs=2, finetune_epochs=3, unfreeze="to:conv2")
    train = recipe.train
    assert recipe.make_phases(100) == (
        Phase("head", 2, train.head_learning_rate, ()),
        Phase("finetune", 3, train.finetune_learning_rate, ("conv1", "conv2")),
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"unfreeze": "none"}, ["head"]),
        ({"finetune_epochs": 0}, ["head"]),
        ({"head_epochs": 0}, ["finetune"]),
    ],
)
def test_phase_without_epochs_or_learning_stages_is_left_out(values, expected):
    recipe = make_recipe(**values)
    assert [phase.name for phase in recipe.make_phases(100)] == expected


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
    phases = make_recipe().make_phases(num_train)
    assert [phase.epochs for phase in phases] == [head, finetune]


def test_given_epochs_are_kept():
    phases = make_recipe(head_epochs=2, finetune_epochs=0).make_phases(50)
    assert [(phase.name, phase.epochs) for phase in phases] == [("head", 2)]


def test_short_epochs_make_auto_epochs_more():
    recipe = make_recipe(steps_per_epoch=20)
    # 500 and 300 steps, as with epochs of any length.
    assert [phase.epochs for phase in recipe.make_phases(3200)] == [25, 15]
    assert recipe.steps_per_epoch(3200) == 20
    assert recipe.steps_per_epoch(64) == 2


def test_auto_epochs_leave_out_the_head_without_weights():
    recipe = make_recipe(weights=("none",))
    # From scratch it takes 10,000 steps, and 30 to 100 epochs.
    phases = recipe.make_phases(3200)
    assert [(p.name, p.epochs) for p in phases] == [("finetune", 100)]
    assert recipe.make_phases(1) == phases
    assert [phase.epochs for phase in recipe.make_phases(10**6)] == [30]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, (3e-4, 0.0, 1)),
        ({"weights": ("none",)}, (1e-3, 0.05, 5)),
        ({"weights": ("none",), "optimizer": "sgd"}, (0.0125, 1e-3, 5)),
        ({"weights": ("none",), "weight_decay": 0.0}, (1e-3, 0.0, 5)),
        ({"finetune_learning_rate": 0.5, "warmup_epochs": 0}, (0.5, 0.0, 0)),
    ],
)
def test_random_weights_get_the_recipe_that_they_need(values, expected):
    train = make_recipe(**values).train
    found = train.finetune_learning_rate, train.weight_decay, train.warmup_epochs
    assert found == expected


def test_replace_resolves_auto_again():
    config = Config(**BASE)
    changed = config.replace(weights=("none",))
    assert changed == Config(**BASE, weights=("none",))
    assert resolve(changed).train.finetune_learning_rate == 1e-3
    kept = Config(**BASE, finetune_learning_rate=0.5).replace(weights=("none",))
    assert resolve(kept).train.finetune_learning_rate == 0.5


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"weights": ("none",), "head_epochs": 0}, "train"),
        ({"weights": ("none",), "head_epochs": 0, "batch_norm": "fixed"}, "fixed"),
        ({"weights": ("starter",)}, "fixed"),
        ({"weights": ("starter",), "batch_norm": "train"}, "train"),
    ],
)
def test_batch_norm_auto_trains_only_random_networks(values, expected):
    assert make_recipe(**values).model.batch_norm == expected
