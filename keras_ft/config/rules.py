"""The rules for flags that depend on each other.

The functions take the value of every flag by its name, None where it is `auto`.
"""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from keras_ft.catalog.archive import MODEL
from keras_ft.catalog.backbones import find_backbone, find_source, stages_to_train
from keras_ft.catalog.preference import DEFAULT_WEIGHTS, PRESET_WEIGHTS, absolute_item
from keras_ft.errors import UserError
from keras_ft.host.packages import require
from keras_ft.kinds.task import is_plain, parse_columns

_Flags = Mapping[str, Any]

# An IPv6 address is in brackets.
_CLUSTER = re.compile(r"ray(:auto|:([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5})?")


def check_together(flags: _Flags) -> None:
    """Raises a UserError if flags break a rule."""
    mode = flags["mode"]
    _check_needed(flags, mode)
    _check_tasks(flags)
    _check_output(flags, mode)
    _check_features(flags)
    _check_cluster(flags)
    if mode in ("train", "compare"):
        _check_paths(flags)
    _check_places(flags, mode)
    if mode == "train":
        _check_training(flags)


def check_data(mode: str, data: str) -> None:
    """Raises a UserError if there is no `data` in a mode that needs it."""
    if mode not in ("export", "serve") and not data:
        raise UserError(
            f"--mode={mode} needs --data: a folder of images, a CSV file, tfds:NAME, "
            "or a built-in set such as builtin:clothes."
        )


def _check_needed(flags: _Flags, mode: str) -> None:
    def need(modes: str, value: Any, what: str) -> None:
        if mode in modes.split() and not value:
            raise UserError(f"--mode={mode} needs {what}")

    folder, model = flags["workdir"], flags["model"] or flags["workdir"]
    of_model = "--model: a workdir, a folder of its export/ or a model file."
    of_sweep = '--sweep: flags and their values, such as --sweep="unfreeze=none|all".'
    of_export = "--export_formats, such as saved_model,onnx. Received: none"
    need("train export compare", folder, "--workdir=FOLDER, the run's folder.")
    if mode not in ("train", "check", "evaluate"):  # these take a table from Python
        check_data(mode, flags["data"])
    if mode != "predict" and flags["data"].startswith("@"):
        raise UserError(
            "--data=@FILE, a list of images without labels, needs --mode=predict. "
            f"Received: --mode={mode}"
        )
    need("evaluate predict serve", model, of_model)
    need("compare", flags["sweep"], of_sweep)
    need("export", flags["export_formats"], of_export)


def _check_paths(flags: _Flags) -> None:
    """Flags are written to files in UTF-8; the names of images may have any bytes."""
    for name, value in flags.items():
        for text in value if isinstance(value, tuple) else (value,):
            if re.search("[\udc80-\udcff]", str(text)):
                raise UserError(
                    f"--{name} must be valid UTF-8: rename the folder or file. "
                    f"Received: {text!r}"
                )


def _check_places(flags: _Flags, mode: str) -> None:
    """What is written must not be found where images are looked for."""
    writes_run = mode in ("train", "check", "compare")
    for name in ("workdir", "cache_dir") if writes_run else ("heatmaps",):
        data, place = os.path.realpath(flags["data"]), os.path.realpath(flags[name])
        below = os.path.relpath(place, data)
        # Beginning with a dot, it is above or beside, or hidden: then it is not read.
        is_read = not any(part.startswith(".") for part in below.split(os.sep))
        if flags["data"] and flags[name] and (is_read or below == os.curdir):
            raise UserError(
                f"--{name} must lie outside the folder of --data, or what it contains "
                f"would be taken for images. Received: --{name}={flags[name]} with "
                f"--data={flags['data']}"
            )


def _check_output(flags: _Flags, mode: str) -> None:
    written = {
        "predict": "CSV, or JSON Lines into a file FILE.jsonl",
        "check": "CSV, and a page is written beside it",
        "evaluate": "JSON, and a page and a table are written beside it",
    }
    of_others = {
        "predict": (".json",),
        "check": (".json", ".html"),
        "evaluate": (".html", ".csv"),
    }
    for ending in of_others.get(mode, ()):
        if flags["output"].lower().endswith(ending):
            raise UserError(
                f"--output of --mode={mode} must not end in {ending}: it gets "
                f"{written[mode]}. Received: {flags['output']}"
            )


def _check_features(flags: _Flags) -> None:
    if (flags["features"] or flags["heatmaps"]) and flags["cluster"]:
        raise UserError(
            "--features and --heatmaps are computed here: leave out --cluster. "
            f"Received: --cluster={flags['cluster']}"
        )
    if flags["features"] and not flags["features"].endswith(".npy"):
        raise UserError(f"--features must end in .npy. Received: {flags['features']}")


def _check_tasks(flags: _Flags) -> None:
    columns, weights = flags["label_columns"], flags["task_weights"]
    tasks = parse_columns(columns)
    if flags["classes"] and not is_plain(tasks):
        raise UserError(
            "--classes needs one column of labels with one class per image. "
            f"Received: --label_columns={','.join(columns)}"
        )
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


def _check_cluster(flags: _Flags) -> None:
    cluster = flags["cluster"]
    if not cluster:
        if (flags["run_cpus"], flags["run_gpus"]) != (None, None):
            raise UserError("--run_cpus and --run_gpus need --cluster=ray.")
        return
    if not _CLUSTER.fullmatch(cluster):
        raise UserError(
            "--cluster must be ray, ray:auto or ray:HOST:PORT, the address of the "
            f"cluster's head. Received: {cluster}"
        )
    require("--cluster=ray", "ray", "ray")


def _check_training(flags: _Flags) -> None:
    _check_image_size(flags)
    if flags["val_fraction"] + flags["test_fraction"] >= 1:
        raise UserError(
            "--val_fraction and --test_fraction must leave images to train on. "
            f"Received: {flags['val_fraction']} + {flags['test_fraction']}"
        )
    if flags["weights"] is not None:
        _check_weights(flags)
    _check_augmentation(flags)
    _check_epochs(flags)
    if flags["jit"] == "on" and flags["deterministic"]:
        raise UserError(
            "--jit=on and --deterministic exclude each other: XLA does not promise "
            "equal results. Give one of them."
        )
    if flags["tensorboard"]:
        require("--tensorboard", "tensorboard", "tensorboard")


def _check_image_size(flags: _Flags) -> None:
    backbone, size = find_backbone(flags["backbone"]), flags["image_size"]
    if not size and not backbone.image_size:
        raise UserError(
            "--image_size must be given for a network of your own, or a preset that is "
            "not on this machine yet. Received: auto, with "
            f"--backbone={flags['backbone']}"
        )
    if size and min(size) < backbone.min_image_size:
        raise UserError(
            f"--image_size must be at least {backbone.min_image_size} for "
            f"{flags['backbone']}. Received: {size}"
        )


def _check_epochs(flags: _Flags) -> None:
    from_scratch = flags["weights"] == ("none",)
    if from_scratch and flags["head_epochs"]:
        raise UserError(
            "--weights=none needs --head_epochs=0: a head on a frozen random network "
            f"learns nothing. Received: --head_epochs={flags['head_epochs']}"
        )
    stages = stages_to_train(flags["backbone"], flags["unfreeze"])
    head_epochs = 0 if from_scratch else flags["head_epochs"]
    if head_epochs == 0 and (not stages or flags["finetune_epochs"] == 0):
        raise UserError(
            "There is nothing to train: give --head_epochs, or --finetune_epochs "
            f"with --unfreeze. Received: --head_epochs={head_epochs} "
            f"--finetune_epochs={flags['finetune_epochs']} "
            f"--unfreeze={flags['unfreeze']}"
        )
    if flags["loss"] != "auto" and flags["imbalance"] != "none":
        raise UserError(
            "--loss and --imbalance exclude each other: a loss of your own is used as "
            f"it is. Received: --loss={flags['loss']} --imbalance={flags['imbalance']}"
        )


def _check_augmentation(flags: _Flags) -> None:
    if flags["mix"] != "none" and flags["imbalance"] == "class_weights":
        raise UserError(
            "--mix and --imbalance=class_weights exclude each other: a mixed image has "
            "no class of its own to weigh it by; give --imbalance=logit_adjustment or "
            f"focal. Received: --mix={flags['mix']}"
        )
    if flags["mirror"] and flags["augment"] not in ("light", "strong"):
        raise UserError(
            "--mirror needs --augment=light or strong. "
            f"Received: --augment={flags['augment']}"
        )
    if flags["augment"] == "none" and flags["feature_views"] > 1:
        raise UserError(
            "--feature_views above 1 needs --augment, or all views are the same. "
            f"Received: --feature_views={flags['feature_views']}"
        )


def _check_weights(flags: _Flags) -> None:
    weights, backbone = flags["weights"], flags["backbone"]
    if not all(weights) or not weights or (len(weights) > 1 and "none" in weights):
        raise UserError(
            "--weights must be a list such as imagenet,starter, or none alone. "
            f"Received: {','.join(weights)}"
        )
    own = os.path.abspath(flags["workdir"])
    if {absolute_item(item) for item in weights} & {own, os.path.join(own, MODEL)}:
        raise UserError(
            "--weights must not be the run's own --workdir: give another --workdir. "
            f"Received: {flags['workdir']}"
        )
    has_preset = find_source(backbone)
    if set(weights) & set(DEFAULT_WEIGHTS if has_preset else PRESET_WEIGHTS):
        allowed = "preset, none" if has_preset else "imagenet, starter, none"
        raise UserError(
            f"--weights of {backbone} must be {allowed} or a file of the same network. "
            f"Received: {','.join(weights)}"
        )
