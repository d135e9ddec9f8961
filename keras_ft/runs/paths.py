"""The files of a workdir, by name."""

from pathlib import Path

from keras_ft.catalog.archive import MODEL

# A finding of `--mode=check` may be here before a run begins.
AUDIT = "audit.csv"
SPLITS = "splits.csv"
# Everything that a run writes.
NAMES = (
    *("flags.cfg", "run.json", SPLITS, AUDIT, "history.csv", "metrics.json"),
    *("report.html", MODEL, "backbone.weights.h5"),
    *("checkpoints", "export", "tensorboard"),
)


class RunPaths:
    """Where a run's files are.

    Args:
        folder: The workdir.

    Attributes:
        folder: The workdir.
        flags: Every flag as requested.
        record: What was resolved, and the state of the run; see `RunRecord`.
        splits: The split of every example.
        audit: The findings about the data.
        history: One row per epoch.
        metrics: The results; see `RunMetrics`.
        report: The results as a page.
        model_card: The results and limits for those who use the model. It is not among
            `NAMES`: a user edits it, so it stays with `--overwrite`.
        model: The best model so far, at the end the calibrated one.
        backbone: The backbone's weights, if it was trained from random ones.
        checkpoints: Folder of what an unfinished run needs to resume.
        export: Has a folder for each format, and in it one for each version, 1/, 2/.
        tensorboard: Folder of TensorBoard's logs.
        lock: Locked by the process that works here.
        table: The examples, if they were given in Python. Written before the run
            begins, so it is not among `NAMES` either.
        previous: The run that `--overwrite` replaces, until the new one has a model.
    """

    def __init__(self, folder: str | Path):
        self.folder = folder = Path(folder)
        self.flags = folder / "flags.cfg"
        self.record = folder / "run.json"
        self.splits = folder / SPLITS
        self.audit = folder / AUDIT
        self.history = folder / "history.csv"
        self.metrics = folder / "metrics.json"
        self.report = folder / "report.html"
        self.model_card = folder / "model_card.md"
        self.model = folder / MODEL
        self.backbone = folder / "backbone.weights.h5"
        self.checkpoints = folder / "checkpoints"
        self.export = folder / "export"
        self.tensorboard = folder / "tensorboard"
        self.lock = folder / ".lock"
        self.table = folder / "table.csv"
        self.previous = folder / "previous"

    def exported_versions(self, name: str) -> list[int]:
        """Numbers of the versions in a format, ascending."""
        versions = (self.export / name).glob("*/")
        return sorted(int(path.name) for path in versions if path.name.isdigit())
