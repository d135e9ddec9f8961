"""The phases of a run, as values."""

import dataclasses
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Phase:
    """One call of `model.fit`.

    Attributes:
        name: `head` or `finetune`.
        epochs: Maximum number of epochs; early stopping may end the phase sooner.
        learning_rate: Peak learning rate.
        stages: Names of the backbone's stages to train besides the head.
    """

    name: str
    epochs: int
    learning_rate: float
    stages: tuple[str, ...]


class AutoEpochs(NamedTuple):
    """How many epochs `auto` gives: those that make `steps`, within bounds."""

    steps: int
    least: int
    most: int

    def resolve(self, steps_per_epoch: int) -> int:
        """Number of epochs."""
        return min(max(-(-self.steps // steps_per_epoch), self.least), self.most)


# An epoch of the head costs next to nothing, since its input is cached.
AUTO_HEAD = AutoEpochs(steps=500, least=5, most=100)
AUTO_FINETUNE = AutoEpochs(steps=300, least=7, most=30)
AUTO_SCRATCH = AutoEpochs(steps=10_000, least=30, most=100)
