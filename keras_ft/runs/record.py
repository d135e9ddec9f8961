"""run.json: what a run decided when it began, and its state."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_ft.catalog.backbones import Weights
from keras_ft.catalog.preprocessing import parse_image_size
from keras_ft.config.recipe import Recipe
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.host.packages import find_versions
from keras_ft.host.typed_json import read_json
from keras_ft.runs.paths import RunPaths

FORMAT_VERSION = 1  # to be raised when the files of a workdir change their meaning
_VALUES: dict[str, tuple[Any, ...]] = {  # that a record may have in the file
    "state": ("running", "finished"),
    "precision": ("float32", "mixed_bfloat16", "mixed_float16"),
    "onednn": (True, False, None, "auto"),
}
_PACKAGES = ("keras_ft", "tensorflow", "keras", "keras-hub", "numpy", "scikit-learn")


@dataclasses.dataclass
class RunRecord:
    """A run's record: that of a run that begins, or what another process wrote."""

    state: str = "new"  # or `running` or `finished`
    weights: Weights = Weights("")
    # Maximum number of epochs of each phase, by name.
    epochs: Mapping[str, int] = dataclasses.field(default_factory=dict)
    precision: str = ""  # name of a Keras dtype policy
    devices: tuple[str, ...] = ()
    # Versions; None for a package that runs from a checkout.
    packages: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    # Whether TensorFlow used it; `auto`: to be decided; None: an old record.
    onednn: Any = "auto"
    # The SHA-256 of the user's own code, by the flag that names it.
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # The newest version of each format that was exported before the run had finished.
    early_exports: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # Of the program that began the run; 0 before there was one.
    format_version: int = FORMAT_VERSION
    # Of the network's input, as --image_size takes it; empty in an old record, whose
    # flags.cfg has it.
    image_size: str = ""

    def decide(self, name: str, choose: Callable[[], Any]) -> Any:
        """The attribute `name`; if the run is new, it is chosen now."""
        if self.state == "new":
            setattr(self, name, choose())
        return getattr(self, name)

    def recall_image_size(self, recipe: Recipe) -> Recipe:
        """A recipe with the size of images that the run has decided, if it has."""
        if not self.image_size:
            return recipe
        return recipe.with_image_size(parse_image_size(self.image_size))

    def weights_to_try(self, preference: Sequence[str]) -> tuple[str, ...]:
        """The items of `--weights` to try: the one that the run began with, if any."""
        return (self.weights.used,) if self.weights.used else tuple(preference)

    def check_weights(self, loaded: Weights) -> Weights:
        """As `decide`, of loaded weights; a UserError if the run began with others."""
        then = self.decide("weights", lambda: loaded)
        if loaded.sha256 != then.sha256:
            raise UserError(
                f"The run began with other weights of --weights={then.used}: SHA-256 "
                f"{then.sha256}. Received: {loaded.sha256}; give --overwrite to start "
                "again"
            )
        return then


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that a result may depend on."""
    return find_versions(_PACKAGES)


def load_record(paths: RunPaths) -> RunRecord:
    """Reads run.json, if there is one; a UserError if it is damaged or too new."""
    if not paths.record.exists():
        return RunRecord()
    try:
        record = _from_json(read_json(paths.record, RunRecord))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{paths.record} is damaged: {reason}. Give --overwrite to start again; "
            "the old run is kept until the new one has a model."
        ) from error
    if record.format_version > FORMAT_VERSION:
        raise UserError(
            f"{paths.record} must have a format version of at most {FORMAT_VERSION}. "
            f"Received: {record.format_version}; use the version of keras_ft that "
            "began the run, or a newer one"
        )
    return record


def write_record(paths: RunPaths, record: RunRecord, state: str) -> None:
    """Writes run.json; the record gets another state."""
    record.state = state
    files.write_json(paths.record, dataclasses.asdict(record))


def _from_json(content: dict[str, Any]) -> RunRecord:
    for name, known in _VALUES.items():
        if (value := content.get(name)) not in known:
            raise ValueError(f"{name} can't be {value}")
    weights = content["weights"]
    return RunRecord(
        state=content["state"],
        weights=Weights(**weights | {"attempts": tuple(weights["attempts"])}),
        image_size=content.get("image_size", ""),
        epochs=content["epochs"],
        precision=content["precision"],
        devices=tuple(content["devices"]),
        packages=content["packages"],
        onednn=content.get("onednn"),
        sources=content.get("sources", {}),
        early_exports=content.get("early_exports", {}),
        format_version=content.get("format_version", 0),
    )
