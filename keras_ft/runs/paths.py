"""The files of a workdir, by name."""

import dataclasses
from pathlib import Path

# A finding of `--mode=check` may be here before a run begins.
AUDIT = "audit.csv"
SPLITS = "splits.csv"
# Everything that a run writes.
NAMES = (
    "flags.cfg",
    "run.json",
    SPLITS,
    AUDIT,
    "history.csv",
    "metrics.json",
    "report.html",
    "model.keras",
    "backbone.weights.h5",
    "checkpoints",
    "export",
    "tensorboard",
)


@dataclasses.dataclass(frozen=True)
class RunPaths:
    """Where a run's files are.

    Attributes:
        folder: The workdir.
    """

    folder: Path

    @property
    def flags(self) -> Path:
        """Every flag as requested."""
        return self.folder / "flags.cfg"

    @property
    def record(self) -> Path:
        """What was resolved, and the state of the run; see `RunRecord`."""
        return self.folder / "run.json"

    @property
    def splits(self) -> Path:
        """The split of every example."""
        return self.folder / SPLITS

    @property
    def audit(self) -> Path:
        """The findings about the data."""
        return self.folder / AUDIT

    @property
    def history(self) -> Path:
        """One row per epoch."""
        return self.folder / "history.csv"

    @property
    def metrics(self) -> Path:
        """The results; see `RunMetrics`."""
        return self.folder / "metrics.json"

    @property
    def report(self) -> Path:
        """The results as a page."""
        return self.folder / "report.html"

    @property
    def model(self) -> Path:
        """The best model so far, at the end the calibrated one."""
        return self.folder / "model.keras"

    @property
    def backbone(self) -> Path:
        """The backbone's weights, if it was trained from random ones."""
        return self.folder / "backbone.weights.h5"

    @property
    def checkpoints(self) -> Path:
        """What an unfinished run needs to resume."""
        return self.folder / "checkpoints"

    @property
    def saved_model(self) -> Path:
        """The versions of the SavedModel, 1/, 2/, ..."""
        return self.folder / "export" / "saved_model"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's logs."""
        return self.folder / "tensorboard"

    @property
    def lock(self) -> Path:
        """Locked by the process that works here."""
        return self.folder / ".lock"

    @property
    def previous(self) -> Path:
        """The run that `--overwrite` replaces, until the new one has a model."""
        return self.folder / "previous"

    def exported_versions(self) -> list[int]:
        """Numbers of the SavedModel's versions, ascending."""
        versions = self.saved_model.glob("*/")
        return sorted(int(path.name) for path in versions if path.name.isdigit())
