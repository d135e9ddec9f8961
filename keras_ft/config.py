"""What a run is asked to do: frozen dataclasses and the rules between their fields.

Every field is a flag of the same name (see flags.py). This module imports no
TensorFlow, so that a mistake is answered at once.
"""

import dataclasses
import importlib.util
import operator
import os
from collections.abc import Iterator
from typing import Any

from keras_ft.backbones import BACKBONES, stages_to_train


class UserError(Exception):
    """A mistake the user can mend: the rule, what was received, what to do."""


def _flag(default: Any, help: str, *, affects_result: bool = True, **rules: Any) -> Any:
    """A dataclass field that becomes a flag.

    Args:
        default: The flag's default value.
        help: One line for `--help`.
        affects_result: Whether another value may give another model or metric.
        **rules: `choices`, or bounds named as in `_BOUNDS`.
    """
    metadata = {"help": help, "affects_result": affects_result, **rules}
    return dataclasses.field(default=default, metadata=metadata)


_BOUNDS = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
}


def _default_cache_dir() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(base, "keras_ft")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The run."""

    mode: str = _flag(
        "train",
        "what to do",
        choices=("train", "evaluate", "predict", "export"),
        affects_result=False,
    )
    workdir: str = _flag(
        "", "folder of the run; everything is written here", affects_result=False
    )
    seed: int = _flag(
        0, "seed of the split, initial weights, order", at_least=0, at_most=2**31 - 1
    )
    deterministic: bool = _flag(
        False, "bitwise equal results for equal runs on the same machine"
    )
    overwrite: bool = _flag(
        False,
        "start anew where the workdir or output exists already",
        affects_result=False,
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images."""

    data: str = _flag(
        "",
        "folder of class folders, folder with train/ val/ test/, tfds:NAME, "
        "builtin:faces or builtin:digits",
    )
    tfds_data_dir: str = _flag(
        "", "where TFDS sets lie; empty: TFDS's own default", affects_result=False
    )
    tfds_download: bool = _flag(
        False, "let TFDS download the set", affects_result=False
    )
    cache_dir: str = _flag(
        _default_cache_dir(),
        "where images of tfds: and builtin: sets are unpacked, once",
        affects_result=False,
    )
    val_fraction: float = _flag(
        0.15, "part of each class split off for val when missing", above=0, below=1
    )
    test_fraction: float = _flag(
        0.15, "part of each class split off for test when missing", above=0, below=1
    )
    image_size: int | None = _flag(
        None, "height and width in pixels; default: the backbone's own", at_least=1
    )
    batch_size: int = _flag(32, "images per training step", at_least=1)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = _flag(
        "resnet50", "network of Keras Applications", choices=tuple(BACKBONES)
    )
    weights: tuple[str, ...] = _flag(
        ("imagenet", "starter"),
        "initial weights, tried in order: imagenet, starter (ships with the "
        "package), a .weights.h5/.h5/.keras file, or none (random)",
    )
    batch_norm: str = _flag(
        "auto",
        "fixed: BatchNorm does not change; auto: train if weights=none, else fixed",
        choices=("auto", "fixed", "train"),
    )
    dropout: float = _flag(0.2, "dropout before the head", at_least=0, below=1)

    @property
    def resolved_batch_norm(self) -> str:
        """`fixed` or `train`."""
        if self.batch_norm != "auto":
            return self.batch_norm
        return "train" if self.weights == ("none",) else "fixed"


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The two phases."""

    head_epochs: int = _flag(
        5, "phase head (backbone frozen): epochs at most", at_least=0
    )
    head_learning_rate: float = _flag(
        3e-3, "phase head: peak learning rate", above=0, at_most=100
    )
    finetune_epochs: int = _flag(5, "phase finetune: epochs at most", at_least=0)
    finetune_learning_rate: float = _flag(
        1e-4, "phase finetune: peak learning rate", above=0, at_most=100
    )
    unfreeze: str = _flag(
        "all",
        "what phase finetune trains beside the head: all, from:STAGE, to:STAGE, "
        "or none (no such phase)",
    )
    optimizer: str = _flag(
        "adam", "optimizer of both phases", choices=("sgd", "adam", "adamw")
    )
    momentum: float = _flag(0.9, "momentum of sgd", at_least=0, below=1)
    weight_decay: float = _flag(
        0.0, "decoupled weight decay of kernels", at_least=0, at_most=1
    )
    schedule: str = _flag(
        "cosine",
        "learning rate after warm-up: constant, or falling to zero",
        choices=("constant", "cosine"),
    )
    warmup_epochs: int = _flag(
        1, "epochs of linear warm-up in each phase, at most half of it", at_least=0
    )
    label_smoothing: float = _flag(
        0.0, "smoothing of the training labels", at_least=0, below=1
    )


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """The choice of the best model, and what is watched."""

    monitor: str = _flag(
        "val_loss",
        "picks the best epoch and stops early",
        choices=("val_loss", "val_accuracy"),
    )
    patience: int = _flag(
        3, "epochs without improvement before a phase stops", at_least=1
    )
    tensorboard: bool = _flag(
        False, "write TensorBoard logs to WORKDIR/tensorboard", affects_result=False
    )


@dataclasses.dataclass(frozen=True)
class ApplyConfig:
    """Evaluate and predict."""

    model: str = _flag(
        "",
        "workdir, export/saved_model folder or model.keras; default: the workdir",
        affects_result=False,
    )
    output: str = _flag(
        "",
        "file for predictions (CSV) or metrics (JSON); default: the terminal",
        affects_result=False,
    )
    top_k: int = _flag(
        3, "classes per prediction at most", at_least=1, affects_result=False
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    """One call of `model.fit`.

    Attributes:
        name: `head` or `finetune`.
        epochs: Epochs at most; early stopping may end it sooner.
        learning_rate: Peak learning rate.
        unfreeze: What is trained beside the head, see `stages_to_train`.
    """

    name: str
    epochs: int
    learning_rate: float
    unfreeze: str


@dataclasses.dataclass(frozen=True)
class Config:
    """All of a run's settings, one section per attribute."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    selection: SelectionConfig = SelectionConfig()
    apply: ApplyConfig = ApplyConfig()

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that have epochs, in order."""
        train = self.train
        head = Phase("head", train.head_epochs, train.head_learning_rate, "none")
        finetune = Phase(
            "finetune",
            0 if train.unfreeze == "none" else train.finetune_epochs,
            train.finetune_learning_rate,
            train.unfreeze,
        )
        return tuple(phase for phase in (head, finetune) if phase.epochs > 0)

    def items(self) -> Iterator[tuple[dataclasses.Field, Any]]:
        """Every flag's field and value."""
        for section in dataclasses.fields(self):
            values = getattr(self, section.name)
            for field in dataclasses.fields(values):
                yield field, getattr(values, field.name)


SECTIONS = {field.name: field.type for field in dataclasses.fields(Config)}


def make_config(**flags: Any) -> Config:
    """Builds and checks a `Config` from flag values.

    Args:
        **flags: Values by flag name; the others keep their defaults.

    Returns:
        The config, with `image_size` filled in.

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
    config = _fill_image_size(config)
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


def _fill_image_size(config: Config) -> Config:
    backbone = BACKBONES[config.model.backbone]
    size = config.data.image_size or backbone.image_size
    if size < backbone.min_image_size:
        raise UserError(
            f"--image_size must be at least {backbone.min_image_size} for "
            f"{config.model.backbone}. Received: {size}"
        )
    data = dataclasses.replace(config.data, image_size=size)
    return dataclasses.replace(config, data=data)


def _check_mode(config: Config) -> None:
    mode = config.run.mode
    if mode in ("train", "export") and not config.run.workdir:
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


def _check_weights(config: Config) -> None:
    weights = config.model.weights
    if not all(weights) or not weights or (len(weights) > 1 and "none" in weights):
        raise UserError(
            "--weights must be a list such as imagenet,starter, or none alone. "
            f"Received: {','.join(weights)}"
        )
    if weights == ("none",) and config.train.head_epochs:
        raise UserError(
            "--weights=none needs --head_epochs=0: a head on a frozen random network "
            f"learns nothing. Received: --head_epochs={config.train.head_epochs}"
        )
