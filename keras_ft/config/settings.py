"""`Config`: every flag of a run, checked."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from keras_ft.catalog.backbones import stages_to_train
from keras_ft.config import rules
from keras_ft.config.fields import check_value
from keras_ft.config.modes import (
    ApplyConfig,
    ClusterConfig,
    CompareConfig,
    ExportConfig,
    RunConfig,
    ServeConfig,
)
from keras_ft.config.phases import AUTO_FINETUNE, AUTO_HEAD, AUTO_SCRATCH, Phase
from keras_ft.config.schema import (
    DataConfig,
    ModelConfig,
    SelectionConfig,
    SpeedConfig,
    TrainConfig,
)
from keras_ft.errors import UserError

SECTIONS: dict[str, Any] = {
    "run": RunConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "train": TrainConfig,
    "speed": SpeedConfig,
    "selection": SelectionConfig,
    "export": ExportConfig,
    "apply": ApplyConfig,
    "compare": CompareConfig,
    "serve": ServeConfig,
    "cluster": ClusterConfig,
}
FIELDS: dict[str, dataclasses.Field] = {
    field.name: field
    for section in SECTIONS.values()
    for field in dataclasses.fields(section)
}


@dataclasses.dataclass(frozen=True, init=False)
class Config:
    """All settings of a run.

    Args:
        **flags: Values by flag name, as `--help` lists them; flags that are left out
            keep their defaults. `None` and `"auto"` are the same.

    Attributes:
        requested: The flags as given, with what is `auto` not resolved.
        run: The mode and the run's folder.
        data: The images.
        model: The network.
        train: The two phases.
        speed: Caching, precision, devices.
        selection: Model selection and monitoring.
        export: The formats of the export, and what it must fulfil.
        apply: What `evaluate`, `predict` and `serve` take.
        compare: What `compare` takes.
        serve: What `serve` takes besides.
        cluster: Where runs and predictions run.

    Raises:
        UserError: A flag is unknown, or its value breaks a rule.
    """

    requested: dict[str, Any] = dataclasses.field(compare=False, repr=False)
    run: RunConfig
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    speed: SpeedConfig
    selection: SelectionConfig
    export: ExportConfig
    apply: ApplyConfig
    compare: CompareConfig
    serve: ServeConfig
    cluster: ClusterConfig

    def __init__(self, **flags: Any) -> None:
        object.__setattr__(self, "requested", flags)
        unknown = [name for name in flags if name not in FIELDS]
        if unknown:
            raise UserError(
                f"There is no flag --{', --'.join(unknown)}. --help lists the flags."
            )
        values = {
            name: check_value(field, flags.get(name, field.default))
            for name, field in FIELDS.items()
        }
        # A comparison keeps `auto`, since its runs may resolve it differently.
        if values["mode"] != "compare":
            values |= rules.resolve_auto(values)
        for name, section in SECTIONS.items():
            fields = [field.name for field in dataclasses.fields(section)]
            section = section(**{field: values[field] for field in fields})
            object.__setattr__(self, name, section)
        rules.check_together(self)

    def items(self) -> Iterator[tuple[dataclasses.Field, Any]]:
        """The field and the value of every flag."""
        for section in SECTIONS:
            values = getattr(self, section)
            for field in dataclasses.fields(values):
                yield field, getattr(values, field.name)

    def replace(self, **flags: Any) -> "Config":
        """A copy with other values of some flags, checked like a new config."""
        return Config(**(self.requested | flags))

    def steps_per_epoch(self, num_train: int) -> int:
        """Number of batches per epoch, given the number of training images."""
        steps = -(-num_train // self.data.batch_size)
        return min(steps, self.data.steps_per_epoch or steps)

    def make_phases(self, num_train: int) -> tuple[Phase, ...]:
        """The phases that have epochs, in order.

        Small sets need many epochs to get enough steps, large ones few. So `auto`
        epochs follow from a number of steps, as in BiT-HyperRule (Kolesnikov et al.,
        arXiv 1912.11370, section 3.3), within bounds.

        Args:
            num_train: Number of training images.
        """
        train, steps = self.train, self.steps_per_epoch(num_train)
        auto_finetune = AUTO_SCRATCH if self.model.from_scratch else AUTO_FINETUNE
        head_epochs, finetune_epochs = train.head_epochs, train.finetune_epochs
        if head_epochs is None:
            head_epochs = AUTO_HEAD.resolve(steps)
        if finetune_epochs is None:
            finetune_epochs = auto_finetune.resolve(steps)
        stages = stages_to_train(self.model.backbone, train.unfreeze)
        head = Phase("head", head_epochs, train.head_learning_rate, ())
        finetune = Phase(
            "finetune",
            finetune_epochs if stages else 0,
            train.finetune_learning_rate or 0.0,
            stages,
        )
        return tuple(phase for phase in (head, finetune) if phase.epochs)
