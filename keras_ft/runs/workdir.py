"""The life of a run in its workdir: start, resumption, end."""

import dataclasses
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from keras_ft.catalog.formats import FORMATS
from keras_ft.config import flags
from keras_ft.config.config import Config
from keras_ft.data.examples import Examples, Finding
from keras_ft.data.tables import read_table
from keras_ft.errors import UserError
from keras_ft.host import files
from keras_ft.runs.lock import writing
from keras_ft.runs.overwrite import move_aside, move_back
from keras_ft.runs.paths import AUDIT, NAMES, RunPaths
from keras_ft.runs.record import RunRecord, load_record, write_record
from keras_ft.runs.run_metrics import RunMetrics, load_metrics
from keras_ft.runs.split_tables import split_rows, write_audit, write_splits

log = logging.getLogger("keras_ft")

_KINDS = {"finished": "a finished", "running": "an unfinished"}


def load_config(folder: Path) -> Config:
    """The config of the run in a workdir.

    Raises:
        UserError: The folder contains no run.
    """
    path = RunPaths(folder).flags
    if not path.exists():
        raise UserError(f"A workdir contains flags.cfg. Received: {folder} without it")
    config = flags.load_flagfile(path, workdir=str(folder))
    # Earlier versions had no such flag and mirrored whatever they augmented.
    is_old = "--mirror=" not in path.read_text(errors="surrogateescape")
    return config.replace(mirror=config.data.augment != "none") if is_old else config


def load_finished(config: Config, is_chief: bool = True) -> RunMetrics | None:
    """Reads the metrics if the workdir contains the requested run, finished.

    Args:
        config: The requested run.
        is_chief: Whether this is the process that may write in the workdir. Defaults
            to True.

    Returns:
        The finished run's metrics, or None if a run can begin or resume.

    Raises:
        UserError: The workdir contains another run, or other files that a run would
            overwrite.
    """
    folder = Path(config.run.workdir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir must be a folder. Received: {folder}, a file")
    if is_chief:
        move_back(folder)
    paths = RunPaths(folder)
    if not paths.record.exists():
        _check_no_files_in_the_way(folder)
        return None
    if config.run.overwrite:
        return None
    record = _load_record(paths)
    previous = load_config(folder)
    changed = flags.differences(previous, config)
    if changed and _requests_more_epochs(config, previous, paths, set(changed)):
        return None
    if changed:
        raise UserError(
            f"{folder} contains {_KINDS[record.state]} run with other flags: "
            f"{'; '.join(changed.values())}. Give another --workdir, or --overwrite to "
            "replace it."
        )
    return load_metrics(paths)


def load_unfinished(config: Config) -> RunRecord | None:
    """The record of the run to resume, or None if there is none.

    It may be that of a finished run, of which the config requests more epochs.

    Args:
        config: The requested run, which `load_finished` has accepted.
    """
    if config.run.overwrite:
        return None
    return load_record(RunPaths(config.run.workdir))


def begin_or_resume(
    config: Config,
    examples: Examples,
    findings: Iterable[Finding],
    record: RunRecord,
    unfinished: RunRecord | None,
) -> RunPaths:
    """Makes the workdir of a new run, or checks that of a run to resume.

    Of a new run flags.cfg, splits.csv, audit.csv and run.json are written. An old run,
    which only `--overwrite` lets `load_finished` accept, is moved aside.

    Args:
        config: The requested run.
        examples: The examples in their splits.
        findings: The audit's findings.
        record: What was resolved.
        unfinished: What `load_unfinished` returned.

    Returns:
        The files of the workdir.

    Raises:
        UserError: The folder can't be written, or the examples of the run to resume
            have changed.
    """
    paths = RunPaths(config.run.workdir)
    if unfinished:
        _check_same_splits(paths, examples)
        if unfinished.state == "finished":
            _reopen(config, paths, record)
        else:
            write_record(paths, record)
        log.info("Resumes the unfinished run in %s.", paths.folder)
        return paths
    with writing():
        paths.folder.mkdir(parents=True, exist_ok=True)
        move_aside(paths.folder)
        files.write_text(paths.flags, flags.to_flagfile(config))
        write_splits(paths.splits, examples)
        write_audit(paths.audit, findings)
        # Last: with this file the folder contains a run.
        write_record(paths, record)
    return paths


def write_table(config: Config, text: str) -> Path:
    """Writes a table of examples to the workdir, for a run that begins or resumes.

    Returns:
        Its path.

    Raises:
        UserError: The workdir contains a run on another table, or can't be written.
    """
    paths = RunPaths(config.run.workdir)
    content = text.encode("utf-8", "surrogateescape")
    with writing():
        if paths.table.exists() and paths.table.read_bytes() == content:
            return paths.table
        if paths.record.exists() and not config.run.overwrite:
            raise UserError(
                f"{paths.folder} contains a run on other rows than those of table. "
                "Give them, another workdir, or overwrite=True to replace the run."
            )
        paths.folder.mkdir(parents=True, exist_ok=True)
        with files.replacing(paths.table) as partial:
            partial.write_bytes(content)
    return paths.table


def finish(paths: RunPaths, metrics: RunMetrics) -> None:
    """Writes metrics.json and marks the run as finished."""
    files.write_json(paths.metrics, metrics)
    write_record(paths, dataclasses.replace(_load_record(paths), state="finished"))


def remove_unfinished_exports(paths: RunPaths) -> None:
    """Removes what a run exported before it was killed, and nothing older."""
    before = _load_record(paths).exported
    for name in FORMATS:
        for version in paths.exported_versions(name):
            if version > before.get(name, 0):
                shutil.rmtree(paths.export / name / str(version))
    for partial in paths.export.glob(f"{files.PARTIAL}*"):
        shutil.rmtree(partial)


def _check_no_files_in_the_way(folder: Path) -> None:
    # --mode=check may have written an audit.csv before.
    in_the_way = [n for n in NAMES if n != AUDIT and (folder / n).exists()]
    if in_the_way:
        raise UserError(
            "--workdir must be new or contain a run. Received: "
            f"{folder} with {', '.join(in_the_way)} but no run.json"
        )


def _check_same_splits(paths: RunPaths, examples: Examples) -> None:
    """Raises a UserError if an unfinished run had other examples or splits."""
    columns = [task.name for task in examples.tasks]
    rows = read_table(str(paths.splits), columns)
    then = {(row.path, *row.labels, row.split, row.group) for _, row in rows}
    now = set(split_rows(examples))
    if then != now:
        raise UserError(
            f"The images have changed since the run in {paths.folder} began: of "
            f"{len(now)} rows of splits.csv, {len(now - then)} would differ. Restore "
            "the images, or give --overwrite to start again."
        )


def _load_record(paths: RunPaths) -> RunRecord:
    record = load_record(paths)
    if record is None:
        raise UserError(f"{paths.folder} contains no run: {paths.record} is missing.")
    return record


def _requests_more_epochs(
    config: Config, previous: Config, paths: RunPaths, changed: set[str]
) -> bool:
    """Whether a config differs from a run's in more epochs of its last phase only."""
    if not changed <= {"head_epochs", "finetune_epochs"}:
        return False
    rows = read_table(str(paths.splits))
    num_train = sum(row.split == "train" for _, row in rows)
    *then, last = previous.make_phases(num_train)
    *now, requested = config.make_phases(num_train)
    more = requested.epochs > last.epochs
    return more and (now, requested.name) == (then, last.name)


def _reopen(config: Config, paths: RunPaths, record: RunRecord) -> None:
    """Turns a run into one that resumes its last phase, for more epochs."""
    log.info("Resumes the run in %s for more epochs.", paths.folder)
    last = list(record.epochs)[-1]
    (paths.checkpoints / f"{last}.npz").unlink(missing_ok=True)
    exported = {
        name: max(versions)
        for name in FORMATS
        if (versions := paths.exported_versions(name))
    }
    write_record(paths, dataclasses.replace(record, state="running", exported=exported))
    files.write_text(paths.flags, flags.to_flagfile(config))
