"""The rules for flags, alone and together; builds the checked `Config`."""

import dataclasses
import importlib.util
import operator
from typing import Any

from keras_ft.config.schema import SECTIONS, Config
from keras_ft.errors import UserError
from keras_ft.models.backbones import BACKBONES, stages_to_train

_BOUNDS = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}


# What a pretrained network needs that only adapts.
_ADAPTING = {"finetune_learning_rate": 1e-4, "weight_decay": 0.0, "warmup_epochs": 1}


def _scratch_recipe(optimizer: str, batch_size: int) -> dict[str, float]:
    """What training from random weights needs.

    SGD as in Goyal et al. (arXiv 1706.02677): 0.1 for 256 images, five epochs of
    warm-up; their L2 penalty of 1e-4, which momentum accumulates tenfold. Adam at its
    usual 1e-3, with decay and warm-up of DeiT (Touvron et al., arXiv 2012.12877,
    table 9).
    """
    if optimizer == "sgd":
        rate, decay = 0.1 * batch_size / 256, 1e-3
    else:
        rate, decay = 1e-3, 0.05
    return {"finetune_learning_rate": rate, "weight_decay": decay, "warmup_epochs": 5}


def make_config(**flags: Any) -> Config:
    """Builds and checks a `Config` from flag values.

    Args:
        **flags: Values by flag name; the others keep their defaults.

    Returns:
        The config, with `auto` filled in where flags alone decide, and no phase head
        without weights; of a comparison as asked for, since its runs may differ in
        these.

    Raises:
        UserError: A value breaks a rule, or rules between flags are broken.
        TypeError: A name is not a flag.
    """
    sections = {}
    for name, section in SECTIONS.items():
        names = {field.name for field in dataclasses.fields(section)}
        sections[name] = section(**{n: flags.pop(n) for n in names & flags.keys()})
    if flags:
        raise TypeError(f"Unknown flags. Received: {sorted(flags)}")
    config = Config(**sections)
    for field, value in config.items():
        _check_field(field, value)
    if config.run.mode != "compare":
        config = _fill_defaults(config)
    _check_mode(config)
    if config.run.mode == "train":
        _check_training(config)
    return config


def _check_field(field: dataclasses.Field, value: Any) -> None:
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise UserError(
            f"--{field.name} must be one of {', '.join(choices)}. Received: {value}"
        )
    for bound, holds in _BOUNDS.items():
        limit = field.metadata.get(bound)
        if limit is not None and value is not None and not holds(value, limit):
            rule = bound.replace("_", " ")
            raise UserError(
                f"--{field.name} must be {rule} {limit:g}. Received: {value}"
            )


def _fill_defaults(config: Config) -> Config:
    backbone = BACKBONES[config.model.backbone]
    size = config.data.image_size or backbone.image_size
    if size < backbone.min_image_size:
        raise UserError(
            f"--image_size must be at least {backbone.min_image_size} for "
            f"{config.model.backbone}. Received: {size}"
        )
    data = dataclasses.replace(config.data, image_size=size)
    train = config.train
    recipe = _ADAPTING
    if config.model.from_scratch:
        recipe = _scratch_recipe(train.optimizer, config.data.batch_size)
        if train.head_epochs is None:
            recipe["head_epochs"] = 0
    train = dataclasses.replace(
        train, **{n: v for n, v in recipe.items() if getattr(train, n) is None}
    )
    return dataclasses.replace(config, data=data, train=train)


def _check_mode(config: Config) -> None:
    mode = config.run.mode
    if mode in ("train", "export", "compare") and not config.run.workdir:
        raise UserError(f"--mode={mode} needs --workdir=FOLDER, the run's folder.")
    if mode != "export" and not config.data.data:
        raise UserError(
            f"--mode={mode} needs --data: a folder of images, tfds:NAME, "
            "builtin:faces or builtin:digits."
        )
    if mode in ("evaluate", "predict") and not (
        config.apply.model or config.run.workdir
    ):
        raise UserError(
            f"--mode={mode} needs --model: a workdir, an export folder or a "
            "model.keras."
        )
    _check_sweep(config)


def _check_sweep(config: Config) -> None:
    if config.run.mode == "compare" and not config.compare.sweep:
        raise UserError(
            "--mode=compare needs --sweep: flags and their values, such as "
            '--sweep="unfreeze=none|all".'
        )
    if config.run.mode != "compare" and config.compare.sweep:
        raise UserError(
            f"--sweep needs --mode=compare. Received: --mode={config.run.mode}"
        )


def _check_training(config: Config) -> None:
    train = config.train
    try:
        stages_to_train(config.model.backbone, train.unfreeze)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    if config.data.val_fraction + config.data.test_fraction >= 1:
        raise UserError(
            "--val_fraction and --test_fraction must leave images to train on. "
            f"Received: {config.data.val_fraction} + {config.data.test_fraction}"
        )
    _check_weights(config)
    _check_speed(config)
    if not config.phases:
        raise UserError(
            "There is nothing to train: give --head_epochs, or --finetune_epochs "
            f"with --unfreeze. Received: --head_epochs={train.head_epochs} "
            f"--finetune_epochs={train.finetune_epochs} --unfreeze={train.unfreeze}"
        )
    if config.selection.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise UserError(
            "--tensorboard needs the package tensorboard: "
            "pip install 'keras_ft[tensorboard]'"
        )


def _check_speed(config: Config) -> None:
    speed = config.speed
    if speed.feature_views > 1 and config.data.augment == "none":
        raise UserError(
            "--feature_views above 1 needs --augment, or all views are the same. "
            f"Received: --feature_views={speed.feature_views}"
        )
    if speed.fold_batch_norm == "on" and config.model.resolved_batch_norm == "train":
        raise UserError(
            "--fold_batch_norm=on needs --batch_norm=fixed: what learns can't be "
            f"folded. Received: --batch_norm={config.model.batch_norm}"
        )
    if speed.jit == "on" and config.run.deterministic:
        raise UserError(
            "--jit=on and --deterministic exclude each other: XLA does not promise "
            "equal results. Give one of them."
        )


def _check_weights(config: Config) -> None:
    weights = config.model.weights
    if not all(weights) or not weights or (len(weights) > 1 and "none" in weights):
        raise UserError(
            "--weights must be a list such as imagenet,starter, or none alone. "
            f"Received: {','.join(weights)}"
        )
    if config.model.from_scratch and config.train.head_epochs:
        raise UserError(
            "--weights=none needs --head_epochs=0: a head on a frozen random network "
            f"learns nothing. Received: --head_epochs={config.train.head_epochs}"
        )
