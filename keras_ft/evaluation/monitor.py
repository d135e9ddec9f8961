"""The metrics that `--monitor` accepts, with their direction and precision."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal


def replaces(gain: float, standard_error: float) -> bool:
    """Whether a phase with this gain on val replaces those before it.

    It does unless it is worse by more than the noise: a fine-tuned network is the
    better one more often than not, also where a small val can't show it.
    """
    return gain >= -standard_error


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A metric on val, in history.csv, that selects the best epoch, phase and setting.

    Lower is better if the direction is `min`; `digits` decimals are worth showing.
    """

    name: str
    direction: Literal["min", "max"]
    digits: int

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is strictly better than another."""
        return value < than if self.direction == "min" else value > than

    def gain(self, before: float, after: float) -> float:
        """The difference between two values, positive if the second is better."""
        return before - after if self.direction == "min" else after - before

    def find_best(self, values: Iterable[float]) -> float:
        """The best of some values, of which there must be one."""
        return min(values) if self.direction == "min" else max(values)

    @property
    def is_calibrated(self) -> bool:
        """Whether it is about calibrated probabilities."""
        return self.name.startswith("val_calibrated_")

    @property
    def key(self) -> str:
        """Its name in the metrics of a split."""
        return self.name.removeprefix("val_").removeprefix("calibrated_")

    def of(self, metrics: Mapping[str, Any]) -> float:
        """The value on val of a calibrated model, from metrics.json."""
        return metrics["val"][self.key]

    def of_phase(self, phase: Mapping[str, Any]) -> float:
        """The best value of a phase, from metrics.json."""
        # Earlier versions monitored only what a phase has anyway.
        return phase["monitored"] if "monitored" in phase else self.of(phase)

    def describe_gains(self, phases: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """How sure the gain of each phase is, from metrics.json: a sentence each."""
        sentences = []
        for name, phase in phases.items():
            gain, error = (phase.get(key) for key in ("gain", "standard_error"))
            if gain is None or error is None:
                continue
            verdict = "not chosen"
            if replaces(gain, error):
                verdict = "chosen" if gain > 0 else "chosen, as it is not clearly worse"
            difference = "as good"
            if gain:
                word = "better" if gain > 0 else "worse"
                difference = f"{self.format(abs(gain))} {word}"
            sentences.append(
                f"On val, {name} is {difference} by {self.name}, standard error "
                f"{self.format(error)}: {verdict}."
            )
        return sentences

    def format(self, value: float) -> str:
        """A value as text, with `digits` decimals."""
        return f"{value:.{self.digits}f}"


MONITORS = {
    monitor.name: monitor
    for monitor in (
        Monitor("val_calibrated_loss", "min", 4),
        Monitor("val_loss", "min", 4),
        Monitor("val_accuracy", "max", 3),
        Monitor("val_macro_f1", "max", 3),
        Monitor("val_balanced_accuracy", "max", 3),
    )
}
