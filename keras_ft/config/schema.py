"""What a run is asked to do, as frozen dataclasses.

Every field is a flag of the same name (see flags.py); rules.py checks their values.
Neither imports TensorFlow, so that a mistake is answered at once.
"""

import dataclasses
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from keras_ft.models.backbones import BACKBONES, stages_to_train


class AutoEpochs(NamedTuple):
    """What `auto` epochs aim at, see `Config.with_epochs`."""

    steps: int
    least: int
    most: int


# An epoch of the head costs next to nothing, its input being computed once.
AUTO_HEAD = AutoEpochs(steps=500, least=5, most=100)
AUTO_FINETUNE = AutoEpochs(steps=200, least=5, most=20)
AUTO_SCRATCH = AutoEpochs(steps=10_000, least=30, most=100)


def _flag(default: Any, help: str, *, affects_result: bool = True, **rules: Any) -> Any:
    """A dataclass field that becomes a flag.

    Args:
        default: The flag's default value.
        help: One line for `--help`.
        affects_result: Whether another value may give another model or metric.
        **rules: `choices`, or bounds named as in rules.py.
    """
    metadata = {"help": help, "affects_result": affects_result, **rules}
    return dataclasses.field(default=default, metadata=metadata)


def _default_cache_dir() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return os.path.join(base, "keras_ft")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The run."""

    mode: str = _flag(
        "train",
        "what to do",
        choices=("train", "check", "evaluate", "predict", "export", "compare"),
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
        "folder of class folders, folder with train/ val/ test/, CSV file "
        "(path,label[,split][,group]), tfds:NAME, builtin:faces or builtin:digits",
    )
    tfds_data_dir: str = _flag(
        "", "where TFDS sets lie; empty: TFDS's own default", affects_result=False
    )
    tfds_download: bool = _flag(
        False, "let TFDS download the set", affects_result=False
    )
    cache_dir: str = _flag(
        _default_cache_dir(),
        "where features and facts about files are kept, and images of tfds: and "
        "builtin: sets unpacked, once",
        affects_result=False,
    )
    val_fraction: float = _flag(
        0.15, "part of each class split off for val when missing", above=0, below=1
    )
    test_fraction: float = _flag(
        0.15, "part of each class split off for test when missing", above=0, below=1
    )
    on_bad_image: str = _flag(
        "skip",
        "what becomes of images that can't be read: they are left out, or it ends",
        choices=("skip", "error"),
    )
    examples_per_class: int = _flag(
        0, "train on so many images of each class only; 0: on all", at_least=0
    )
    image_size: int | None = _flag(
        None, "height and width in pixels; auto: the backbone's own", at_least=1
    )
    batch_size: int = _flag(32, "images per training step, of all GPUs", at_least=1)
    steps_per_epoch: int = _flag(
        0,
        "batches that make an epoch, at most; a large set then takes several epochs, "
        "and an interrupted run repeats less; 0: all images",
        at_least=0,
    )
    augment: str = _flag(
        "none",
        "variation of training images; light: crops, mirror images, light and colour; "
        "strong: more of it, and parts erased",
        choices=("none", "light", "strong"),
    )


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
    def from_scratch(self) -> bool:
        """Whether the network starts from random weights."""
        return self.weights == ("none",)

    @property
    def resolved_batch_norm(self) -> str:
        """`fixed` or `train`."""
        if self.batch_norm != "auto":
            return self.batch_norm
        return "train" if self.from_scratch else "fixed"


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The two phases."""

    head_epochs: int | None = _flag(
        None,
        "phase head (backbone frozen): epochs at most; auto: by the number of training "
        "images",
        at_least=0,
    )
    head_learning_rate: float = _flag(
        3e-3, "phase head: peak learning rate", above=0, at_most=100
    )
    finetune_epochs: int | None = _flag(
        None,
        "phase finetune: epochs at most; auto: by the number of training images",
        at_least=0,
    )
    finetune_learning_rate: float | None = _flag(
        None,
        "phase finetune: peak learning rate; auto: 1e-4, more if weights=none",
        above=0,
        at_most=100,
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
    weight_decay: float | None = _flag(
        None,
        "decoupled weight decay of kernels; auto: 0, more if weights=none",
        at_least=0,
        at_most=1,
    )
    schedule: str = _flag(
        "cosine",
        "learning rate after warm-up: constant, or falling to zero",
        choices=("constant", "cosine"),
    )
    warmup_epochs: int | None = _flag(
        None,
        "epochs of linear warm-up in each phase, at most half of it; auto: 1, or 5 if "
        "weights=none",
        at_least=0,
    )
    label_smoothing: float = _flag(
        0.0, "smoothing of the training labels", at_least=0, below=1
    )
    imbalance: str = _flag(
        "none",
        "what rare classes get in training: class_weights (by effective number), focal "
        "(loss), or logit_adjustment (by frequency)",
        choices=("none", "class_weights", "focal", "logit_adjustment"),
    )


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """The speed."""

    cache_features: str = _flag(
        "auto",
        "compute what is frozen once and keep it in --cache_dir; auto: if it fits",
        choices=("auto", "on", "off"),
        affects_result=False,
    )
    cache_limit_gb: float = _flag(
        50.0,
        "size of kept features at most, in 10^9 bytes",
        above=0,
        affects_result=False,
    )
    feature_views: int = _flag(
        1, "with --augment: views of each image that a frozen network sees", at_least=1
    )
    fold_batch_norm: str = _flag(
        "auto",
        "fold fixed BatchNorm into convolutions that learn; auto: wherever it is fixed",
        choices=("auto", "on", "off"),
    )
    precision: str = _flag(
        "auto",
        "type to compute in; auto: bfloat16 where the processor is fast in it",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    jit: str = _flag(
        "auto", "compile with XLA; auto: on a GPU", choices=("auto", "on", "off")
    )
    strategy: str = _flag(
        "auto",
        "mirrored: train on all GPUs of this machine; auto: if there are several",
        choices=("auto", "none", "mirrored"),
        affects_result=False,
    )


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """The choice of the best model, and what is watched."""

    monitor: str = _flag(
        "val_loss",
        "picks the best epoch and stops early",
        choices=(
            "val_loss",
            "val_accuracy",
            "val_macro_f1",
            "val_balanced_accuracy",
        ),
    )
    assert_accuracy_at_least: float = _flag(
        0.0,
        "test accuracy below which nothing is exported and the exit status is not zero",
        at_least=0,
        at_most=1,
        affects_result=False,
    )
    patience: int | None = _flag(
        None,
        "epochs without improvement before a phase stops; auto: a quarter of its "
        "epochs, at least 3",
        at_least=1,
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
class CompareConfig:
    """Compare."""

    sweep: str = _flag(
        "",
        "flags and the values to compare, such as "
        '"backbone=resnet50|mobilenet_v2;unfreeze=none|from:conv5|all"; every '
        "combination is trained",
        affects_result=False,
    )
    seeds: int = _flag(
        3,
        "runs of each combination, with --seed and the seeds after it",
        at_least=1,
        affects_result=False,
    )


@dataclasses.dataclass(frozen=True)
class Phase:
    """One call of `model.fit`.

    Attributes:
        name: `head` or `finetune`.
        epochs: Epochs at most; early stopping may end it sooner.
        learning_rate: Peak learning rate.
        stages: Names of the backbone's stages to train beside the head.
    """

    name: str
    epochs: int
    learning_rate: float
    stages: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Config:
    """All of a run's settings, one section per attribute."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    speed: SpeedConfig = SpeedConfig()
    selection: SelectionConfig = SelectionConfig()
    apply: ApplyConfig = ApplyConfig()
    compare: CompareConfig = CompareConfig()

    def steps_per_epoch(self, num_train: int) -> int:
        """Batches of an epoch, of so many training images."""
        steps = -(-num_train // self.data.batch_size)
        return min(steps, self.data.steps_per_epoch or steps)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that have epochs, in order."""
        train = self.train
        head = Phase("head", train.head_epochs, train.head_learning_rate, ())
        stages = stages_to_train(self.model.backbone, train.unfreeze)
        finetune = Phase(
            "finetune",
            train.finetune_epochs if stages else 0,
            train.finetune_learning_rate,
            stages,
        )
        return tuple(phase for phase in (head, finetune) if phase.epochs != 0)

    def with_epochs(self, num_train: int) -> "Config":
        """Fills in the epochs that are `auto`.

        Small sets need many epochs to get enough steps, large ones few; so the number
        of steps decides, as in BiT-HyperRule (Kolesnikov et al., arXiv 1912.11370,
        section 3.3), within bounds.

        Args:
            num_train: Number of training images.
        """
        steps = self.steps_per_epoch(num_train)

        def fill(epochs: int | None, auto: AutoEpochs) -> int:
            if epochs is not None:
                return epochs
            return min(max(-(-auto.steps // steps), auto.least), auto.most)

        auto = AUTO_SCRATCH if self.model.from_scratch else AUTO_FINETUNE
        head = fill(self.train.head_epochs, AUTO_HEAD)
        finetune = fill(self.train.finetune_epochs, auto)
        train = dataclasses.replace(
            self.train, head_epochs=head, finetune_epochs=finetune
        )
        return dataclasses.replace(self, train=train)

    def items(self) -> Iterator[tuple[dataclasses.Field, Any]]:
        """Every flag's field and value."""
        for section in dataclasses.fields(self):
            values = getattr(self, section.name)
            for field in dataclasses.fields(values):
                yield field, getattr(values, field.name)


SECTIONS = {field.name: field.type for field in dataclasses.fields(Config)}
