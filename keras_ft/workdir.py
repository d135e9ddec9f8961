"""The life of a run: what its workdir holds, and whether it may be written."""

import csv
import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from keras_ft import flags
from keras_ft.config import Config, UserError
from keras_ft.data import Split, Splits
from keras_ft.sources import SPLIT_NAMES, Finding, identity, read_table

log = logging.getLogger("keras_ft")

# Everything that a run writes.
NAMES = (
    "flags.cfg",
    "run.json",
    "splits.csv",
    "audit.csv",
    "history.csv",
    "metrics.json",
    "model.keras",
    "export",
    "tensorboard",
)
# Where `--overwrite` keeps the old run until the new one has a model.
_PREVIOUS = "previous"


def load_finished(config: Config) -> dict[str, Any] | None:
    """Looks whether the workdir holds this very run, finished.

    Args:
        config: What is asked for.

    Returns:
        The finished run's metrics, or None if a run can start.

    Raises:
        UserError: The workdir holds another run, an unfinished one, or other files
            that a run would overwrite.
    """
    folder = Path(config.run.workdir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir must be a folder. Received: {folder}, a file")
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
    if read_json(folder / "run.json")["state"] != "finished":
        raise UserError(
            f"The run in {folder} did not finish, and can't be resumed yet. Give "
            "--overwrite to start it anew, or another --workdir."
        )
    changed = flags.differences(load_config(folder), config)
    if changed:
        raise UserError(
            f"{folder} holds a finished run with other flags: {'; '.join(changed)}. "
            "Give another --workdir, or --overwrite to replace it."
        )
    return read_json(folder / "metrics.json")


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


def leave_out_seen(split: Split, model: Path) -> Split:
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
    splits: Splits,
    findings: Iterable[Finding],
    resolved: dict[str, Any],
) -> Path:
    """Makes the workdir and writes flags.cfg, run.json, splits.csv and audit.csv.

    An old run, which only `--overwrite` lets pass `load_finished`, is moved aside.

    Args:
        config: What was asked for.
        splits: The examples.
        findings: What the audit found.
        resolved: What became of it, for run.json: weights, devices, versions.

    Returns:
        The workdir.

    Raises:
        UserError: The folder can't be written.
    """
    folder = Path(config.run.workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _move_aside(folder)
        write_text(folder / "flags.cfg", flags.to_flagfile(config))
    except OSError as error:
        raise UserError(
            f"--workdir must be a folder that can be written. Received: {error}"
        ) from error
    write_json(folder / "run.json", {"state": "running", **resolved})
    _write_splits(folder / "splits.csv", splits)
    write_audit(folder / "audit.csv", findings)
    return folder


def finish(folder: Path, metrics: dict[str, Any]) -> None:
    """Writes metrics.json and marks the run as finished."""
    write_json(folder / "metrics.json", metrics)
    run = read_json(folder / "run.json")
    write_json(folder / "run.json", {**run, "state": "finished"})


def forget_previous(folder: Path) -> None:
    """Removes the old run that `--overwrite` moved aside, if there is one."""
    shutil.rmtree(folder / _PREVIOUS, ignore_errors=True)


def _move_aside(folder: Path) -> None:
    previous = folder / _PREVIOUS
    # Where `previous` exists, the run now in the workdir never got a model: the run
    # that is worth keeping is the one put aside before.
    keep = not previous.exists()
    for name in NAMES:
        if not (folder / name).exists():
            continue
        if keep:
            previous.mkdir(exist_ok=True)
            os.replace(folder / name, previous / name)
        elif (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink()


def _write_splits(path: Path, splits: Splits) -> None:
    table = splits.examples
    rows = [("path", "label", "split", "group")]
    for name in (*SPLIT_NAMES, "skipped", "unused"):
        part = table.take(table.splits == name)
        labels = (table.class_names[label] for label in part.labels)
        rows += zip(part.paths, labels, part.splits, part.groups, strict=True)
    write_csv(path, rows)


def write_audit(path: Path, findings: Iterable[Finding]) -> None:
    """Writes findings as a CSV file."""
    rows = ((finding.path, finding.name, finding.detail) for finding in findings)
    write_csv(path, itertools.chain([("path", "finding", "detail")], rows))


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    # File names need not be valid UTF-8.
    with open(
        partial, "w", newline="", encoding="utf-8", errors="surrogateescape"
    ) as stream:
        csv.writer(stream).writerows(rows)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
