"""The flags of training, as fields of one frozen dataclass per section.

A field declares its flag's name, type, default, help and bounds; `flags.py` makes the
command line of them, `rules.py` checks their values. Nothing here imports TensorFlow,
so that mistakes are reported at once. `modes.py` has the other flags.
"""

import dataclasses
from collections.abc import Iterable

from keras_ft.catalog.backbones import BACKBONES
from keras_ft.catalog.preprocessing import RESIZE_MODES, ImageSize
from keras_ft.config.fields import flag
from keras_ft.evaluation.monitor import MONITORS
from keras_ft.host import user_code
from keras_ft.host.files import default_cache_dir


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images."""

    data: str = flag(
        "",
        "folder of class folders, folder with train/ val/ test/, CSV file "
        "(path,label[,split][,group]), tfds:NAME, or builtin:clothes, digits or faces; "
        "predict takes any images, also @FILE, a list of paths (@-: standard input)",
        is_path=True,
        affects_result=False,  # the images do, see runs/same_images.py
    )
    label_columns: tuple[str, ...] = flag(
        (),
        "columns of labels in a CSV file, one task each, such as species,tags:multi "
        "(:multi: any number of labels per image, with | between them); empty: label",
    )
    classes: tuple[str, ...] = flag((), "use these classes only; empty: all")
    tfds_data_dir: str = flag(
        "",
        "folder of the TFDS sets; empty: TFDS's default",
        affects_result=False,
        is_path=True,
    )
    tfds_download: bool = flag(False, "let TFDS download the set", affects_result=False)
    cache_dir: str = flag(
        default_cache_dir(),
        "folder for cached features, facts about files, converted images, and the "
        "unpacked images of tfds: and builtin: sets",
        affects_result=False,
        is_path=True,
    )
    val_fraction: float = flag(
        0.15, "fraction of each class for val, if the data has none", above=0, below=1
    )
    test_fraction: float = flag(
        0.15, "fraction of each class for test, if the data has none", above=0, below=1
    )
    on_bad_image: str = flag(
        "skip",
        "what to do about images that can't be read: skip them, or stop",
        choices=("skip", "error"),
    )
    max_megapixels: int | None = flag(  # TensorFlow's own limit is 2^29 pixels
        None, "largest image, in millions of pixels; auto: 89", at_least=1, at_most=500
    )
    on_rare_class: str = flag(
        "error",
        "classes with too few images for train, val and test: stop, skip or only train",
        choices=("error", "skip", "train"),
    )
    examples_per_class: int = flag(
        0, "number of training images per class; 0: all", at_least=0
    )
    image_size: ImageSize | None = flag(
        None,
        "size in pixels, such as 96, or 96x128 for height and width; auto: the size "
        "that the initial weights were trained on",
    )
    resize: str = flag(
        "stretch",
        "how images get that size; crop (centre) and pad (grey) keep the aspect ratio",
        choices=RESIZE_MODES,
    )
    batch_size: int = flag(32, "images per training step, over all GPUs", at_least=1)
    steps_per_epoch: int = flag(
        0,
        "batches per epoch at most, so that a large set takes several epochs and an "
        "interrupted run repeats less; 0: all images",
        at_least=0,
    )
    augment: str = flag(
        "light",
        "random variation of training images; light: crop, brightness and colour; "
        "strong: more of each, and erased rectangles; py:MODULE:NAME: a function of "
        "yours, from images and a seed to images",
        choices=("none", "light", "strong"),
        prefix=user_code.PREFIX,
    )
    mirror: bool = flag(
        False,
        "with --augment: mirror half of the training images; right for most "
        "photographs, wrong for writing",
    )
    mix: str = flag(
        "none",
        "mix each training image with another one, and their labels: mixup (weighted "
        "sum) or cutmix (rectangle); only in a phase without a frozen part",
        choices=("none", "mixup", "cutmix"),
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    backbone: str = flag(
        "resnet50",
        "network of Keras Applications; hub:PRESET: a name or folder of KerasHub; "
        "py:MODULE:NAME: a function of yours that returns a Keras model",
        choices=tuple(BACKBONES),
        is_path=True,
        prefix=("hub:", user_code.PREFIX),
        hints={
            f"resnet{depth}": f"; give hub:resnet_{depth}_imagenet, of KerasHub"
            for depth in (18, 34)
        },
    )
    weights: tuple[str, ...] | None = flag(
        None,
        "initial weights, tried in order: imagenet, starter (ships with the package), "
        "a workdir or .weights.h5/.h5/.keras file, or none (random); preset, those of "
        "the network itself, is the default of hub: and py:",
        is_path=True,
    )
    batch_norm: str = flag(
        "auto",
        "fixed: statistics, gamma and beta stay; auto: train if weights=none, or fixed",
        choices=("auto", "fixed", "train"),
    )
    dropout: float = flag(0.2, "dropout before the head", at_least=0, below=1)

    @property
    def from_scratch(self) -> bool:
        """Whether the network starts from random weights."""
        return self.weights == ("none",)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The two phases."""

    head_epochs: int | None = flag(
        None,
        "phase head (backbone frozen): maximum epochs; auto: from the number of "
        "training images",
        at_least=0,
    )
    head_learning_rate: float = flag(
        3e-3, "phase head: peak learning rate", above=0, at_most=100
    )
    solve_head: bool = flag(
        True,
        "phase head: also compute the head by logistic regression on the features, and "
        "keep the better one on val",
    )
    finetune_epochs: int | None = flag(
        None,
        "phase finetune: maximum epochs; auto: from the number of training images",
        at_least=0,
    )
    finetune_learning_rate: float | None = flag(
        None,
        "phase finetune: peak learning rate; auto: 3e-4, higher if weights=none",
        above=0,
        at_most=100,
    )
    average_epochs: int = flag(
        3,
        "phase finetune: maximum number of best epochs whose weights are averaged, if "
        "that improves val; 1: the best epoch alone",
        at_least=1,
        at_most=20,
    )
    unfreeze: str = flag(
        "all",
        "stages that phase finetune trains besides the head: all, from:STAGE, "
        "to:STAGE, or none (no phase finetune)",
    )
    optimizer: str = flag(
        "adam",
        "optimizer of both phases",
        choices=("sgd", "adam"),
        hints={"adamw": "; give adam, whose weight decay is decoupled already"},
    )
    momentum: float = flag(0.9, "momentum of sgd", at_least=0, below=1)
    weight_decay: float | None = flag(
        None,
        "decoupled weight decay of kernels; auto: 0, higher if weights=none",
        at_least=0,
        at_most=1,
    )
    schedule: str = flag(
        "cosine",
        "learning rate after warm-up: constant, or decaying to zero",
        choices=("constant", "cosine"),
    )
    warmup_epochs: int | None = flag(
        None,
        "epochs of linear warm-up in each phase, at most half of the phase; auto: 1, "
        "or 5 if weights=none",
        at_least=0,
    )
    label_smoothing: float = flag(
        0.0, "smoothing of the training labels", at_least=0, below=1
    )
    task_weights: tuple[str, ...] = flag(
        (), "weight of each of --label_columns in the loss; empty: all the same"
    )
    loss: str = flag(
        "auto",
        "training loss; auto: cross-entropy, as --imbalance says; py:MODULE:NAME: one "
        "of yours, a keras.losses.Loss or a function of labels and logits",
        choices=("auto",),
        prefix=user_code.PREFIX,
    )
    imbalance: str = flag(
        "none",
        "how training compensates for rare classes: class_weights (effective number), "
        "focal (loss), or logit_adjustment (class frequency)",
        choices=("none", "class_weights", "focal", "logit_adjustment"),
    )

    def weigh(self, tasks: Iterable[str]) -> dict[str, float]:
        """The weight of each task in the loss; their sum is 1."""
        names = list(tasks)
        weights = [float(text) for text in self.task_weights] or [1.0] * len(names)
        shares = (weight / sum(weights) for weight in weights)
        return dict(zip(names, shares, strict=True))


@dataclasses.dataclass(frozen=True)
class SpeedConfig:
    """Speed."""

    cache_features: str = flag(
        "auto",
        "compute the features of frozen layers once, in --cache_dir; auto: if they fit",
        choices=("auto", "on", "off"),
        affects_result=False,
    )
    cache_limit_gb: float = flag(
        50.0,
        "maximum size of cached features, in 10^9 bytes",
        above=0,
        affects_result=False,
    )
    feature_views: int = flag(
        1,
        "with --augment: cached variations of each training image; 1: frozen layers "
        "see the plain image",
        at_least=1,
    )
    fold_batch_norm: str = flag(
        "on",
        "fold BatchNorm that is fixed into trainable convolutions",
        choices=("on", "off"),
    )
    precision: str = flag(
        "auto",
        "compute dtype; auto: bfloat16 where the network is faster in it",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    jit: str = flag(
        "off", "compile with XLA, which took minutes on a GPU", choices=("on", "off")
    )
    strategy: str = flag(
        "auto",
        "mirrored: train on all GPUs of this machine; multi_worker: on the machines "
        "that TF_CONFIG names; auto: if there are several",
        choices=("auto", "none", "mirrored", "multi_worker"),
        affects_result=False,
    )


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """Model selection and monitoring."""

    monitor: str = flag(
        "val_calibrated_loss",
        "metric that selects the best epoch",
        choices=tuple(MONITORS),
    )
    assert_accuracy_at_least: float = flag(
        0.0,
        "test accuracy below which nothing is exported and the exit status is 1",
        at_least=0,
        at_most=1,
        affects_result=False,
    )
    patience: int | None = flag(
        None,
        "epochs without improvement before a phase stops; auto: a quarter of its "
        "epochs, at least 3, in phase finetune counted from its middle",
        at_least=1,
    )
    tensorboard: bool = flag(
        False, "write TensorBoard logs to WORKDIR/tensorboard", affects_result=False
    )
    callbacks: tuple[str, ...] = flag(
        (),
        "py:MODULE:NAME,...: callbacks of yours for both phases, each a class or a "
        "function without arguments that returns a keras.callbacks.Callback",
        prefix=user_code.PREFIX,
        affects_result=False,
    )
