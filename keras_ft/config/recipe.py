"""What a run does: the values of its flags, with what is `auto` resolved."""

import dataclasses
from typing import Any, Literal

from keras_ft.catalog.backbones import stages_to_train
from keras_ft.catalog.preference import default_weights
from keras_ft.catalog.preprocessing import ImageSize, Preprocessing
from keras_ft.config import modes, schema
from keras_ft.config.settings import Config


@dataclasses.dataclass(frozen=True)
class Phase:
    """One call of `model.fit`."""

    name: str  # `head` or `finetune`
    epochs: int  # at most; early stopping may end the phase sooner
    learning_rate: float  # its peak
    stages: tuple[str, ...]  # of the backbone, to train besides the head


# The number of epochs that `auto` resolves to: enough for `steps` training steps, at
# least `least` and at most `most`. An epoch of the head takes almost no time, since its
# input is cached.
_HEAD = {"steps": 500, "least": 5, "most": 100}
_FINETUNE = {"steps": 300, "least": 7, "most": 30}
_SCRATCH = {"steps": 10_000, "least": 30, "most": 100}


class DataRecipe(schema.DataConfig):
    """The images."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the input of the network, once their size is known."""
        if self.image_size is None:
            raise ValueError(
                "The size of the images must be known, see with_image_size."
            )
        return Preprocessing(*self.image_size, self.resize)


class ModelRecipe(schema.ModelConfig):
    """The network."""

    weights: tuple[str, ...]
    batch_norm: Literal["fixed", "train"]


class TrainRecipe(schema.TrainConfig):
    """The two phases."""

    finetune_learning_rate: float
    weight_decay: float
    warmup_epochs: int


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a run does, see `Config` for the sections.

    What is still `auto` follows from more than flags: the size of the images from the
    weights that are found, epochs and patience from the number of images, precision and
    devices from the machine.
    """

    config: Config  # the flags as flags.cfg records them
    run: modes.RunConfig
    data: DataRecipe
    model: ModelRecipe
    train: TrainRecipe
    speed: schema.SpeedConfig
    selection: schema.SelectionConfig
    export: modes.ExportConfig

    def with_image_size(self, size: ImageSize) -> "Recipe":
        """The recipe with the size of images that `auto` is resolved to."""
        data = dataclasses.replace(self.data, image_size=size)
        return dataclasses.replace(self, data=data)

    def steps_per_epoch(self, num_train: int) -> int:
        """Number of batches per epoch, given the number of training images."""
        steps = -(-num_train // self.data.batch_size)
        return min(steps, self.data.steps_per_epoch or steps)

    def make_phases(self, num_train: int) -> tuple[Phase, ...]:
        """The phases that have epochs, in order, given the number of training images.

        Small sets need many epochs to get enough steps, large ones few. So `auto`
        epochs follow from a number of steps, as in BiT-HyperRule (Kolesnikov et al.,
        arXiv 1912.11370, section 3.3), within bounds.
        """
        train = self.train

        def choose(given: int | None, steps: int, least: int, most: int) -> int:
            auto = -(-steps // self.steps_per_epoch(num_train))
            return min(max(auto, least), most) if given is None else given

        stages = stages_to_train(self.model.backbone, train.unfreeze)
        auto_finetune = _SCRATCH if self.model.from_scratch else _FINETUNE
        head_epochs = choose(train.head_epochs, **_HEAD)
        finetune_epochs = choose(train.finetune_epochs, **auto_finetune)
        rate = train.finetune_learning_rate
        phases = (
            Phase("head", head_epochs, train.head_learning_rate, ()),
            Phase("finetune", finetune_epochs, rate, stages),
        )
        return tuple(p for p in phases if p.epochs and (p.stages or p.name == "head"))


def resolve(config: Config) -> Recipe:
    """The run of a config of any mode; a UserError if it breaks a rule of training."""
    config = config.replace(mode="train")
    model, data = config.model, config.data
    values: dict[str, Any] = {
        "weights": default_weights(model.backbone),
        "finetune_learning_rate": 3e-4,
        "weight_decay": 0.0,
        "warmup_epochs": 1,
    }
    if model.from_scratch:
        values |= _scratch_values(config.train.optimizer, data.batch_size)
    given = {field.name: value for field, value in config.items() if value is not None}
    config = Config(**(values | given))
    batch_norm = config.model.batch_norm
    if batch_norm == "auto":
        batch_norm = "train" if config.model.from_scratch else "fixed"
    return Recipe(
        config,
        config.run,
        DataRecipe(**vars(config.data)),
        ModelRecipe(**vars(config.model) | {"batch_norm": batch_norm}),
        TrainRecipe(**vars(config.train)),
        config.speed,
        config.selection,
        config.export,
    )


def _scratch_values(optimizer: str, batch_size: int) -> dict[str, float]:
    """For training from random weights, which has no phase head.

    SGD as in Goyal et al. (arXiv 1706.02677): 0.1 for 256 images, five epochs of
    warm-up; their L2 penalty of 1e-4, which momentum accumulates tenfold. Adam at its
    usual 1e-3, with decay and warm-up of DeiT (Touvron et al., arXiv 2012.12877,
    table 9).
    """
    is_sgd = optimizer == "sgd"
    rate, decay = (0.1 * batch_size / 256, 1e-3) if is_sgd else (1e-3, 0.05)
    return {
        "head_epochs": 0,
        "finetune_learning_rate": rate,
        "weight_decay": decay,
        "warmup_epochs": 5,
    }
