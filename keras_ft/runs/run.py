"""What all steps of a run need to know about it."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_ft.config.recipe import Phase, Recipe
from keras_ft.host.timer import Timer
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import RunRecord

if TYPE_CHECKING:
    import keras

    from keras_ft.system.devices import Compute


@dataclasses.dataclass(frozen=True)
class Run:
    """A run in progress."""

    recipe: Recipe
    paths: RunPaths
    record: RunRecord
    compute: "Compute"
    phases: tuple[Phase, ...]  # those that have epochs, in order
    timer: Timer
    callbacks: "Sequence[keras.callbacks.Callback]" = ()  # the user's, for every phase
    warnings: Sequence[str] = ()  # why results can't be trusted, a sentence each
