"""The rules for flags, alone and together."""

import importlib.util
import math
import os
import re
from typing import TYPE_CHECKING, Any

from keras_ft.catalog.archive import MODEL
from keras_ft.catalog.backbones import find_backbone, stages_to_train
from keras_ft.catalog.formats import check_installed
from keras_ft.catalog.preference import absolute_item
from keras_ft.catalog.preprocessing import parse_image_size
from keras_ft.catalog.presets import PREFIX
from keras_ft.errors import UserError
from keras_ft.tasks import is_plain, parse_columns

if TYPE_CHECKING:
    from keras_ft.config.config import Config

# For adapting pretrained weights.
_FINETUNE_DEFAULTS = {
    "finetune_learning_rate": 3e-4,
    "weight_decay": 0.0,
    "warmup_epochs": 1,
}


DEFAULT_WEIGHTS = ("imagenet", "starter")
# An IPv6 address is in brackets.
_CLUSTER = re.compile(r"ray(:auto|:([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5})?")


def resolve_auto(values: dict[str, Any]) -> dict[str, Any]:
    """Values of the flags whose `auto` depends on other flags alone.

    Args:
        values: The value of every flag.

    Raises:
        UserError: The image size is too small for the backbone, or missing.
    """
    backbone = find_backbone(values["backbone"])
    image_size = values["image_size"]
    if not image_size and not backbone.image_size:
        raise UserError(
            "--image_size must be given for a preset that is not on this machine yet. "
            f"Received: auto, with --backbone={values['backbone']}"
        )
    image_size = image_size or parse_image_size(backbone.image_size)
    if min(image_size) < backbone.min_image_size:
        raise UserError(
            f"--image_size must be at least {backbone.min_image_size} for "
            f"{values['backbone']}. Received: {image_size}"
        )
    is_hub = values["backbone"].startswith(PREFIX)
    defaults: dict[str, float] = _FINETUNE_DEFAULTS
    if values["weights"] == ("none",):
        defaults = _scratch_defaults(values["optimizer"], values["batch_size"])
    resolved: dict[str, Any]
    resolved = {n: v for n, v in defaults.items() if values[n] is None}
    if is_hub and values["weights"] == DEFAULT_WEIGHTS:
        resolved["weights"] = ("preset",)
    return resolved | {"image_size": image_size}


def check_together(config: "Config") -> None:
    """Checks flags that depend on each other.

    Raises:
        UserError: A rule is broken.
    """
    _check_mode(config)
    _check_tasks(config)
    if config.run.mode == "train":
        _check_training(config)


def _scratch_defaults(optimizer: str, batch_size: int) -> dict[str, float]:
    """For training from random weights, which has no phase head.

    SGD as in Goyal et al. (arXiv 1706.02677): 0.1 for 256 images, five epochs of
    warm-up; their L2 penalty of 1e-4, which momentum accumulates tenfold. Adam at its
    usual 1e-3, with decay and warm-up of DeiT (Touvron et al., arXiv 2012.12877,
    table 9).
    """
    if optimizer == "sgd":
        rate, decay = 0.1 * batch_size / 256, 1e-3
    else:
        rate, decay = 1e-3, 0.05
    return {
        "head_epochs": 0,
        "finetune_learning_rate": rate,
        "weight_decay": decay,
        "warmup_epochs": 5,
    }


def _check_mode(config: "Config") -> None:
    mode = config.run.mode
    if mode in ("train", "export", "compare") and not config.run.workdir:
        raise UserError(f"--mode={mode} needs --workdir=FOLDER, the run's folder.")
    if mode in ("train", "compare"):
        _check_paths(config)
    if mode not in ("export", "serve") and not config.data.data:
        raise UserError(
            f"--mode={mode} needs --data: a folder of images, a CSV file, tfds:NAME, "
            "or a built-in set such as builtin:clothes."
        )
    if mode != "predict" and config.data.data.startswith("@"):
        raise UserError(
            "--data=@FILE, a list of images without labels, needs --mode=predict. "
            f"Received: --mode={mode}"
        )
    if mode in ("evaluate", "predict", "serve") and not (
        config.apply.model or config.run.workdir
    ):
        raise UserError(
            f"--mode={mode} needs --model: a workdir, a folder of its export/ or a "
            "model file."
        )
    _check_extras(config)
    _check_sweep(config)
    _check_cluster(config)
    if mode in ("train", "export", "compare"):
        check_installed(config.export.export_formats)


def _check_paths(config: "Config") -> None:
    """Flags are written to files in UTF-8; the names of images may have any bytes."""
    for field, value in config.items():
        for text in value if isinstance(value, tuple) else (value,):
            if re.search("[\udc80-\udcff]", str(text)):
                raise UserError(
                    f"--{field.name} must be valid UTF-8: rename the folder or file. "
                    f"Received: {text!r}"
                )


def _check_extras(config: "Config") -> None:
    mode, features = config.run.mode, config.apply.features
    if (features or config.apply.heatmaps) and mode != "predict":
        raise UserError(
            f"--features and --heatmaps need --mode=predict. Received: --mode={mode}"
        )
    if (features or config.apply.heatmaps) and config.cluster.cluster:
        raise UserError(
            "--features and --heatmaps are computed here: leave out --cluster. "
            f"Received: --cluster={config.cluster.cluster}"
        )
    if features and not features.endswith(".npy"):
        raise UserError(f"--features must end in .npy. Received: {features}")


def _check_tasks(config: "Config") -> None:
    columns, classes = config.data.label_columns, config.data.classes
    tasks = parse_columns(columns)
    if classes and not is_plain(tasks):
        raise UserError(
            "--classes needs one column of labels with one class per image. "
            f"Received: --label_columns={','.join(columns)}"
        )
    weights = config.train.task_weights
    if weights and len(weights) != len(columns):
        raise UserError(
            "--task_weights must have one number for each of --label_columns. "
            f"Received: {','.join(weights)} for {','.join(columns) or 'none'}"
        )
    if not all(map(_is_positive, weights)):
        raise UserError(
            f"--task_weights must be numbers above 0. Received: {','.join(weights)}"
        )


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False


def _check_sweep(config: "Config") -> None:
    if config.run.mode == "compare" and not config.compare.sweep:
        raise UserError(
            "--mode=compare needs --sweep: flags and their values, such as "
            '--sweep="unfreeze=none|all".'
        )
    if config.run.mode != "compare" and config.compare.sweep:
        raise UserError(
            f"--sweep needs --mode=compare. Received: --mode={config.run.mode}"
        )


def _check_cluster(config: "Config") -> None:
    cluster, mode = config.cluster, config.run.mode
    if not cluster.cluster:
        if (cluster.run_cpus, cluster.run_gpus) != (None, None):
            raise UserError("--run_cpus and --run_gpus need --cluster=ray.")
        return
    if mode not in ("compare", "predict"):
        raise UserError(
            f"--cluster needs --mode=compare or predict. Received: --mode={mode}"
        )
    if not _CLUSTER.fullmatch(cluster.cluster):
        raise UserError(
            "--cluster must be ray, ray:auto or ray:HOST:PORT, the address of the "
            f"cluster's head. Received: {cluster.cluster}"
        )
    if not importlib.util.find_spec("ray"):
        raise UserError(
            "--cluster=ray needs the package ray: pip install 'keras_ft[ray]'"
        )


def _check_training(config: "Config") -> None:
    train = config.train
    stages = stages_to_train(config.model.backbone, train.unfreeze)
    if config.data.val_fraction + config.data.test_fraction >= 1:
        raise UserError(
            "--val_fraction and --test_fraction must leave images to train on. "
            f"Received: {config.data.val_fraction} + {config.data.test_fraction}"
        )
    _check_weights(config)
    _check_augmentation(config)
    _check_speed(config)
    if train.head_epochs == 0 and (not stages or train.finetune_epochs == 0):
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


def _check_augmentation(config: "Config") -> None:
    if config.data.mix != "none" and config.train.imbalance == "class_weights":
        raise UserError(
            "--mix and --imbalance=class_weights exclude each other: a mixed image has "
            "no class of its own to weigh it by; give --imbalance=logit_adjustment or "
            f"focal. Received: --mix={config.data.mix}"
        )
    if config.data.augment != "none":
        return
    if config.speed.feature_views > 1:
        raise UserError(
            "--feature_views above 1 needs --augment, or all views are the same. "
            f"Received: --feature_views={config.speed.feature_views}"
        )
    if config.data.mirror:
        raise UserError(
            "--mirror needs --augment=light or strong. Received: --augment=none"
        )


def _check_speed(config: "Config") -> None:
    speed = config.speed
    if speed.fold_batch_norm == "on" and config.model.resolved_batch_norm == "train":
        raise UserError(
            "--fold_batch_norm=on needs --batch_norm=fixed: BatchNorm that is trained "
            f"can't be folded. Received: --batch_norm={config.model.batch_norm}"
        )
    if speed.jit == "on" and config.run.deterministic:
        raise UserError(
            "--jit=on and --deterministic exclude each other: XLA does not promise "
            "equal results. Give one of them."
        )


def _check_weights(config: "Config") -> None:
    weights = config.model.weights
    if not all(weights) or not weights or (len(weights) > 1 and "none" in weights):
        raise UserError(
            "--weights must be a list such as imagenet,starter, or none alone. "
            f"Received: {','.join(weights)}"
        )
    own = os.path.abspath(config.run.workdir)
    if {absolute_item(item) for item in weights} & {own, os.path.join(own, MODEL)}:
        raise UserError(
            "--weights must not be the run's own --workdir: give another --workdir. "
            f"Received: {config.run.workdir}"
        )
    is_hub = config.model.backbone.startswith(PREFIX)
    foreign = DEFAULT_WEIGHTS if is_hub else ("preset",)
    if set(weights) & set(foreign):
        allowed = "preset, none" if is_hub else "imagenet, starter, none"
        raise UserError(
            f"--weights of {config.model.backbone} must be {allowed} or a file of the "
            f"same network. Received: {','.join(weights)}"
        )
    if config.model.from_scratch and config.train.head_epochs:
        raise UserError(
            "--weights=none needs --head_epochs=0: a head on a frozen random network "
            f"learns nothing. Received: --head_epochs={config.train.head_epochs}"
        )
