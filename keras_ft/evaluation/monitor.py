"""The metrics that `--monitor` accepts, with their direction and precision."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A metric on val that selects the best epoch, phase and setting.

    Attributes:
        name: As in history.csv: `val_` and the metric's name in metrics.json.
        direction: `min` if lower is better, `max` if higher is.
        digits: Number of decimals worth showing.
    """

    name: str
    direction: Literal["min", "max"]
    digits: int

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is strictly better than another."""
        return value < than if self.direction == "min" else value > than

    def of(self, metrics: Mapping[str, Any]) -> float:
        """The metric's value on val, from the content of metrics.json."""
        return metrics["val"][self.name.removeprefix("val_")]

    def format(self, value: float) -> str:
        """A value as text, with `digits` decimals."""
        return f"{value:.{self.digits}f}"


MONITORS = {
    monitor.name: monitor
    for monitor in (
        Monitor("val_loss", "min", 4),
        Monitor("val_accuracy", "max", 3),
        Monitor("val_macro_f1", "max", 3),
        Monitor("val_balanced_accuracy", "max", 3),
    )
}
