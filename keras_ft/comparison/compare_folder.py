"""The workdir of a comparison: its start and resumption, and the runs in it.

WORKDIR/
  flags.cfg      the flags of the comparison, which each run changes by its setting
  splits.csv     the splits of all runs
  runs/NAME/     the workdir of a run, runs/NAME.log what it printed
  compare.json   the results, see `summary.to_json`
  compare.html   the results as a page
"""

from collections.abc import Sequence
from pathlib import Path

from keras_ft.comparison import sweep
from keras_ft.comparison.ranking import Result
from keras_ft.comparison.sweep import Run
from keras_ft.config import flags
from keras_ft.config.schema import DataConfig
from keras_ft.config.settings import Config
from keras_ft.data.examples import Dataset
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.runs import overwrite
from keras_ft.runs.paths import RunPaths
from keras_ft.runs.record import load_record
from keras_ft.runs.run_metrics import load_metrics
from keras_ft.runs.same_images import check_same_data
from keras_ft.runs.split_tables import write_splits
from keras_ft.runs.user_sources import check_same_sources, hash_sources
from keras_ft.runs.workdir import load_config

_NAMES = ("flags.cfg", "splits.csv", "runs", "compare.json", "compare.html")
_NAMES_OF_RUN = ("run.json", "checkpoints", "export", "model.keras")


def can_resume(config: Config, folder: Path) -> bool:
    """Whether the workdir contains the requested comparison; if not, it can begin.

    Raises:
        UserError: The workdir contains a comparison with other flags, or other files
            that a comparison would overwrite.
    """
    overwrite.move_back(folder)
    paths = RunPaths(folder)
    exists = paths.flags.exists()
    names = _NAMES_OF_RUN if exists else (*_NAMES_OF_RUN, *_NAMES)
    in_the_way = [name for name in names if (folder / name).exists()]
    if in_the_way:
        raise UserError(
            "--workdir must be new or contain a comparison. Received: "
            f"{folder} with {', '.join(in_the_way)}"
        )
    if not exists or config.run.overwrite:
        return False
    before = flags.load_flagfile(
        paths.flags, mode="compare", workdir=str(folder), sweep=config.compare.sweep
    )
    changed = flags.differences(before, config)
    if changed:
        raise UserError(
            f"{folder} contains a comparison with other flags: "
            f"{'; '.join(changed.values())}. Only --sweep and --seeds may change. Give "
            "another --workdir, or --overwrite to replace it."
        )
    return paths.splits.exists()


def check_images(folder: Path, data: DataConfig) -> None:
    """Raises a UserError if a comparison's images have changed since it began."""
    check_same_data(
        RunPaths(folder).splits,
        load_config(folder).data,
        data,
        "Restore them, give another --workdir, or --overwrite to replace it.",
    )


def begin(config: Config, folder: Path, splits: Dataset) -> None:
    """Writes flags.cfg and splits.csv; `--overwrite` moves an old comparison aside."""
    paths = RunPaths(folder)
    with files.writing():
        if config.run.overwrite:
            overwrite.move_aside(folder, _NAMES)
        # First: with this file the folder contains a comparison.
        files.write_text(paths.flags, flags.to_flagfile(config))
        write_splits(paths.splits, splits)


def find_existing(runs: Sequence[Run], folder: Path) -> list[Run]:
    """The runs, with the workdirs of those that were part of an earlier sweep.

    A run is identified by its flags, not by its name: the runs of a sweep over
    `unfreeze` also serve a sweep over `unfreeze` and `backbone`.

    Raises:
        UserError: The user's own code has changed since one of them began.
    """
    existing = {
        sweep.identity(load_config(record.parent)): record.parent
        for record in sorted(folder.glob("runs/*/run.json"))
    }
    found = []
    for run in runs:
        workdir = existing.get(sweep.identity(run.config))
        if workdir:
            sources = load_record(RunPaths(workdir)).sources
            check_same_sources(workdir, sources, hash_sources(run.config))
        config = run.config.replace(workdir=str(workdir or run.workdir))
        found.append(Run(run.setting, config))
    return found


def load_result(run: Run, error: str = "") -> Result:
    """Reads the result of a run; `error` says why it failed, unless it finished."""
    metrics = load_metrics(RunPaths(run.workdir))
    error = "" if metrics else error
    return Result(run.workdir, run.setting, run.config.run.seed, metrics, error)
