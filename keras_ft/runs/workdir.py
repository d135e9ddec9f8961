"""The life of a run: what its workdir holds, and whether it may be written."""

import contextlib
import dataclasses
import fcntl
import itertools
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_ft.config import flags
from keras_ft.config.schema import Config
from keras_ft.data.examples import SPLIT_NAMES, Examples, Finding
from keras_ft.data.sources import SPLITS_CSV, identity, read_table
from keras_ft.errors import UserError
from keras_ft.system import files

log = logging.getLogger("keras_ft")

# Everything that a run writes.
NAMES = (
    "flags.cfg",
    "run.json",
    "splits.csv",
    "audit.csv",
    "history.csv",
    "metrics.json",
    "report.html",
    "model.keras",
    "backbone.weights.h5",
    "checkpoints",
    "export",
    "tensorboard",
)
# Where `--overwrite` keeps the old run until the new one has a model.
_PREVIOUS = "previous"
_MOVING = ".moving"
_LOCK = ".lock"


def load_finished(config: Config) -> dict[str, Any] | None:
    """Looks whether the workdir holds this very run, finished.

    Args:
        config: What is asked for.

    Returns:
        The finished run's metrics, or None if a run can start or go on.

    Raises:
        UserError: The workdir holds another run, or other files that a run would
            overwrite.
    """
    folder = Path(config.run.workdir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir must be a folder. Received: {folder}, a file")
    move_back(folder)
    if not (folder / "run.json").exists():
        # --mode=check may have written an audit.csv there before.
        in_the_way = [n for n in NAMES if n != "audit.csv" and (folder / n).exists()]
        if in_the_way:
            raise UserError(
                "--workdir must be new or hold a run. Received: "
                f"{folder} with {', '.join(in_the_way)} but no run.json"
            )
        return None
    if config.run.overwrite:
        return None
    run = _read_run(folder)
    changed = flags.differences(load_config(folder), config)
    if changed and _asks_for_more(config, folder):
        _reopen(config, folder, run)
        return None
    if changed:
        raise UserError(
            f"{folder} holds {_KINDS[run['state']]} run with other flags: "
            f"{'; '.join(changed)}. Give another --workdir, or --overwrite to replace "
            "it."
        )
    return load_metrics(folder)


def _asks_for_more(config: Config, folder: Path) -> bool:
    """Whether a config differs from a run's in more epochs of its last phase only."""
    rows = read_table(str(folder / SPLITS_CSV))
    num_train = sum(split == "train" for _, (_, _, split, _) in rows)
    asked = config.with_epochs(num_train)
    then = load_config(folder).with_epochs(num_train)
    last = then.phases[-1]
    if [p.name for p in asked.phases] != [p.name for p in then.phases]:
        return False
    more = asked.phases[-1].epochs
    train = dataclasses.replace(then.train, **{f"{last.name}_epochs": more})
    then = dataclasses.replace(then, train=train)
    return more > last.epochs and not flags.differences(then, asked)


def _reopen(config: Config, folder: Path, run: dict[str, Any]) -> None:
    """Makes a run one that goes on with more epochs in its last phase."""
    log.info("The run in %s goes on with more epochs.", folder)
    last = config.phases[-1].name
    (folder / "checkpoints" / f"{last}.npz").unlink(missing_ok=True)
    exported = max(map(int, _exported(folder)), default=0)
    run = {**run, "state": "running", "exported": exported}
    files.write_json(folder / "run.json", run)
    files.write_text(folder / "flags.cfg", flags.to_flagfile(config))


_KINDS = {"finished": "a finished", "running": "an unfinished"}


def load_metrics(folder: Path) -> dict[str, Any] | None:
    """The metrics of a finished run, or None if the folder holds none.

    Raises:
        UserError: The folder's run.json is damaged.
    """
    if not (folder / "run.json").exists() or _read_run(folder)["state"] != "finished":
        return None
    return files.read_json(folder / "metrics.json")


def load_unfinished(config: Config) -> dict[str, Any] | None:
    """What run.json says of a run that can go on, or None if there is none."""
    folder = Path(config.run.workdir)
    if config.run.overwrite or not (folder / "run.json").exists():
        return None
    run = _read_run(folder)
    return run if run["state"] == "running" else None


def _read_run(folder: Path) -> dict[str, Any]:
    try:
        run = files.read_json(folder / "run.json")
        return run | {"state": run["state"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'run.json'} is damaged: {error}. Give --overwrite to start "
            "anew; the old run is kept until the new one has a model."
        ) from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a workdir.

    The system forgets the lock with the process that holds it, however that ends.

    Raises:
        UserError: Another process has it, or the folder can't be written.
    """
    is_new = not folder.exists()
    with writing():
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(folder / _LOCK, "a")  # noqa: SIM115
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process works in {folder}. Wait for it, or give another "
                "--workdir."
            ) from None
        try:
            yield
        finally:
            # A mistake in flags or data leaves nothing behind.
            if is_new and os.listdir(folder) == [_LOCK]:
                shutil.rmtree(folder)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """In this block, that a file of the workdir can't be written is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--workdir must be a folder that can be written. Received: {error}"
        ) from error


def find_model(path: Path) -> Path:
    """Finds what a `--model` names.

    Args:
        path: A workdir, an export/saved_model folder, one of its versions, or a
            .keras file.

    Returns:
        The .keras file or the folder of a SavedModel's version, of several the newest.

    Raises:
        UserError: There is none.
    """
    if path.suffix == ".keras" and path.is_file():
        return path
    if (path / "saved_model.pb").is_file():
        return path
    if (path / "model.keras").is_file():
        return path / "model.keras"
    versions = [p for p in path.glob("*/") if p.name.isdigit()]
    if versions:
        return max(versions, key=lambda version: int(version.name))
    raise UserError(
        "--model must be a workdir with a model.keras, an export/saved_model folder or "
        f"a .keras file. Received: {path}"
    )


def leave_out_seen(split: Examples, model: Path) -> Examples:
    """Leaves out examples that a model was trained or selected on.

    Args:
        split: Some examples.
        model: What `find_model` found. If it lies in a workdir, that workdir's
            splits.csv tells what was train and val; else nothing is left out.

    Raises:
        UserError: Nothing would be left.
    """
    # Of WORKDIR/export/saved_model/1, the workdir is the third parent.
    recorded = (folder / "splits.csv" for folder in model.absolute().parents[:3])
    recorded = next((path for path in recorded if path.is_file()), None)
    if recorded is None:
        return split
    seen = {
        identity(path)
        for _, (path, _, name, _) in read_table(str(recorded))
        if name in ("train", "val")
    }
    unseen = np.array([identity(path) not in seen for path in split.paths])
    if not unseen.any():
        raise UserError(
            "--data must have images that the model was not trained on. Received: "
            f"only images that {recorded} lists under train or val"
        )
    if not unseen.all():
        log.info(
            "Left out %d of %d images that the model was trained or selected on (%s).",
            np.sum(~unseen),
            len(split),
            recorded,
        )
    return split.take(unseen)


def check_output(output: str, overwrite: bool) -> None:
    """Raises a UserError if a file is there already, or can't be."""
    if not output:
        return
    if os.path.exists(output) and not overwrite:
        raise UserError(
            f"--output must not exist, or give --overwrite. Received: {output}"
        )
    if not os.path.isdir(os.path.dirname(os.path.abspath(output))):
        raise UserError(
            f"--output must lie in a folder that exists. Received: {output}"
        )


def load_config(folder: Path) -> Config:
    """The config of the run in a workdir.

    Raises:
        UserError: The folder holds no run.
    """
    path = folder / "flags.cfg"
    if not path.exists():
        raise UserError(f"A workdir holds flags.cfg. Received: {folder} without it")
    return flags.parse(["", f"--flagfile={path}", f"--workdir={folder}"])


def start(
    config: Config,
    splits: Examples,
    findings: Iterable[Finding],
    resolved: dict[str, Any],
    begun: dict[str, Any] | None = None,
) -> Path:
    """Makes the workdir and writes flags.cfg, splits.csv, audit.csv and run.json.

    An old run, which only `--overwrite` lets pass `load_finished`, is moved aside.

    Args:
        config: What was asked for.
        splits: The examples.
        findings: What the audit found.
        resolved: What became of it, for run.json: weights, devices, versions.
        begun: What `load_unfinished` gave: the run goes on.

    Returns:
        The workdir.

    Raises:
        UserError: The folder can't be written.
    """
    folder = Path(config.run.workdir)
    if begun:
        _check_same_splits(folder, splits)
        # The epochs may be more than they were.
        files.write_json(
            folder / "run.json", {**begun, "epochs": resolved.get("epochs")}
        )
        log.info("Goes on with the unfinished run in %s.", folder)
        return folder
    with writing():
        folder.mkdir(parents=True, exist_ok=True)
        move_aside(folder)
        files.write_text(folder / "flags.cfg", flags.to_flagfile(config))
        write_splits(folder / SPLITS_CSV, splits)
        write_audit(folder / "audit.csv", findings)
        # Last, for it makes a run of the folder.
        files.write_json(folder / "run.json", {"state": "running", **resolved})
    return folder


def _check_same_splits(folder: Path, splits: Examples) -> None:
    """Raises a UserError if an unfinished run had other examples or splits."""
    then = {row for _, row in read_table(str(folder / SPLITS_CSV))}
    now = set(_split_rows(splits))
    if then != now:
        raise UserError(
            f"The images have changed since the run in {folder} began: of {len(now)} "
            f"rows of splits.csv {len(now - then)} would be others. Restore them, "
            "or give --overwrite to start anew."
        )


def finish(folder: Path, metrics: dict[str, Any]) -> None:
    """Writes metrics.json and marks the run as finished."""
    files.write_json(folder / "metrics.json", metrics)
    run = files.read_json(folder / "run.json")
    files.write_json(folder / "run.json", {**run, "state": "finished"})


def forget_unfinished_exports(folder: Path) -> None:
    """Removes what a run exported before it was killed, not what was there before."""
    before = _read_run(folder).get("exported", 0)
    for version in _exported(folder):
        if int(version) > before:
            shutil.rmtree(folder / "export" / "saved_model" / version)
    for path in (folder / "export").glob(".exporting-*"):
        shutil.rmtree(path)


def _exported(folder: Path) -> list[str]:
    versions = (folder / "export" / "saved_model").glob("*/")
    return [path.name for path in versions if path.name.isdigit()]


def forget_previous(folder: Path) -> None:
    """Removes the old run that `--overwrite` moved aside, if there is one."""
    shutil.rmtree(folder / _PREVIOUS, ignore_errors=True)


def move_aside(folder: Path, names: Sequence[str] = NAMES) -> None:
    """Moves an old run into `previous`; if killed meanwhile, `move_back` undoes it."""
    old = [name for name in names if (folder / name).exists()]
    if (folder / _PREVIOUS).exists():
        # The run now in the workdir never got a model: the run that is worth keeping
        # is the one put aside before.
        for name in old:
            _remove(folder / name)
    elif old:
        moving = folder / _MOVING
        moving.mkdir()
        for name in old:
            os.replace(folder / name, moving / name)
        os.replace(moving, folder / _PREVIOUS)


def move_back(folder: Path) -> None:
    """Undoes a `move_aside` that was killed before its end."""
    moving = folder / _MOVING
    if moving.exists():
        for path in moving.iterdir():
            os.replace(path, folder / path.name)
        moving.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _split_rows(splits: Examples) -> Iterator[tuple[str, str, str, str]]:
    """The rows of splits.csv."""
    table = splits
    for name in (*SPLIT_NAMES, "skipped", "unused"):
        part = table.take(table.splits == name)
        labels = (table.class_names[label] for label in part.labels)
        yield from zip(part.paths, labels, part.splits, part.groups, strict=True)


def write_splits(path: Path, splits: Examples) -> None:
    """Writes the table of all examples, which `--data` takes."""
    header = ("path", "label", "split", "group")
    files.write_csv(path, itertools.chain([header], _split_rows(splits)))


def write_audit(path: Path, findings: Iterable[Finding]) -> None:
    """Writes findings as a CSV file."""
    rows = (
        (files.as_text(finding.path), finding.name, files.as_text(finding.detail))
        for finding in findings
    )
    files.write_csv(path, itertools.chain([("path", "finding", "detail")], rows))
