"""The files of a workdir, by name."""

from pathlib import Path

from keras_ft.catalog.archive import MODEL

# A finding of `--mode=check` may be here before a run begins.
AUDIT = "audit.csv"
SPLITS = "splits.csv"
# Everything that a run writes, except what must survive `--overwrite`.
NAMES = tuple(
    f"flags.cfg run.json {SPLITS} {AUDIT} history.csv metrics.json report.html {MODEL} "
    "backbone.weights.h5 checkpoints export tensorboard".split()
)


class RunPaths:
    """Where a run's files are in its workdir."""

    def __init__(self, folder: str | Path):
        self.folder = folder = Path(folder)
        self.flags = folder / "flags.cfg"  # as requested
        self.record = folder / "run.json"  # a `RunRecord`
        self.splits = folder / SPLITS
        self.audit = folder / AUDIT  # the findings about the data
        self.history = folder / "history.csv"  # one row per epoch
        self.metrics = folder / "metrics.json"  # `RunMetrics`
        self.report = folder / "report.html"
        # Not among `NAMES`: a user edits it, so it stays with `--overwrite`.
        self.model_card = folder / "model_card.md"
        # The best model so far, at the end the calibrated one.
        self.model = folder / MODEL
        # Only if the backbone was trained from random weights.
        self.backbone = folder / "backbone.weights.h5"
        # What an unfinished run needs to resume.
        self.checkpoints = folder / "checkpoints"
        # Has a folder for each format, and in it one for each version, 1/, 2/.
        self.export = folder / "export"
        self.tensorboard = folder / "tensorboard"
        self.lock = folder / ".lock"  # held by the process that works here
        # The run that `--overwrite` replaces, until the new one has a model.
        self.previous = folder / "previous"

    def exported_versions(self, name: str) -> list[int]:
        """Numbers of the versions in a format, ascending."""
        versions = (self.export / name).glob("*/")
        return sorted(int(path.name) for path in versions if path.name.isdigit())
