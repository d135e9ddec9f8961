"""run.json: what was resolved when a run began, and the state of the run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_ft.catalog.backbones import Weights
from keras_ft.catalog.formats import SAVED_MODEL
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.runs.paths import RunPaths

# To be raised when the files of a workdir change their meaning.
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run's record.

    Attributes:
        state: `running` or `finished`.
        weights: The initial weights.
        epochs: Maximum number of epochs of each phase, by name.
        precision: Name of a Keras dtype policy.
        devices: Names of the physical devices.
        packages: Versions of packages, None for one that runs from a checkout.
        onednn: Whether TensorFlow used oneDNN; None for runs of earlier versions, which
            left that to TensorFlow.
        exported: The newest version in each format that a finished run already had
            when it was resumed for more epochs; empty for other runs.
        format_version: `FORMAT_VERSION` of the program that began the run; 0 before
            there was one.
    """

    state: str
    weights: Weights
    epochs: Mapping[str, int]
    precision: str
    devices: tuple[str, ...]
    packages: Mapping[str, str | None]
    onednn: bool | None = None
    exported: Mapping[str, int] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def load_record(paths: RunPaths) -> RunRecord | None:
    """Reads run.json; None if there is none.

    Raises:
        UserError: The file is damaged, or of a newer version of this program.
    """
    if not paths.record.exists():
        return None
    try:
        content = files.read_json(paths.record)
        record = _from_json(content)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{paths.record} is damaged: {error}. Give --overwrite to start again; the "
            "old run is kept until the new one has a model."
        ) from error
    if record.format_version > FORMAT_VERSION:
        raise UserError(
            f"{paths.record} must have a format version of at most {FORMAT_VERSION}. "
            f"Received: {record.format_version}; use the version of keras_ft that "
            "began the run, or a newer one"
        )
    return record


def write_record(paths: RunPaths, record: RunRecord) -> None:
    """Writes run.json."""
    files.write_json(paths.record, dataclasses.asdict(record))


def _from_json(content: dict[str, Any]) -> RunRecord:
    weights = content["weights"]
    exported = content.get("exported", {})
    if isinstance(exported, int):  # of an earlier version, which had one format
        exported = {SAVED_MODEL: exported} if exported else {}
    return RunRecord(
        state=content["state"],
        weights=Weights(**{**weights, "attempts": tuple(weights["attempts"])}),
        epochs=content["epochs"],
        precision=content["precision"],
        devices=tuple(content["devices"]),
        packages=content["packages"],
        onednn=content.get("onednn"),
        exported=exported,
        format_version=content.get("format_version", 0),
    )
