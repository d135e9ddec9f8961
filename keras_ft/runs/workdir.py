"""The life of a run in its workdir: start, resumption, end."""

import contextlib
import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from keras_ft.config import flags
from keras_ft.config.settings import Config
from keras_ft.data.examples import Dataset
from keras_ft.errors import UserError
from keras_ft.host import files, onednn
from keras_ft.runs.overwrite import move_aside, move_back
from keras_ft.runs.paths import AUDIT, NAMES, RunPaths
from keras_ft.runs.record import RunRecord, load_record, package_versions, write_record
from keras_ft.runs.run import Run
from keras_ft.runs.run_metrics import RunMetrics
from keras_ft.runs.same_images import (
    check_same_data,
    check_same_splits,
    relocate,
    without_place,
)
from keras_ft.runs.split_tables import list_rows, write_audit, write_splits
from keras_ft.runs.user_sources import check_same_sources, hash_sources
from keras_ft.system.team import Team

_KINDS = {"finished": "a finished", "running": "an unfinished"}
# What to do if images have changed since an unfinished run began.
RESTORE = "Restore them, or give --overwrite to start again."
# The checkpoint of an epoch of a phase, or the result of the phase.
_CHECKPOINT = re.compile(r"(head|finetune)(-\d+)?\.npz")


def load_config(folder: Path) -> Config:
    """The config of the run in a workdir; a UserError if there is none."""
    path = RunPaths(folder).flags
    if not path.exists():
        raise UserError(f"A workdir contains flags.cfg. Received: {folder} without it")
    config = flags.load_flagfile(path, workdir=str(folder))
    # Earlier versions had no such flag and mirrored whatever they augmented.
    is_old = "--mirror=" not in path.read_text(errors="surrogateescape")
    return config.replace(mirror=config.data.augment != "none") if is_old else config


def open_run(config: Config, team: Team) -> RunRecord:
    """Opens the workdir: for a new run, or for the one that it contains.

    Returns its record; a new one if there is none, or it is to be overwritten. Raises a
    UserError if the workdir contains another run, or files that a run would overwrite.
    """
    folder = Path(config.run.workdir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir must be a folder. Received: {folder}, a file")
    if team.is_chief:
        move_back(folder)  # if an overwriting was interrupted
    paths = RunPaths(folder)
    if not paths.record.exists():
        _check_no_files_in_the_way(folder)
    record = RunRecord() if config.run.overwrite else load_record(paths)
    if record.state == "new":
        return record
    recorded = load_config(folder)
    size = recorded.data.image_size
    if size and not record.image_size:  # an earlier version wrote what `auto` was
        record.image_size = str(size)
        config = config.replace(image_size=config.data.image_size or size)
    if changed := flags.differences(recorded, config):
        raise UserError(
            f"{folder} contains {_KINDS[record.state]} run with other flags: "
            f"{'; '.join(changed.values())}. Give another --workdir, or --overwrite to "
            "replace it."
        )
    if record.sources:
        check_same_sources(folder, record.sources, hash_sources(config))
    return record


def begin_or_resume(run: Run, dataset: Dataset) -> None:
    """Makes the workdir of a new run, or checks that of a run to resume.

    Of a new run flags.cfg, splits.csv, audit.csv and run.json are written. An old run,
    which only `--overwrite` lets `open_run` pass over, is moved aside.

    Raises:
        UserError: The folder can't be written, the examples of the run to resume have
            changed, or workers differ or are more than the images.
    """
    paths, team, record = run.paths, run.compute.team, run.record
    team.check_enough(min(len(dataset.examples.train), len(dataset.examples.val)))
    team.check_shared(paths.folder, "--workdir")
    team.check_same(
        {
            "flags": flags.shared_arguments(run.recipe.config),
            "images, labels and splits": map(without_place, list_rows(dataset)),
            "weights": [record.weights.used, record.weights.sha256],
            "precision": record.precision,
            "choice of oneDNN": onednn.is_on(),
            "versions of packages": package_versions(),
            "run to resume": record.state != "new",
        }
    )
    if record.state != "new":
        check_same_splits(paths.splits, dataset, RESTORE)
        if team.is_chief:
            relocate(paths.splits, dataset)
    elif team.is_chief:
        with files.writing():
            paths.folder.mkdir(parents=True, exist_ok=True)
            move_aside(paths.folder)
            files.write_text(paths.flags, flags.to_flagfile(run.recipe.config))
            write_splits(paths.splits, dataset)
            write_audit(paths.audit, dataset.findings)
            # Last: with this file the folder contains a run.
            write_record(paths, record, "running")
    team.wait()


def check_finished(config: Config) -> None:
    """Checks that a finished run has the images that `--data` names now.

    Raises:
        UserError: They have changed.
    """
    folder = Path(config.run.workdir)
    check_same_data(
        RunPaths(folder).splits,
        load_config(folder).data,
        config.data,
        "Give another --workdir to train on them, there with "
        f"--weights={folder} to go on from this model; or --overwrite to replace it.",
    )


def write_table(config: Config, text: str) -> Path:
    """Writes a table of examples to the workdir, to a file named by its content.

    So no run loses its table.
    """
    content = text.encode("utf-8", "surrogateescape")
    name = f"table-{hashlib.sha256(content).hexdigest()[:8]}.csv"
    path = Path(config.run.workdir, name)
    with files.writing():
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as partial:
            partial.write_bytes(content)
    return path


def finish(run: Run, metrics: RunMetrics) -> None:
    """Writes metrics.json and marks the run as finished."""
    files.write_json(run.paths.metrics, metrics)
    write_record(run.paths, run.record, "finished")


def remove_leftovers(paths: RunPaths) -> int:
    """Removes what a finished run no longer needs; returns the number of bytes.

    These are the checkpoints, and what processes that were killed had not finished
    writing: the caller holds the lock of the workdir, so no other one is writing.
    """
    folders = (paths.folder, paths.export, paths.checkpoints)
    found = [path for folder in folders for path in files.find_partial(folder)]
    checkpoints = paths.checkpoints.glob("*.npz")
    found += [path for path in checkpoints if _CHECKPOINT.fullmatch(path.name)]
    num_bytes = sum(map(files.count_bytes, found))
    for path in found:
        files.remove(path)
    with contextlib.suppress(OSError):  # it has files of the user, or there is none
        paths.checkpoints.rmdir()
    return num_bytes


def remove_exports(paths: RunPaths, early: Mapping[str, int]) -> None:
    """Removes what a run exported at its end before it was killed.

    The versions that `--mode=export` wrote before, `early` is the newest, stay.
    """
    for folder in paths.export.glob("*"):
        if folder.is_dir() and folder.name not in early:
            shutil.rmtree(folder)
    for name, newest in early.items():
        for version in paths.exported_versions(name):
            if version > newest:
                shutil.rmtree(paths.export / name / str(version))


def _check_no_files_in_the_way(folder: Path) -> None:
    # --mode=check may have written an audit.csv before.
    if in_the_way := [n for n in NAMES if n != AUDIT and (folder / n).exists()]:
        raise UserError(
            "--workdir must be new or contain a run. Received: "
            f"{folder} with {', '.join(in_the_way)} but no run.json"
        )
