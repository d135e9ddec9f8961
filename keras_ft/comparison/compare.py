"""Runs the grid of `--mode=compare`: one process per run, the same splits for all.

WORKDIR/
  flags.cfg      the flags of all runs, without those that are swept
  splits.csv     the splits of all runs
  runs/NAME/     the workdir of a run, runs/NAME.log what it printed
  compare.json   the result, see `compare_report.to_json`
  compare.html   the same for people
"""

import contextlib
import dataclasses
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from keras_ft.comparison import page as compare_page
from keras_ft.comparison import summary as compare_report
from keras_ft.comparison import sweep
from keras_ft.comparison.ranking import Result, monitored, show
from keras_ft.comparison.summary import Comparison
from keras_ft.comparison.sweep import Run
from keras_ft.config import flags
from keras_ft.config.config import Config
from keras_ft.data.dataset import load_splits
from keras_ft.data.examples import Examples
from keras_ft.data.tables import SPLITS_CSV
from keras_ft.errors import UserError
from keras_ft.runs import overwrite, tables, workdir
from keras_ft.runs.lock import locked, writing
from keras_ft.runs.metrics import load_metrics
from keras_ft.runs.paths import RunPaths
from keras_ft.system import files
from keras_ft.system.signals import child_process

log = logging.getLogger("keras_ft")

# Everything that a comparison writes.
NAMES = ("flags.cfg", SPLITS_CSV, "runs", "compare.json", "compare.html")


def compare(config: Config) -> Comparison:
    """Trains every setting with every seed, and ranks the settings.

    What is finished already is not trained again.

    Args:
        config: Flags of the comparison.

    Returns:
        All runs and their ranking.

    Raises:
        UserError: The sweep, the data or the workdir can't be used, or no run
            finished.
    """
    runs = sweep.plan_runs(config)
    folder = Path(config.run.workdir)
    with locked(folder):
        begin(config, folder)
        results = _run_all(runs, folder, config)
        comparison = _write(folder, config, results)
    if comparison.ranking is None:
        raise UserError(
            f"No run of the comparison finished. The first one: {results[0].error} "
            f"({folder / 'runs' / results[0].name}.log)"
        )
    return comparison


def begin(config: Config, folder: Path) -> None:
    """Makes the comparison's folder, or checks that it holds this comparison."""
    overwrite.move_back(folder)
    is_there = (folder / "flags.cfg").exists()
    _check_folder(folder, is_there)
    if is_there and not config.run.overwrite:
        _check_same(config, folder)
        if (folder / SPLITS_CSV).exists():
            return
    splits = _draw_splits(config)
    with writing():
        if config.run.overwrite:
            overwrite.move_aside(folder, NAMES)
        # First, for it makes a comparison of the folder.
        files.write_text(folder / "flags.cfg", flags.to_flagfile(config))
        tables.write_splits(folder / SPLITS_CSV, splits)


def _check_folder(folder: Path, is_comparison: bool) -> None:
    """Raises a UserError if a folder has what a comparison would overwrite."""
    of_run = ("run.json", "checkpoints", "export", "model.keras")
    names = of_run if is_comparison else (*of_run, *NAMES)
    in_the_way = [name for name in names if (folder / name).exists()]
    if in_the_way:
        raise UserError(
            "--workdir must be new or hold a comparison. Received: "
            f"{folder} with {', '.join(in_the_way)}"
        )


def _check_same(config: Config, folder: Path) -> None:
    then = flags.load_flagfile(
        folder / "flags.cfg",
        mode="compare",
        workdir=str(folder),
        sweep=config.compare.sweep,
    )
    changed = flags.differences(then, config)
    if changed:
        raise UserError(
            f"{folder} contains a comparison with other flags: "
            f"{'; '.join(changed.values())}. Only --sweep and --seeds may change. Give "
            "another --workdir, or --overwrite to replace it."
        )


def _draw_splits(config: Config) -> Examples:
    """The splits of all runs, with paths that can be read from their new place."""
    # Each run draws its own N per class, by its seed.
    data = dataclasses.replace(config.data, examples_per_class=0)
    with _without_gpus():
        examples = load_splits(data, config.run.seed)
    paths = [
        path if path.startswith(("builtin:", "tfds:")) else file
        for path, file in zip(examples.paths, examples.files, strict=True)
    ]
    return dataclasses.replace(examples, paths=np.array(paths, dtype=object))


@contextlib.contextmanager
def _without_gpus() -> Iterator[None]:
    """Hides them from TFDS, which starts TensorFlow here; the runs need all of them."""
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    os.environ[name] = "-1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _run_all(runs: Sequence[Run], folder: Path, config: Config) -> list[Result]:
    """Runs what is not finished; one that fails does not end the others."""
    results = load_results(runs, folder)
    done = sum(result.metrics is not None for result in results)
    log.info("Runs: %d, of which %d are finished.", len(runs), done)
    for i, (run, result) in enumerate(zip(runs, results, strict=True)):
        if result.metrics is None:
            results[i] = _run(run, folder, result)
            done += 1
            _log_progress(results[i], f"{done}/{len(runs)}", config.selection.monitor)
            if results[i].metrics:
                overwrite.remove_previous(folder)
            # Whoever stops a comparison has what there is so far.
            _write(folder, config, results)
    return results


def _write(folder: Path, config: Config, results: Sequence[Result]) -> Comparison:
    comparison = compare_report.make_comparison(folder, config, results)
    with writing():
        content = compare_report.to_json(comparison)
        files.write_json(folder / "compare.json", content)
        files.write_text(folder / "compare.html", compare_page.render(comparison))
    return comparison


def load_results(runs: Sequence[Run], folder: Path) -> list[Result]:
    """What is known of runs before they start. A run goes by its flags, not its name.

    So the runs of `unfreeze=none` serve a sweep over `unfreeze` and `backbone` too.
    """
    known = {
        sweep.identity(workdir.load_config(path.parent)): path.parent
        for path in sorted((folder / "runs").glob("*/run.json"))
    }
    results = []
    for run in runs:
        its = known.get(sweep.identity(run.config), Path(run.config.run.workdir))
        metrics = load_metrics(RunPaths(its))
        seed = run.config.run.seed
        results.append(Result(its.name, run.setting, seed, metrics))
    return results


def _run(run: Run, folder: Path, result: Result) -> Result:
    """Trains in a process of its own, which may die."""
    of_run = folder / "runs" / result.name
    with writing():
        of_run.parent.mkdir(exist_ok=True)
        stream = open(f"{of_run}.log", "ab+")  # noqa: SIM115
    with stream:
        begin = stream.seek(0, os.SEEK_END)
        arguments = flags.to_arguments(run.config)
        status = _wait([*arguments, f"--workdir={of_run}"], stream)
        stream.seek(begin)
        output = stream.read().decode(errors="replace")
    metrics = load_metrics(RunPaths(of_run))
    error = "" if metrics else _explain(status, output)
    return dataclasses.replace(result, metrics=metrics, error=error)


def _wait(arguments: Sequence[str], stream: BinaryIO) -> int:
    """Runs the program in a child process and returns its exit status."""
    # The child process can import whatever this one can.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "keras_ft", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONPATH": path},
        process_group=0,  # otherwise Ctrl-C would reach it twice and kill it
    )
    with child_process(process):
        # wait() would hold a lock that the signal handler needs to end the process.
        while process.poll() is None:
            time.sleep(0.1)
    return process.returncode


def _explain(status: int, output: str) -> str:
    """Why a run failed, in one line."""
    if status < 0:
        name = signal.Signals(-status).name
        hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
        return f"ended by {name}{hint}"
    # A mistake may stand behind an unfinished progress bar.
    mistakes = re.findall("keras_ft: (.*)", output)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return (mistakes or lines or [f"exit status {status}"])[-1]


def _log_progress(result: Result, count: str, monitor: str) -> None:
    if result.metrics is None:
        log.info("%s %s failed: %s", count, result.name, result.error)
        return
    value = show(monitored(result.metrics, monitor), monitor)
    seconds = result.metrics["seconds"]["total"]
    log.info("%s %s: %s %s, %.0f s", count, result.name, monitor, value, seconds)
